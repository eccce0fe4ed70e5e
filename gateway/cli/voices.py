"""`offhook voices list` and `offhook voices install`: who can speak the lines of a rehearsal here.

`mount(app)` adds them to the command line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Annotated

import typer

from offhook.gateway.errors import OperatorError, nearest

__all__ = ["mount"]

Language = Annotated[str, typer.Argument(help="List the prompts of this language, such as en.")]
Languages = Annotated[list[str] | None, typer.Argument(help="Languages to install, such as en it; none: all.")]


def mount(app: typer.Typer) -> None:
    """Add the commands."""
    voices = typer.Typer(help="Who speaks the lines of a rehearsal.", no_args_is_help=True)
    voices.command("list")(voices_list)
    voices.command("install")(voices_install)
    app.add_typer(voices, name="voices")


def voices_list(language: Language = "") -> None:
    """Show the synthesiser and the recorded prompts that are installed."""
    from offhook.gateway.rehearsal.phone.prompts import SETS, names
    from offhook.gateway.rehearsal.phone.voice import espeak_command

    if language:
        _check([language])
        print("\n".join(f"{language}/{name}" for name in names(language)) or f"none: {_cure(language)}")
        return
    command = espeak_command()
    where = (
        command[0] if len(command) == 1 else "of the extra voices" if command else "none: pip install 'offhook[voices]'"
    )
    print(f"espeak  any text, synthesised: {where}")
    for code, of in SETS.items():
        count = len(names(code))
        print(f"{code:6}  {of.speaker}, {of.licence}: {f'{count} prompts' if count else f'none: {_cure(code)}'}")


def voices_install(languages: Languages = None) -> None:
    """Install recorded prompts with apt-get (Debian, Ubuntu), as root."""
    from offhook.gateway.rehearsal.phone.prompts import SETS, names

    wanted = list(languages or SETS)
    _check(wanted)
    packages = [SETS[code].package for code in wanted if not names(code)]
    if packages:
        _apt(packages)
    missing = [code for code in wanted if not names(code)]
    if missing:
        raise OperatorError(f"apt-get installed no prompts of {', '.join(missing)}: are sounds kept out of this image?")
    for code in wanted:
        print(f"{code}: {len(names(code))} prompts, spoken by {SETS[code].speaker} ({SETS[code].licence})")


def _apt(packages: list[str]) -> None:
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    by_hand = " ".join(command)
    if shutil.which("apt-get") is None:
        raise OperatorError(
            f"apt-get is not here: the prompts are Debian's packages {', '.join(packages)}; here the lines of "
            "scenarios are synthesised: pip install 'offhook[voices]'"
        )
    if os.geteuid() != 0:
        raise OperatorError(f"apt-get needs root: sudo {by_hand}")
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update", "-qq"], command):
        ran = subprocess.run(step, env=environ, capture_output=True, encoding="utf-8", errors="replace")
    if ran.returncode:  # of the installation: an update that fails in part may still do
        why = ran.stderr.strip().rpartition("\n")[2] or f"exit code {ran.returncode}"
        raise OperatorError(f"{by_hand}: {why}")


def _check(languages: list[str]) -> None:
    from offhook.gateway.rehearsal.phone.prompts import SETS

    for code in languages:
        if code not in SETS:
            raise OperatorError(f"no prompts of {code!r}; {nearest(code, SETS)}the languages are {', '.join(SETS)}")


def _cure(language: str) -> str:
    return f"offhook voices install {language}"
