"""What blocks the event loop: a thread that samples its stack once it has not answered for 250 ms.

A coroutine that computes or waits without `await` stops every call of the process. Nothing on the loop can report that
while it lasts. A loop that could run and got no processor is another matter, and is not blamed on the task at hand: the
kernel counts how long a thread waited for one (`schedstat`, Linux).
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

__all__ = ["BLOCKED_S", "watching"]

log = logging.getLogger(__name__)

BLOCKED_S = 0.25
FRAMES_MAX = 12  # of the stack, the innermost


@contextmanager
def watching(on_blocked: Callable[[str], None]) -> Iterator[None]:
    """Watch the running loop from another thread. Each block is logged once, at once, with the task and its stack;
    then `on_blocked("tool", "other" or "no_cpu")` is called on the loop.
    """
    loop, loop_thread, ended = asyncio.get_running_loop(), threading.get_ident(), threading.Event()
    schedstat = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")

    def watch() -> None:
        answered = threading.Event()
        times = 0  # without a processor
        while not ended.wait(BLOCKED_S):
            answered.clear()
            waited_s = waited_for_cpu_s(schedstat)
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(answered.set)
                if answered.wait(BLOCKED_S) or ended.is_set():
                    continue
                if waited_for_cpu_s(schedstat) - waited_s > BLOCKED_S / 2:
                    loop.call_soon_threadsafe(on_blocked, "no_cpu")
                    times += 1
                    if times & (times - 1) == 0:  # the 1st, 2nd, 4th ...: it goes on for as long as the load does
                        log.warning(
                            "the event loop got no processor for %d ms, %d times so far", BLOCKED_S * 1000, times
                        )
                    continue
                name, frame = _running_task(loop), sys._current_frames().get(loop_thread)
                log.error("the event loop is blocked for %d ms by %s\n%s", BLOCKED_S * 1000, name, _stack(frame))
                loop.call_soon_threadsafe(on_blocked, "tool" if name.startswith("tool ") else "other")
                while not (answered.wait(BLOCKED_S) or ended.is_set()):
                    pass

    thread = threading.Thread(target=watch, name="loop-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def waited_for_cpu_s(schedstat: Path) -> float:
    """How long a thread was ready to run and did not; 0 where the kernel does not count it."""
    try:
        return int(schedstat.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _running_task(loop: asyncio.AbstractEventLoop) -> str:
    task = asyncio.current_task(loop)
    return "a callback" if task is None else task.get_name()


def _stack(frame: FrameType | None) -> str:
    return "".join(traceback.format_stack(frame)[-FRAMES_MAX:]) if frame is not None else ""
