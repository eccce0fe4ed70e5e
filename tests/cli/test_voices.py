"""`offhook voices`: what is installed, and what it would take."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from offhook.gateway.cli import voices
from offhook.gateway.cli.main import app
from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal.phone import prompts, voice


@pytest.fixture
def bare(monkeypatch, tmp_path):
    monkeypatch.setattr(prompts, "SOUNDS_DIR", tmp_path)
    monkeypatch.setattr(voice, "espeak_command", list)
    return tmp_path


def run(*arguments: str) -> str:
    ran = CliRunner().invoke(app, ["voices", *arguments], catch_exceptions=False)
    assert ran.exit_code == 0
    return ran.output


def test_list_names_what_is_missing_and_how_to_get_it(bare):
    printed = run("list")
    assert "espeak  any text, synthesised: none: pip install 'offhook[voices]'" in printed
    assert "it      Carlo Flora, CC BY 3.0: none: offhook voices install it" in printed
    (bare / "it_IT_m_Carlo" / "digits").mkdir(parents=True)
    (bare / "it_IT_m_Carlo" / "digits" / "7.wav").touch()
    assert "Carlo Flora, CC BY 3.0: 1 prompts" in run("list")
    assert run("list", "it") == "it/digits/7\n"


@pytest.mark.parametrize(
    ("arguments", "program", "user", "what"),
    [
        (["xx"], "/usr/bin/apt-get", 0, "the languages are en, es, fr, it, ru"),
        (["it"], None, 0, r"apt-get is not here: .*asterisk-core-sounds-it-wav.*offhook\[voices\]"),
        (["it"], "/usr/bin/apt-get", 1000, "sudo apt-get install --yes --no-install-recommends asterisk-.*-it-wav$"),
    ],
)
def test_install_says_what_stands_in_the_way(bare, monkeypatch, arguments, program, user, what):
    monkeypatch.setattr(shutil, "which", lambda name: program)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(OperatorError, match=what):
        run("install", *arguments)


@pytest.mark.parametrize(
    ("exit_code", "what"), [(100, "E: Unable to locate package$"), (0, "installed no prompts of it")]
)
def test_install_reports_what_apt_did_not_do(bare, monkeypatch, exit_code, what):
    asked = []

    def apt(command, **options):
        asked.append(command[1])
        return subprocess.CompletedProcess(command, exit_code, "", "Reading\nE: Unable to locate package\n")

    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apt-get")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(voices.subprocess, "run", apt)
    with pytest.raises(OperatorError, match=what):
        run("install", "it")
    assert asked == ["update", "install"]
