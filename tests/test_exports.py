"""Every module says what it offers, and offers what it says."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path.relative_to(ROOT)
    for package in ("gateway", "media", "metrics")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__main__.py"
)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_every_name_in_all_exists(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    if all(isinstance(part, ast.Expr) for part in tree.body):  # a package's description, or nothing
        return
    named = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(f"offhook.{named}")
    assert isinstance(module.__all__, (list, tuple)), f"{path} has no __all__"
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_public_things_have_docstrings(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    if not tree.body:
        return
    assert ast.get_docstring(tree) or path.name == "__init__.py", f"{path} does not say what it is"
