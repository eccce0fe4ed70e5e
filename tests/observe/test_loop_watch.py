"""What is blamed where the loop does not answer: the task at hand, or a machine without a processor to spare."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest

from offhook.gateway.observe import loop_watch

pytestmark = pytest.mark.wall_clock  # a thread watches


async def blamed(seconds: float) -> list[str]:
    found: list[str] = []
    with loop_watch.watching(found.append):
        await asyncio.sleep(loop_watch.BLOCKED_S)
        time.sleep(seconds)  # noqa: ASYNC251 - the block
        await asyncio.sleep(0)
        await asyncio.sleep(0.05)
    return found


def test_a_blocking_task_is_blamed(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(loop_watch, "waited_for_cpu_s", lambda _: 0.0)
    assert asyncio.run(blamed(4 * loop_watch.BLOCKED_S)) == ["other"]
    assert "the event loop is blocked for 250 ms" in caplog.text
    assert "time.sleep" in caplog.text


def test_a_starved_loop_blames_no_task(caplog: Any, monkeypatch: Any) -> None:
    waited_s = itertools.count(0.0, loop_watch.BLOCKED_S)
    monkeypatch.setattr(loop_watch, "waited_for_cpu_s", lambda _: next(waited_s))
    found = asyncio.run(blamed(4 * loop_watch.BLOCKED_S))
    assert set(found) == {"no_cpu"}
    assert "got no processor for 250 ms, 1 times so far" in caplog.text
    assert "Traceback" not in caplog.text
    assert "time.sleep" not in caplog.text


@pytest.mark.parametrize(
    ("blocked_s", "hung_after_s", "ended"), [(1.3, 0.5, [loop_watch.HUNG_EXIT_CODE]), (0.6, 2.0, []), (1.3, 0.0, [])]
)
async def test_only_a_hung_loop_ends_the_process(
    blocked_s: float, hung_after_s: float, ended: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    codes: list[int] = []
    with loop_watch.watching(lambda _: None, hung_after_s=hung_after_s, end_process=codes.append):
        time.sleep(blocked_s)  # noqa: ASYNC251  this is the fault
    assert codes == ended
    assert ("the event loop hangs" in caplog.text) is bool(ended)
    assert ("test_loop_watch.py" in caplog.text) is True  # the stack
