"""The wheel in an empty environment: beside a user's own `gateway.py`, `media.py` and `metrics.py`, and as the GitHub
action installs it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
import yaml

from tests.needs import require

ROOT = Path(__file__).parents[1]
OURS = ("gateway", "media", "metrics")
CLINIC = """
import gateway, media, metrics
from offhook import ToolContext, ToolError, tool

@tool
def count_people(ctx: ToolContext) -> int:
    '''How many people wait.'''
    return gateway.ANSWER + media.ANSWER + metrics.ANSWER
"""
AGENT = "name: clinic\ntools: [{function: 'clinic:count_people'}, {function: 'metrics:count_chairs'}]\n"
METRICS = "ANSWER = 1\n\ndef count_chairs() -> int:\n    '''How many chairs there are.'''\n    return 7\n"


def run(*command: str | Path, cwd: Path, timeout_s: float = 120) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-4_000:]
    return done.stdout


def with_dependencies(site: Path) -> None:
    """Those of this environment; the checkout's own path entry is not read."""
    (site / "dependencies.pth").write_text(str(Path(msgspec.__file__).parents[1]))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", out, ROOT, cwd=out)
    (made,) = out.glob("*.whl")
    return made


def test_one_top_level_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/")[0] for name in archive.namelist()}
        inside = {name.split("/")[1] for name in archive.namelist() if name.startswith("offhook/")}
    assert {name for name in names if not name.endswith(".dist-info")} == {"offhook"}
    assert inside == {*OURS, "__init__.py", "__main__.py", "py.typed"}


def test_it_is_the_same_from_another_copy(wheel: Path, tmp_path: Path) -> None:
    """Of the same commit: neither file times nor the folder's name are in it."""
    copy = tmp_path / "elsewhere"
    for name in (*OURS, "infra/package", "infra/haproxy"):
        shutil.copytree(ROOT / name, copy / name, copy_function=shutil.copyfile)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, copy / name)
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path, cwd=copy)
    (again,) = tmp_path.glob("*.whl")
    assert again.name == wheel.name
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert [(f.filename, f.CRC, f.external_attr) for f in one.filelist] == [
            (f.filename, f.CRC, f.external_attr) for f in other.filelist
        ]
    assert again.read_bytes() == wheel.read_bytes()


@pytest.mark.wall_clock(calm=True)
def test_demo_beside_a_users_own_modules(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    with_dependencies(site)
    for name in OURS:
        (home / f"{name}.py").write_text(METRICS if name == "metrics" else "ANSWER = 1\n")
    (home / "clinic.py").write_text(CLINIC)
    (home / "agent.yaml").write_text(AGENT)
    assert str(site) in run(python, "-c", "import offhook; print(offhook.__file__)", cwd=home)
    told = run(python, "-m", "offhook", "tools", "call", "agent.yaml", "count_people", cwd=home)
    assert "3" in told
    assert "7" in run(python, "-m", "offhook", "tools", "call", "agent.yaml", "count_chairs", cwd=home)
    demo = run(python, "-m", "offhook", "demo", "--json", "demo.json", cwd=home)
    assert (home / "demo.json").exists(), demo


ACTION = ROOT / "infra" / "github-action" / "action.yml"
CALL = """\
agent: {{name: anna, greeting: {{text: Hello}}}}
caller: {{steps: [{{wait_for_agent: end}}, hang_up]}}
model: {{replies: [{{on: text, say: Hello, length_ms: 600}}]}}
expect: {{end_reason: {ending}}}
"""


class Runner:
    """What GitHub does with the steps of a composite action: those that are scripts, with their inputs."""

    def __init__(self, folder: Path, given: dict[str, str]) -> None:
        action = yaml.safe_load(ACTION.read_text())
        self.steps: dict[str, dict[str, Any]] = {step["name"]: step for step in action["runs"]["steps"]}
        self.inputs = {name: one["default"] for name, one in action["inputs"].items()} | given
        assert given.keys() <= action["inputs"].keys()
        self.temp, self.work = folder / "temp", folder / "work"
        self.output, self.summary = folder / "output", folder / "summary"
        self.temp.mkdir()
        self.work.mkdir()

    def run(self, step: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        script = self.temp / "step.sh"
        script.write_text(self.steps[step]["run"])
        own = {name: self._evaluated(value) for name, value in self.steps[step]["env"].items()}
        files = {"GITHUB_OUTPUT": self.output, "GITHUB_STEP_SUMMARY": self.summary, "RUNNER_TEMP": self.temp}
        paths = {name: str(path) for name, path in {**files, "GITHUB_ACTION_PATH": ACTION.parent}.items()}
        assert self.steps[step]["shell"] == "bash"
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
            cwd=self.work,
            env={**os.environ, **paths, **own, **environ},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def _evaluated(self, value: str) -> str:
        (name,) = re.fullmatch(r"\$\{\{ inputs\.(\w+) \}\}", value).groups()  # type: ignore[union-attr]
        return self.inputs[name]


def test_no_input_of_the_action_is_text_of_a_script() -> None:
    """It would be run: a pull request may choose a scenario's name."""
    for step in yaml.safe_load(ACTION.read_text())["runs"]["steps"]:
        assert "${{" not in step.get("run", ""), step["name"]


@pytest.mark.wall_clock
def test_the_action_passes_and_fails_with_its_calls(wheel: Path, tmp_path: Path) -> None:
    require("bash", "espeak-ng")
    given = {"package": f"{wheel}[rehearsal]", "python": sys.executable, "args": "--speed 20"}
    runner = Runner(tmp_path, given)
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_COMPILE": "1"}
    installed = runner.run("Install", offline)
    assert installed.returncode == 0, installed.stderr
    (site,) = (runner.temp / "offhook" / "lib").glob("python*/site-packages")
    with_dependencies(site)

    (runner.work / "one.call.yaml").write_text(CALL.format(ending="caller_hung_up"))
    passed = runner.run("Simulate", {})
    assert passed.returncode == 0, passed.stdout
    (runner.work / "one.call.yaml").write_text(CALL.format(ending="agent_hung_up"))
    failed = runner.run("Simulate", {})
    assert failed.returncode == 1, failed.stdout
    assert "0 passed, 1 failed" in runner.summary.read_text()
    out = runner.work / dict(line.split("=") for line in runner.output.read_text().split())["out"]
    suite = ElementTree.parse(out / "calls.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    assert (out / "index.html").is_file()

    runner.inputs["scenarios"] = "$(touch ran) `touch ran` ;touch ran"
    assert runner.run("Simulate", {}).returncode == 2
    assert not (runner.work / "ran").exists()
