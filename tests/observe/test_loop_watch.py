"""A loop that hangs ends its process; one that is slow does not."""

from __future__ import annotations

import time

import pytest

from offhook.gateway.observe.loop_watch import HUNG_EXIT_CODE, watching

pytestmark = pytest.mark.wall_clock


@pytest.mark.parametrize(
    ("blocked_s", "hung_after_s", "ended"), [(1.3, 0.5, [HUNG_EXIT_CODE]), (0.6, 2.0, []), (1.3, 0.0, [])]
)
async def test_only_a_hung_loop_ends_the_process(
    blocked_s: float, hung_after_s: float, ended: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    codes: list[int] = []
    with watching(lambda _: None, hung_after_s=hung_after_s, end_process=codes.append):
        time.sleep(blocked_s)  # noqa: ASYNC251  this is the fault
    assert codes == ended
    assert ("the event loop hangs" in caplog.text) is bool(ended)
    assert ("test_loop_watch.py" in caplog.text) is True  # the stack
