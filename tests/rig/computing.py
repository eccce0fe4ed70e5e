"""A limit of what a piece of code computes, whatever else the machine and this process do meanwhile."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["computing_within"]


@contextmanager
def computing_within(seconds: float, what: str) -> Iterator[None]:
    """Raises AssertionError when the block takes more of this thread's time. Nothing is collected meanwhile: among all
    that a test process holds that takes 140 ms.
    """
    collected = gc.isenabled()
    gc.disable()
    began_s = time.thread_time()
    try:
        yield
        took_s = time.thread_time() - began_s
    finally:
        if collected:
            gc.enable()
    assert took_s <= seconds, f"{took_s:.2f} s for {what}"
