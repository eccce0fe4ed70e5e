"""Programs and modules that only tests need: absent on a laptop they skip, absent in CI they fail."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import NoReturn

import pytest

from offhook.gateway.rehearsal.phone.prompts import names

__all__ = ["require", "require_prompts"]


def require(*names: str) -> None:
    """Go on only if every name is a program on the path or an importable module ("sox", "soxr", ...)."""
    for name in names:
        if shutil.which(name) is None and importlib.util.find_spec(name.replace("-", "_")) is None:
            _absent(f"{name!r} is neither a program nor a Python module here")


def require_prompts(*languages: str) -> None:
    """Go on only if the recorded prompts of each language are installed."""
    for language in languages:
        if not names(language):
            _absent(f"the prompts of {language!r} are not installed here")


def _absent(reason: str) -> NoReturn:
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{reason}, and CI must run this test")
    pytest.skip(reason)
