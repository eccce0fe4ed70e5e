"""What blocks the event loop: a thread that samples its stack once it has not answered for 250 ms, and may end
a process that hangs.

A coroutine that computes or waits without `await` stops every call of the process. Nothing on the loop can report that
while it lasts.

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
    then `on_blocked("tool" or "other")` is called on the loop.

    A block of `hung_after_s` (0: never) ends the process, as a crash would: its calls go on in another one.
    """
    loop, loop_thread, ended = asyncio.get_running_loop(), threading.get_ident(), threading.Event()

    def watch() -> None:
        answered = threading.Event()
        while not ended.wait(BLOCKED_S):
            answered.clear()
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(answered.set)
                if answered.wait(BLOCKED_S) or ended.is_set():
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
