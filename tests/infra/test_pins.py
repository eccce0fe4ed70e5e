"""Everything that is installed or started has an exact version and a hash, and the files agree with each other."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.infra.infra_files import INFRA, ROOT

CHECKOUT, IMAGE, BUILD = ROOT / "constraints.txt", INFRA / "requirements.txt", INFRA / "build.txt"
REHEARSAL = INFRA / "rehearsal.txt"
TOOLS, FUZZ = ROOT / ".ci" / "tools.txt", ROOT / ".ci" / "fuzz.txt"
FILES = (CHECKOUT, IMAGE, REHEARSAL, BUILD, TOOLS, FUZZ)
DOCKERFILES = (INFRA / "Dockerfile", INFRA / "simulate.Dockerfile")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
REMAKE = "run `make pins`"


@cache
def pins(path: Path) -> dict[str, list[tuple[Requirement, int]]]:
    """Each package's requirements, one for each marker, with the number of their hashes."""
    found: dict[str, list[tuple[Requirement, int]]] = {}
    text = re.sub(r"(?m)^\s*#.*\n", "", path.read_text()).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        requirement = Requirement(HASH.sub("", line).strip())
        found.setdefault(canonicalize_name(requirement.name), []).append((requirement, len(HASH.findall(line))))
    return found


def version(path: Path, name: str) -> set[str]:
    return {str(requirement.specifier) for requirement, _ in pins(path)[name]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_line_is_one_version_with_hashes(path: Path) -> None:
    assert pins(path)
    for name, lines in pins(path).items():
        for requirement, hashes in lines:
            assert re.fullmatch(r"==[\w.!+]+", str(requirement.specifier)), f"{name}: {REMAKE}"
            assert hashes, f"{name} has no hash: {REMAKE}"
            assert requirement.url is None
    assert "://" not in path.read_text()  # whichever index has the file, its hash is the same


@pytest.mark.parametrize(
    ("path", "extras"),
    [(CHECKOUT, ("rehearsal", "dev")), (IMAGE, ()), (REHEARSAL, ("rehearsal",))],
    ids=["checkout", "image", "rehearsal"],
)
def test_what_pyproject_asks_for_is_pinned(path: Path, extras: tuple[str, ...]) -> None:
    asked = [*PROJECT["project"]["dependencies"]]
    asked += [text for extra in extras for text in PROJECT["project"]["optional-dependencies"][extra]]
    for requirement in map(Requirement, asked):
        name = canonicalize_name(requirement.name)
        assert name in pins(path), f"{name}: {REMAKE}"
        for pinned in version(path, name):
            assert requirement.specifier.contains(pinned.removeprefix("==")), f"{name} {pinned}: {REMAKE}"


def test_image_and_checkout_have_the_same_versions() -> None:
    for path in (IMAGE, REHEARSAL, BUILD):
        for name in pins(path):
            assert version(path, name) <= version(CHECKOUT, name), f"{name}: {REMAKE}"
    assert "pytest" not in pins(IMAGE)


def test_build_backend_is_the_pinned_one() -> None:
    (backend,) = map(Requirement, PROJECT["build-system"]["requires"])
    assert version(BUILD, backend.name) == {str(backend.specifier)}


def test_nothing_is_installed_without_hashes() -> None:
    """In the image, the checkout and the tools; `tests/system.sh` installs what is compiled or optional."""
    lines = {
        path.name: re.sub(r"\\\n", " ", path.read_text())
        for path in (*DOCKERFILES, ROOT / "Makefile", ROOT / ".ci" / "tools", ROOT / ".ci" / "release")
    }
    for name, text in lines.items():
        installs = re.findall(r"(?:pip install|\$\(PIP\)|\$install)\s[^&|\n]*--[^&|\n]*", text)
        assert installs, name
        for install in installs:
            is_own = "--no-deps" in install and "--no-index" in install
            assert is_own or "--require-hashes" in install or install.endswith("--disable-pip-version-check"), install
