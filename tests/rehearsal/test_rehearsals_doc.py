"""docs/rehearsals.md is a walk: its files are written and its commands run, one after the other, as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.needs import require

pytestmark = [pytest.mark.wall_clock(calm=True), pytest.mark.usefixtures("forked")]

DOC = Path(__file__).parents[2] / "docs" / "rehearsals.md"
BLOCK = re.compile(
    r"(?:<!-- (?P<note>[^>]*) -->\n)?(?:`(?P<file>[\w./]+)`:\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.S
)


def test_the_walk_goes_as_it_says(tmp_path: Path) -> None:
    require("espeak-ng")  # for the call that is made into a scenario
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("offhook", "pytest"):  # as those that are installed, by this Python
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {name} "$@"\n')
        (programs / name).chmod(0o755)
    environ = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(DOC.parents[1]),
        # Whether Offhook is installed or not, and without other plugins.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "-p offhook.gateway.rehearsal.pytest_plugin",
    }
    printed, run = "", 0
    for block in BLOCK.finditer(DOC.read_text(encoding="utf-8")):
        note, text = block["note"] or "", block["text"]
        if block["file"]:
            (tmp_path / block["file"]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block["file"]).write_text(text, encoding="utf-8")
        elif block["kind"] == "text":
            for line in text.splitlines():
                assert line in printed, f"{line!r} was not printed, but:\n{printed}"
        elif block["kind"] == "sh" and note != "not run":
            if note.startswith("edit: "):
                name, _, gone = note.removeprefix("edit: ").partition(": ")
                before = (tmp_path / name).read_text(encoding="utf-8")
                assert f"{gone}\n" in before
                (tmp_path / name).write_text(before.replace(f"{gone}\n", ""), encoding="utf-8")
            wanted = int(note.removeprefix("exit ")) if note.startswith("exit ") else 0
            for command in text.splitlines():
                ran = subprocess.run(
                    command, shell=True, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=180
                )
                printed = ran.stdout
                assert ran.returncode == wanted, f"{command}\n{ran.stdout}\n{ran.stderr}"
                run += 1
    assert run == 7
    assert (tmp_path / "out" / "simulate" / "index.html").is_file()
    assert (tmp_path / "results" / "calls.xml").is_file()
    workflow = yaml.safe_load((tmp_path / ".github" / "workflows" / "calls.yml").read_text())
    assert [step for step in workflow["jobs"]["rehearse"]["steps"] if "offhook simulate" in step.get("run", "")]


@pytest.mark.parametrize("command", re.findall(r"^offhook (\w[\w-]*)", DOC.read_text(encoding="utf-8"), re.M))
def test_every_command_of_the_page_exists(command: str) -> None:
    from offhook.gateway.cli.main import app

    names = {one.name or one.callback.__name__ for one in app.registered_commands if one.callback}
    assert command in names | {group.name for group in app.registered_groups}
