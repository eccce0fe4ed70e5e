"""The pages and the files beside the code: what they name is there."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from offhook.gateway import __version__

ROOT = Path(__file__).parents[1]
GATEWAY = ROOT / "gateway"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "infra/runbook.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
TOPS = {"gateway", "media", "metrics", "tests", "infra", "docs"}
PATH = re.compile(r"^[\w.*-]+(/[\w.*-]+)*/?$")


def backticked(text: str) -> Iterator[str]:
    """What stands between backticks, outside of blocks of code."""
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", prose)


def paths_in(text: str) -> list[str]:
    """Paths of the repository that a page names: from the root, or within gateway/ (a file's or a folder/)."""
    rooms = {path.name for path in GATEWAY.iterdir() if path.is_dir()}
    found = []
    for name in backticked(text):
        first, slash, _ = name.partition("/")
        if not PATH.match(name) or not slash:
            continue
        if first in TOPS or (first in rooms and name.endswith(("/", ".py"))):
            found.append(name)
    return found


def test_layout_of_the_readme_names_every_room() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^## Layout\n\n```\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert block
    rows = re.findall(r"^( *)([\w]+)/ ", block[1], re.MULTILINE)
    named = {f"gateway/{name}" if indent else name for indent, name in rows}
    rooms = {f"gateway/{path.name}" for path in GATEWAY.iterdir() if (path / "__init__.py").is_file()}
    assert named == rooms | {"gateway", "media", "metrics", "tests", "infra"}


def there(name: str) -> bool:
    base, pattern = (ROOT, name) if name.partition("/")[0] in TOPS else (GATEWAY, name)
    return any(base.glob(pattern.rstrip("/")))


def page_id(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_path_on_a_page_exists(page: Path) -> None:
    names = paths_in(page.read_text(encoding="utf-8"))
    assert [name for name in names if not there(name)] == []


def test_paths_are_found_in_prose_only() -> None:
    text = "`media/vad.py`, `call/call.py`, `call/`, `tools/list`, `/metrics`, `a b`\n```sh\nrm `tests/x.py`\n```\n"
    assert paths_in(text) == ["media/vad.py", "call/call.py", "call/"]
    assert there("call/call.py")
    assert not there("call/nothing.py")


# --- names on the page of the rooms


@cache
def members() -> dict[str, set[str]]:
    """Class -> its methods, fields and attributes, over the whole house."""
    found: dict[str, set[str]] = {}
    for top in ("gateway", "media", "metrics"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    names = found.setdefault(node.name, set())
                    for inner in ast.walk(node):
                        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)):
                            names.add(inner.name)
                        elif isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                            names.add(inner.attr)
                        elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                            names.add(inner.target.id)
    return found


def is_named(name: str) -> bool:
    """Whether there is such a class, or such a member of it."""
    owner, _, member = name.partition(".")
    return owner in members() and (not member or member in members()[owner])


@pytest.mark.parametrize("page", [ROOT / "docs" / "architecture.md"], ids=page_id)
def test_every_class_and_method_on_the_page_exists(page: Path) -> None:
    names = re.compile(r"[A-Z][a-z]\w*(\.[a-z]\w*)?")
    found = [name for name in backticked(page.read_text(encoding="utf-8")) if names.fullmatch(name)]
    assert [name for name in found if not is_named(name)] == []


PAGE_WORDS = 650  # of prose, tables and lists on paper


def test_architecture_has_at_most_two_pages() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert len(re.findall(r"\S*\w\S*", page)) <= 2 * PAGE_WORDS, "shorten it: the code says the rest"


# --- make targets, hooks, workflows


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


CLAIMED = ["3.11", "3.12", "3.13"]  # the Pythons that the project says it runs on


def made(text: str) -> set[str]:
    """The targets that a text has make build."""
    return set(re.findall(r"(?:^|`|run: |sudo )make ([a-z-]+)", text, re.MULTILINE))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_make_target_on_a_page_exists(page: Path) -> None:
    assert made(page.read_text(encoding="utf-8")) <= targets()


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.y*ml")), ids=page_id)
def test_workflow_runs_existing_targets(path: Path) -> None:
    runs = [step["run"] for job in load(path)["jobs"].values() for step in job["steps"] if "run" in step]
    called = [re.fullmatch(r"(?:sudo )?make ([a-z-]+)", run) for run in runs]
    assert all(called), f"a step that is no make target: {runs}"
    assert {match[1] for match in called if match} <= targets()


def test_workflow_runs_all_of_the_local_gate() -> None:
    gate = made((ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert {"setup", "lint", "demo", "simulate", "test"} <= gate
    workflow = load(ROOT / ".github" / "workflows" / "ci.yaml")
    runs = [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    assert gate <= made("\n".join(runs))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == CLAIMED


def test_claimed_pythons_are_those_of_requires_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    spec = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"])
    assert spec
    assert [f"3.{minor}" for minor in range(int(spec[1]), int(spec[2]))] == CLAIMED
    classifiers = [line.rpartition(" ")[2] for line in project["classifiers"] if ":: Python ::" in line]
    assert classifiers == CLAIMED


def test_gate_finds_the_python_it_runs_on() -> None:
    found = subprocess.run([ROOT / ".ci" / "pythons"], capture_output=True, text=True, check=True).stdout.split()
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    versions = [subprocess.check_output([python, "-c", script], text=True).strip() for python in found]
    assert versions == sorted(set(versions), key=CLAIMED.index)


def test_hooks_run_what_make_lint_runs() -> None:
    hooks = [hook for repo in load(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    entries = {hook["entry"].replace(" --force-exclude", "") for hook in hooks}
    lint = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    linters = re.findall(r"\$\(BIN\)/([a-z-]+(?: [a-z]+)?)", lint)
    assert linters
    assert {f".venv/bin/{linter}" for linter in linters} <= entries


@pytest.mark.parametrize(("length", "code"), [(72, 0), (73, 1)])
def test_hook_bounds_length_of_subject(tmp_path: Path, length: int, code: int) -> None:
    message = tmp_path / "COMMIT_EDITMSG"
    message.write_text("ü" * length + "\n\n" + "a body may be longer " * 9 + "\n", encoding="utf-8")
    hooks = [hook for repo in load(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    (entry,) = (hook["entry"] for hook in hooks if hook.get("stages") == ["commit-msg"])
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    assert subprocess.run(f"{entry} {message}", shell=True, env=env).returncode == code


# --- the version


def test_version_is_the_same_everywhere() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"] == __version__
    assert f"\n## {__version__} (" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
