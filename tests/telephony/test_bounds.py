"""Bounds per caller and per day: pure, and as admission applies them."""

from __future__ import annotations

from unittest import mock

import pytest

from offhook.gateway.agent.spec import Agent, Fallback, LimitSettings
from offhook.gateway.errors import OperatorError
from offhook.gateway.numbers import read_address
from offhook.gateway.telephony import bounds as module
from offhook.gateway.telephony.admission import Admission, Admitted, Refused
from offhook.gateway.telephony.bounds import Bounds, CallerCalls, DailyCost, RefusedCallers

DESK = Agent(name="desk", numbers=("+15550199",), fallback=Fallback(say="The desk is busy."))
SHOP = Agent(name="shop", limits=LimitSettings(cost_per_day=2.0))
ANN, BOB = "+15551234567", "+15557654321"


def reason(door: Admission, call_id: str, caller: str | None, now_s: float = 0.0, agent: Agent = DESK) -> str:
    """Why the call is refused, "" when it is admitted."""
    answer = door.ring(call_id, next(iter(agent.numbers), "+15550000"), now_s, caller=caller)
    if isinstance(answer, Refused):
        assert answer.fallback == agent.fallback
        return answer.reason.value
    return ""


@pytest.mark.parametrize(
    ("entry", "refused", "others"),
    [
        ("+1 (555) 123-4567", [ANN, "tel:+1-555-123-4567", "sip:+15551234567@pbx.example"], [BOB, "", "client:ann"]),
        ("+1 555 1*", [ANN, "sip:+15551234567@pbx.example"], [BOB, "+4915551", "15551234567", "anonymous"]),
        ("withheld", ["", "anonymous", "+266696687", "sip:anonymous@anonymous.invalid"], [ANN, "client:ann"]),
        ("sip:ann@pbx.example", ["sip:ANN@pbx.example:5060"], ["sip:ann@other.example"]),
        ("client:ann", ["client:Ann"], ["client:anna"]),
    ],
)
def test_refused_callers(entry: str, refused: list[str], others: list[str]) -> None:
    callers = RefusedCallers([entry])
    assert [given for given in [*refused, *others] if read_address(given) in callers] == refused


@pytest.mark.parametrize("entry", ["*", "+*", "1900*", "+1900**", "030 1234567", "nobody", "+0123*"])
def test_unreadable_refused_caller_is_an_error(entry: str) -> None:
    with pytest.raises(OperatorError, match="OFFHOOK_REFUSED_CALLERS"):
        Admission([DESK], 5, bounds=Bounds(refused=(entry,)))


def test_a_refused_caller_gets_the_fallback() -> None:
    door = Admission([DESK], 5, bounds=Bounds(refused=(ANN,)))
    assert reason(door, "CA1", ANN) == "caller_refused"
    assert reason(door, "CA2", BOB) == ""
    assert door.calls == 1


def test_calls_at_once_are_bounded_per_caller() -> None:
    door = Admission([DESK], 9, bounds=Bounds(caller_calls=2))
    assert [reason(door, f"CA{n}", ANN) for n in range(3)] == ["", "", "caller_at_limit"]
    assert reason(door, "CA0", ANN) == ""  # a repeated webhook is no call
    assert reason(door, "CA3", BOB) == ""
    door.end("CA0")
    door.end("CA0")
    assert [reason(door, f"CA{n}", ANN) for n in (4, 5)] == ["", "caller_at_limit"]


def test_calls_per_hour_are_bounded_per_caller() -> None:
    door = Admission([DESK], 9, bounds=Bounds(caller_calls_per_h=2))
    for n, now_s in enumerate((0.0, 600.0)):
        assert reason(door, f"CA{n}", ANN, now_s) == ""
        door.end(f"CA{n}")
    assert reason(door, "CA2", ANN, 3_599.0) == "caller_rate"
    assert reason(door, "CA3", BOB, 3_599.0) == ""
    assert reason(door, "CA4", ANN, 3_600.0) == ""  # the first is an hour old; what was refused does not count
    assert reason(door, "CA5", ANN, 4_199.0) == "caller_rate"


def test_withheld_numbers_are_one_caller() -> None:
    door = Admission([DESK], 9, bounds=Bounds(caller_calls=2))
    assert [reason(door, f"CA{n}", who) for n, who in enumerate(("", "anonymous", "Restricted"))] == [
        "",
        "",
        "caller_at_limit",
    ]


def test_calls_that_we_place_have_no_caller() -> None:
    door = Admission([DESK], 9, bounds=Bounds(caller_calls=1, refused=(ANN, "withheld"), cost_per_day_usd=1.0))
    door.charge(DESK, 5.0, 0.0)
    assert all(isinstance(door.ring(f"CA{n}", ANN, 0.0, agent=DESK), Admitted) for n in range(3))


def test_callers_are_forgotten() -> None:
    calls = CallerCalls(at_once=3, per_hour=3)
    for n in range(100):
        calls.begin(f"+1555{n}", float(n))
        calls.end(f"+1555{n}")
    assert len(calls) == 100
    assert not calls.is_in_hour("+1555", 3_600.0 + 49)
    assert len(calls) == 50
    with mock.patch.object(module, "MAX_CALLERS", 10):
        calls.begin("+1555", 3_600.0 + 49)
    assert len(calls) == 10
    assert len(CallerCalls.name_of(read_address("x" * 10_000))) == module.MAX_NAME


def test_the_cost_of_a_day_refuses_calls() -> None:
    live: list[tuple[str, float]] = []
    door = Admission([DESK, SHOP], 9, bounds=Bounds(cost_per_day_usd=10.0), live_costs=lambda: live)
    door.charge(SHOP, 1.5, 0.0)
    assert reason(door, "CA1", ANN, 1.0, SHOP) == ""
    live.append(("shop", 0.5))  # of the call that goes on
    assert reason(door, "CA2", ANN, 2.0, SHOP) == "cost"
    assert reason(door, "CA3", ANN, 2.0, DESK) == ""  # its own limit only
    door.charge(DESK, 8.0, 3.0)
    assert reason(door, "CA4", ANN, 4.0, DESK) == "cost"
    assert reason(door, "CA5", ANN, 24 * 3_600.0 - 1, DESK) == "cost"
    assert reason(door, "CA6", ANN, 24 * 3_600.0, DESK) == ""


def test_a_long_idle_process_forgets_costs_in_order() -> None:
    cost = DailyCost()
    for hour in range(100):
        cost.add(0.5, 3_600.0 * hour)
        cost.add(0.5, 3_600.0 * hour + 3_599)
    assert cost.total(3_600.0 * 99) == 24.0
    assert cost.total(3_600.0 * 110) == 13.0
    assert cost.total(3_600.0 * 500) == 0.0
