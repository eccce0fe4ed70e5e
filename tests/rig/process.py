"""Processes and threads beside the test's own: started, measured, and ended with it. Imports nothing heavy:
benchmarks measure the memory of the processes that import this.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["cpu_s", "in_thread", "python_path", "rss_mib", "spawn"]

T = TypeVar("T")
TICKS_HZ = os.sysconf("SC_CLK_TCK")


def python_path() -> str:
    """PYTHONPATH of a child process that imports `tests` and what this process imports."""
    return ":".join([str(Path(__file__).parents[2]), *filter(None, sys.path)])


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_HZ


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def spawn(arguments: list[str], environ: dict[str, str]) -> tuple[subprocess.Popen[str], str]:
    """A Python process, and the last word of the first line it printed: its URL."""
    process = subprocess.Popen([sys.executable, *arguments], env=environ, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        process.kill()
        raise SystemExit(f"{arguments} did not start")
    return process, line.rpartition(" ")[2]


@contextlib.contextmanager
def in_thread(
    opened: AbstractAsyncContextManager[T], run: Callable[[Coroutine[Any, Any, None]], object] = asyncio.run
) -> Iterator[T]:
    """What `opened` yields, while an event loop in a thread of its own holds it open. Its errors are raised here."""
    ready, enough = threading.Event(), threading.Event()
    values: list[T] = []
    errors: list[BaseException] = []

    async def hold() -> None:
        async with opened as value:
            values.append(value)
            ready.set()
            await asyncio.to_thread(enough.wait)

    def live() -> None:
        try:
            run(hold())
        except BaseException as error:
            errors.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        ready.wait()
        if values:
            yield values[0]
    finally:
        enough.set()
        thread.join()
    if errors:
        raise errors[0]
