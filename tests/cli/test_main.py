"""The command line as an operator meets it: every mistake is one line with its cure and exit code 2."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from offhook.gateway.cli.main import app
from tests.rig.commands import offhook_here

AGENT = "name: a\ninstructions: Answer.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agent.yaml").write_text(AGENT)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "bytes.call.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "prices.yaml").write_text("a: [b\n")
    (tmp_path / "file").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["check", "bytes.yaml"], "bytes.yaml: is not text in UTF-8"),
        (["simulate", "bytes.call.yaml"], "bytes.call.yaml: is not text in UTF-8"),
        (["simulate", "goodbey"], "did you mean goodbye?"),
        (["simulate", "goodbye", "--out", "file/out"], "Not a directory"),
        (["simulate", "goodbye", "--junit", "file/junit.xml"], "file"),
        (["demo", "--out", "file"], "File exists"),
        (["load", "--out", "file/out"], "Not a directory"),
        (["faults", "16", "--json", "file/faults.json"], "file"),
        (["rehearsal-model", "--ca-out", "file/ca.pem"], "file"),
        (["rehearsal-model", "--host", "host.invalid"], "cannot listen on host.invalid"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(folder: Path, args: list[str], says: str) -> None:
    done = offhook_here(folder, *args)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("offhook: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_in_use_is_said(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = offhook_here(folder, "rehearsal-model", "--port", port)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_prices_that_are_no_yaml_are_one_line(folder: Path) -> None:
    done = offhook_here(folder, "check", "agent.yaml", OFFHOOK_PRICES="prices.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("offhook: OFFHOOK_PRICES: prices.yaml:2: ")
    assert done.stderr.count("\n") == 1


def test_check_goes_on_after_a_bad_file(folder: Path) -> None:
    done = offhook_here(folder, "check", "nowhere.yaml", "agent.yaml", "bytes.yaml")
    assert done.returncode == 2
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == ["nowhere.yaml", "bytes.yaml"]
    assert done.stdout.startswith("agent.yaml: ok")


def test_check_names_file_and_line_of_a_sound(folder: Path) -> None:
    (folder / "sound.yaml").write_text("name: a\ngreeting:\n  sound: gone.wav\n")
    done = offhook_here(folder, "check", "sound.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("offhook: sound.yaml:3: greeting.sound: gone.wav cannot be played")


def test_check_prints_model_problems_as_sentences(folder: Path) -> None:
    (folder / "voice.yaml").write_text("name: a\nvoice: kore\nmodel:\n  temperature: 3\n")
    done = offhook_here(folder, "check", "voice.yaml")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "offhook: voice.yaml:4: model.temperature: give a number from 0 to 2",
        "offhook: voice.yaml:2: voice: kore is not a voice of this model: did you mean Kore?",
    ]


def test_config_lists_variables_and_misspelt_ones(folder: Path) -> None:
    done = offhook_here(folder, "config", OFFHOOK_AGNET="agent.yaml", OFFHOOK_LISTS_DB="lists.db")
    assert done.returncode == 0
    assert "OFFHOOK_PUBLIC_URL" in done.stdout
    assert "OFFHOOK_AGNET is not a setting; did you mean OFFHOOK_AGENT?" in done.stderr
    assert "LISTS_DB" not in done.stderr


def test_config_masks_the_key_of_the_model(folder: Path) -> None:
    done = offhook_here(folder, "config", GEMINI_API_KEY="canary-1", GOOGLE_GEMINI_BASE_URL="http://localhost:9")
    shown = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if len(line.split()) > 1)
    assert shown["GEMINI_API_KEY"] == "(set)"
    assert shown["GOOGLE_GEMINI_BASE_URL"] == "http://localhost:9"
    assert "canary-1" not in done.stdout


@pytest.mark.wall_clock
def test_closed_pipe_prints_no_traceback(folder: Path) -> None:
    command = f"{sys.executable} -m offhook scenario schema | head -1"
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(command, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout == "{\n"
    assert done.stderr == ""


ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_exists(page: Path) -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"(?:^|`|bin/|: )offhook ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_readme_has_an_index_of_the_pages() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"](docs/{page.name})" not in readme] == []


# --- environments of the field


@pytest.mark.parametrize("command", ["serve", "doctor"])
@pytest.mark.parametrize("variable", ["ALL_PROXY", "https_proxy"])
def test_a_socks_proxy_is_one_line_with_its_fix(folder: Path, command: str, variable: str) -> None:
    proxy = {variable: "socks5://user:proxy-canary@127.0.0.1:1080", "NO_PROXY": ""}
    keys = {"GEMINI_API_KEY": "any", "OFFHOOK_INSECURE": "1", "OFFHOOK_PORT": "0"}
    result = offhook_here(folder, command, "--agent", "agent.yaml", **proxy, **keys)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert f"{variable} names a SOCKS proxy (socks5://...)" in result.stderr
    assert "unset it for this process, or pip install socksio python-socks" in result.stderr
    assert "proxy-canary" not in result.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("args", [["check", "agent.yaml"], ["scenario", "schema"], ["simulate", "--help"], ["config"]])
def test_any_output_encoding_is_written_to(folder: Path, encoding: str, args: list[str]) -> None:
    (folder / "agent.yaml").write_text("name: Zo\u00eb \u260e\ninstructions: Answer.\n", encoding="utf-8")
    environ = {"PYTHONIOENCODING": encoding, "OFFHOOK_AGENT": "\u260e.yaml", "GEMINI_API_KEY": "any"}
    result = offhook_here(folder, *args, **environ)
    assert result.returncode == 0, result.stderr
    assert "UnicodeEncodeError" not in result.stderr


@pytest.mark.wall_clock
def test_an_error_in_other_letters_is_written(folder: Path) -> None:
    command = [sys.executable, "-m", "offhook", "check", "\u260e.yaml"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C", "PYTHONUTF8": "0"}
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "cannot be read" in result.stderr


def test_quotes_of_an_env_file_are_taken_off(folder: Path) -> None:
    environ = {"OFFHOOK_PORT": '"8123"', "OFFHOOK_PUBLIC_URL": "'https://voice.example.com'", "GEMINI_API_KEY": '""'}
    result = offhook_here(folder, "config", GOOGLE_API_KEY="", **environ)
    assert re.search(r"OFFHOOK_PORT +8123\n", result.stdout)
    assert re.search(r"OFFHOOK_PUBLIC_URL +https://voice.example.com\n", result.stdout)
    assert re.search(r"GEMINI_API_KEY +\(not set\)\n", result.stdout)
