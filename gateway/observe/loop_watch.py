"""What blocks the event loop: a thread that samples its stack once it has not answered for 250 ms, and may end
a process that hangs.

A coroutine that computes or waits without `await` stops every call of the process. Nothing on the loop can report that
while it lasts. A loop that could run and got no processor is another matter, and is not blamed on the task at hand: the
kernel counts how long a thread waited for one (`schedstat`, Linux).

A hung process holds its calls: sockets stay open, and to the carrier all is well. Where another process can go on with
them, ending this one is their rescue.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

__all__ = ["BLOCKED_S", "HUNG_EXIT_CODE", "watching"]

log = logging.getLogger(__name__)

BLOCKED_S = 0.25
FRAMES_MAX = 12  # of the stack, the innermost
HUNG_EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h
LOG_MAX_S = 0.5


@contextmanager
def watching(
    on_blocked: Callable[[str], None], *, hung_after_s: float = 0.0, end_process: Callable[[int], object] = os._exit
) -> Iterator[None]:
    """Watch the running loop from another thread. Each block is logged once, at once, with the task and its stack;
    then `on_blocked("tool", "other" or "no_cpu")` is called on the loop.

    A block of `hung_after_s` (0: never) ends the process, as a crash would: its calls go on in another one.
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
                blocked_s = BLOCKED_S
                while not (answered.wait(BLOCKED_S) or ended.is_set()):
                    blocked_s += BLOCKED_S
                    if 0 < hung_after_s <= blocked_s:
                        _log_hung(loop, loop_thread, blocked_s)
                        end_process(HUNG_EXIT_CODE)
                        return

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


def _log_hung(loop: asyncio.AbstractEventLoop, loop_thread: int, blocked_s: float) -> None:
    """In a thread of its own: a standard error that is not read must not hold up the end."""
    name, frame = _running_task(loop), sys._current_frames().get(loop_thread)
    text = "the event loop hangs for %.1f s in %s: the process is ended, and its calls go on in another one\n%s"
    logging_ = threading.Thread(target=log.critical, args=(text, blocked_s, name, _stack(frame)), daemon=True)
    logging_.start()
    logging_.join(LOG_MAX_S)


def _running_task(loop: asyncio.AbstractEventLoop) -> str:
    task = asyncio.current_task(loop)
    return "a callback" if task is None else task.get_name()


def _stack(frame: FrameType | None) -> str:
    return "".join(traceback.format_stack(frame)[-FRAMES_MAX:]) if frame is not None else ""
