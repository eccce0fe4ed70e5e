"""One call at its carrier: status in any order, streams that come and go, one decision."""

from __future__ import annotations

import pytest

from offhook.gateway.telephony.carrier import Kind, NextStep
from offhook.gateway.telephony.leg import OLD_AGE_S, STRIKES_MAX, Leg, StreamLoss
from offhook.gateway.telephony.status import FINAL, CallStatus, order_of
from tests.telephony.paper_carrier import leg_at

HANG_UP, DIAL = NextStep(Kind.HANG_UP), NextStep(Kind.DIAL, "+15550123")


def talking() -> Leg:
    leg = leg_at(status=CallStatus.IN_PROGRESS)
    leg.stream_up("MZ1", 0.0)
    return leg


def test_the_first_decision_stands():
    leg = talking()
    assert leg.decide(DIAL, 10.0)
    assert not leg.decide(HANG_UP, 10.1)
    assert (leg.next, leg.decided_s) == (DIAL, 10.0)


def test_status_reports_in_any_order():
    leg = leg_at()
    reported = map(CallStatus, ("ringing", "initiated", "in-progress", "ringing", "completed", "in-progress"))
    assert [leg.on_status(status) for status in reported] == [True, False, True, False, True, False]
    assert leg.over


def test_order_of_statuses():
    assert order_of(None) < order_of(CallStatus.WAITING) < order_of(CallStatus.RINGING)
    assert {order_of(status) for status in FINAL} == {1 + order_of(CallStatus.IN_PROGRESS)}


# --- streams


def test_a_lost_stream_may_come_back():
    leg = talking()
    assert leg.stream_lost("MZ1", 40.0) is StreamLoss.RETURNS
    assert leg.stream_lost("MZ1", 40.1) is StreamLoss.STALE
    assert leg.reconnect(40.2)
    leg.stream_up("MZ2", 41.0)
    assert leg.stream_lost("MZ1", 41.5) is StreamLoss.STALE  # a late report about the first
    assert leg.lost_s is None


def test_streams_that_die_young_are_given_up():
    leg = leg_at()
    for n in range(STRIKES_MAX + 1):
        leg.stream_up(f"MZ{n}", n * 10.0)
        loss = leg.stream_lost(f"MZ{n}", n * 10.0 + 5.0)
        assert loss is (StreamLoss.RETURNS if n < STRIKES_MAX else StreamLoss.FINAL)
    assert not leg.reconnect(60.0)


def test_a_cut_every_five_minutes_is_survived():
    leg = leg_at()
    for n in range(12):
        leg.stream_up(f"MZ{n}", n * 300.0)
        assert leg.stream_lost(f"MZ{n}", n * 300.0 + OLD_AGE_S + 1.0) is StreamLoss.RETURNS
        assert leg.reconnect(n * 300.0 + 40.0)


def test_failing_handshakes_are_given_up():
    leg = leg_at()
    assert [leg.reconnect(float(n)) for n in range(STRIKES_MAX + 2)] == [True] * STRIKES_MAX + [False] * 2


@pytest.mark.parametrize("why", ["decided", "over", "hung_up", "one_stream"])
def test_no_stream_returns_after_the_end(why: str):
    leg = talking()
    if why == "decided":
        leg.decide(DIAL, 30.0)
    elif why == "over":
        leg.on_status(CallStatus.COMPLETED)
    elif why == "hung_up":
        leg.on_hang_up()
    else:
        leg.reconnects = False
    assert leg.stream_lost("MZ1", 40.0) is StreamLoss.FINAL


# --- away on purpose


def test_away_and_back():
    leg = talking()
    assert leg.leave_stream()
    assert not leg.leave_stream()
    assert leg.stream_lost("MZ1", 5.0) is StreamLoss.RETURNS  # young, and no strike
    leg.stream_up("MZ2", 100.0)
    assert not leg.away


def test_no_leave_without_a_stream():
    assert not leg_at().leave_stream()
    leg = talking()
    leg.stream_lost("MZ1", 40.0)
    assert not leg.leave_stream()
