"""Programs and modules that only tests need: absent on a laptop they skip, absent in CI they fail."""

from __future__ import annotations

import importlib
import os
import shutil
from types import ModuleType
from typing import NoReturn

import pytest

__all__ = ["require", "require_module"]


def require(tool: str) -> str:
    """Path of the program `tool` (espeak-ng, sox, ...)."""
    path = shutil.which(tool)
    if path is None:
        _missing(f"the program {tool!r} is not installed")
    return path


def require_module(name: str) -> ModuleType:
    """The module `name` (soxr, pesq, onnxruntime, ...)."""
    try:
        return importlib.import_module(name)
    except ImportError:
        _missing(f"the Python module {name!r} is not installed")


def _missing(what: str) -> NoReturn:
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{what}, and CI must run this test")
    pytest.skip(what)
