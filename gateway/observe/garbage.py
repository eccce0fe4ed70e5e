"""Memory: collections of cyclic garbage at moments that suit the calls, and blocks returned to the system.

A collection stops the process: for an instant where it looks at what was made lately, for tens of milliseconds where it
looks at everything that many calls hold. A call that has ended is freed without one; left to collect are the network
libraries' own cycles, and those of whatever failed.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Iterator, Sized
from contextlib import contextmanager, suppress

__all__ = ["collecting", "is_due"]

YOUNG, MIDDLE = 700, 2  # objects of a young collection, and how many of those a middle one follows
NEVER = 1_000_000_000
FEW_CALLS = 4  # a full collection is short then
DUE, OVERDUE = 10, 3_000  # middle collections since the last full one: with few calls, and in any case
TICK_S = 1.0
LARGE_BLOCK_BYTES = 128 * 1024
_M_MMAP_THRESHOLD = -3


def is_due(middle_ones: int, calls: int) -> bool:
    """Whether to collect everything. `middle_ones`: middle collections since that was last done."""
    return middle_ones >= OVERDUE or (middle_ones >= DUE and calls <= FEW_CALLS)


@contextmanager
def collecting(calls: Sized) -> Iterator[None]:
    """On the running loop, while these are the active calls. What exists now is taken for permanent."""
    before = gc.get_threshold()
    _return_large_blocks()
    gc.collect()
    gc.freeze()  # collecting what the start made took 60 ms
    gc.set_threshold(YOUNG, MIDDLE, NEVER)
    task = asyncio.create_task(_keep_collecting(calls), name="garbage")
    try:
        yield
    finally:
        task.cancel()
        gc.set_threshold(*before)


def _return_large_blocks() -> None:
    """Have glibc map each block from 128 KiB on by itself, and return it to the system when it is freed.

    Otherwise that bound rises with the first one that is freed, the buffers of TLS connections (256 KiB each) are cut
    from the heap, and what lies between them keeps it large: 30 of 200 MB after an hour of 20 calls. Nothing happens
    where the C library has no `mallopt`. Source: mallopt(3).
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


async def _keep_collecting(calls: Sized) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        if is_due(gc.get_count()[2], len(calls)):
            gc.collect()
