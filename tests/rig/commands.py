"""The `offhook` command in this process: its arguments, folder and environment in, its output and exit code out."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
from pathlib import Path

import pytest

from offhook.gateway.cli.main import main

__all__ = ["offhook_here"]


def offhook_here(folder: Path, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """As a process of its own would, without half a second of imports each time. Standard output and error are
    encoded as PYTHONIOENCODING says.
    """
    encoding, _, errors = environ.get("PYTHONIOENCODING", "utf-8").partition(":")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding, errors or "strict", write_through=True) for _ in range(2))
    collected = gc.isenabled()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in environ.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["offhook", *args])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        finally:
            if collected:
                gc.enable()
    printed, reported = (stream.buffer.getvalue().decode(encoding) for stream in (out, err))  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(args, int(code or 0), printed, reported)  # type: ignore[call-overload]
