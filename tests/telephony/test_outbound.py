"""Calls we place: the rate, the room, the status to its end. A fake clock."""

from __future__ import annotations

from itertools import pairwise

import pytest

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.errors import OperatorError
from offhook.gateway.telephony.outbound import BUSY_S, KeyReused, OutboundQueue, QueueFull, key_of
from offhook.gateway.telephony.status import CallStatus

AGENT = parse_agent("name: desk\nnumbers: ['+15550199']\n")


def test_fifty_calls_leave_one_a_second():
    queue = OutboundQueue()
    for n in range(50):
        queue.submit(f"+1555010{n:04d}", AGENT)
    left: list[tuple[float, str]] = []
    for tick in range(4 * 60):
        now_s = 1000.0 + tick * 0.25
        if placed := queue.due(now_s, free=100):
            left.append((now_s, placed.to))
    assert [to for _, to in left] == [f"+1555010{n:04d}" for n in range(50)]
    gaps = [b - a for (a, _), (b, _) in pairwise(left)]
    assert len(gaps) == 49
    assert set(gaps) == {1.0}
    for second in range(60):  # and in any second, however it is cut, no more than one
        assert sum(1000.1 + second <= at < 1001.1 + second for at, _ in left) <= 1


@pytest.mark.parametrize(("calls_per_s", "at_once"), [(2.0, 1), (5.0, 3), (30.0, 9)])
def test_other_rates_are_kept_on_average(calls_per_s: float, at_once: int):
    queue = OutboundQueue(calls_per_s)
    for n in range(700):
        queue.submit(f"+1555010{n:04d}", AGENT)
    left = [0] * 80
    for tick in range(80):  # 20 s
        while queue.due(1000.0 + tick * 0.25, free=1_000):
            left[tick] += 1
    assert sum(left[1:41]) == pytest.approx(10 * calls_per_s, abs=2)
    assert max(left) <= at_once


def test_calls_wait_for_a_place():
    queue = OutboundQueue()
    queue.submit("+15550101000", AGENT)
    queue.submit("+15550102000", AGENT)
    first = queue.due(0.0, free=1)
    assert first is not None
    assert queue.due(10.0, free=1) is None  # the place is for the one that rings
    assert first.on_status(CallStatus.IN_PROGRESS)
    assert queue.due(20.0, free=0) is None
    assert first.on_status(CallStatus.COMPLETED)
    assert queue.due(30.0, free=1) is not None


def test_busy_carrier_gets_the_same_call_later():
    queue = OutboundQueue()
    queue.submit("+15550101000", AGENT)
    queue.submit("+15550102000", AGENT)
    first = queue.due(0.0, free=9)
    assert first is not None
    queue.back_off(first, 0.5)
    assert queue.due(1.0, free=9) is None
    assert queue.due(0.5 + BUSY_S, free=9) is first


def test_status_by_rank_and_never_back():
    call = OutboundQueue().submit("+15550101000", AGENT)
    reported = map(CallStatus, ("ringing", "initiated", "completed", "in-progress", "busy"))
    assert [call.on_status(status) for status in reported] == [True, False, True, False, False]
    assert (call.status, call.over) == ("completed", True)


@pytest.mark.parametrize(
    "to",
    [
        "",
        "5550101000",
        "+0155501",
        "+1555010x000",
        "javascript:1",
        "sip:a b@x",
        "sip:é@x",
        "+" + "1" * 16,
        "+266696687",
        "+15550101000 x12",
        "sip:" + "a" * 300 + "@x.example",
    ],
)
def test_what_cannot_be_called_is_refused(to: str):
    with pytest.raises(OperatorError, match="cannot call"):
        OutboundQueue().submit(to, AGENT)


def test_an_agent_needs_a_number_to_call_from():
    nobody = parse_agent("name: nobody\n")
    with pytest.raises(OperatorError, match="caller_id"):
        OutboundQueue().submit("+15550101000", nobody)
    assert OutboundQueue().submit("sip:ann@example.com", nobody, caller_id="+15550199000").caller_id == "+15550199000"


def test_the_same_key_asks_for_the_same_call():
    queue = OutboundQueue(max_queued=1)
    key = key_of("order 17", "+15550101000", "desk")
    first = queue.submit("+15550101000", AGENT, key=key)
    assert queue.submit("+15550101000", AGENT, key=key) is first  # though the queue is full
    assert queue.waiting == 1
    with pytest.raises(KeyReused):
        queue.submit("+15550102000", AGENT, key=key_of("order 17", "+15550102000", "desk"))


def test_a_queue_has_a_bound_and_a_way_out():
    queue = OutboundQueue(max_queued=2)
    first = queue.submit("+15550101000", AGENT)
    queue.submit("+15550102000", AGENT)
    with pytest.raises(QueueFull):
        queue.submit("+15550103000", AGENT)
    assert queue.cancel(first)
    assert not queue.cancel(first)
    assert (first.status, queue.waiting) == ("canceled", 1)
    queue.stop()
    assert queue.waiting == 0
