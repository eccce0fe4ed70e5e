"""`offhook faults --cluster` in its short form: ten faults of one fleet, a few calls each, every check after each."""

from __future__ import annotations

from pathlib import Path

import pytest

from offhook.gateway.rehearsal.cluster import checks
from offhook.gateway.rehearsal.cluster.run import PROGRAMS, Plan, chosen, fleet
from tests.needs import require

pytestmark = pytest.mark.wall_clock
SHORT = Plan(seed=1, calls=4, goes_on_s=1.0, words=40)


async def test_calls_outlive_ten_faults(tmp_path: Path) -> None:
    require(*PROGRAMS, "redis")
    cases = chosen([], quick=True)
    assert len(cases) == 10
    async with fleet(SHORT, tmp_path) as whole:
        results = [await whole.run(case, SHORT) for case in cases]
    assert {result.name: result.faults for result in results if not result.ok} == {}
    assert sum(result.lost for result in results) == 0
    moved = {result.number for result in results if result.moved}
    assert moved == {case.number for case in cases if case.moves}


def evidence(**kept: object) -> checks.Evidence:
    nothing = {
        "calls": (),
        "refused": (),
        "effects": (),
        "events": (),
        "violations": (),
        "logs": {},
        "left": (),
        "cap": 0,
    }
    return checks.Evidence(**{**nothing, **kept})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kept", "found"),
    [
        ({}, ""),
        ({"effects": ["CA1:0:x", "CA1:0:x"]}, "the tool took effect 2 times for CA1:0:x"),
        ({"effects": [""]}, "the tool took effect 1 times for no key"),
        ({"logs": {"gw0": "Traceback (most recent call last)"}}, "gw0's log has Traceback"),
        ({"left": ["gw1 has 1 calls"]}, "gw1 has 1 calls"),
    ],
)
def test_a_fault_left_behind_is_found(kept: dict[str, object], found: str) -> None:
    assert checks.check(evidence(**kept)) == ([found] if found else [])
