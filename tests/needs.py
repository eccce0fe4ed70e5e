"""Programs and modules that only tests need: absent on a laptop they skip, absent in CI they fail."""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest

__all__ = ["require"]


def require(*names: str) -> None:
    """Go on only if every name is a program on the path or an importable module ("sox", "soxr", ...)."""
    for name in names:
        if shutil.which(name) is None and importlib.util.find_spec(name.replace("-", "_")) is None:
            reason = f"{name!r} is neither a program nor a Python module here"
            if os.environ.get("CI", "").lower() in ("1", "true"):
                pytest.fail(f"{reason}, and CI must run this test")
            pytest.skip(reason)
