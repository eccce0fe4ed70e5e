"""The checks of `offhook faults --cluster`: each finds what it is for. `make cluster` runs the faults themselves."""

from __future__ import annotations

import pytest

from offhook.gateway.rehearsal.cluster import checks


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
