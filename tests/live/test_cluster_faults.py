"""The checks of `offhook faults --cluster`: each finds what it is for. `make cluster` runs the faults themselves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from offhook.gateway.rehearsal.cluster import checks
from offhook.gateway.rehearsal.cluster.calls import ClusterCall, counting
from offhook.gateway.rehearsal.model.record import SessionRecord
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.truth import Fetched, StreamTruth


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


@pytest.mark.parametrize(
    ("setup_s", "told_ms", "found"),
    [
        (0.05, 3_000, False),
        (0.05, 1_800, True),
        (0.6, 1_800, False),  # the carrier was slow then, and not when it asked what follows
        (5.0, 600, True),  # a second is all that is believed
        (0.6, 4_200, True),  # the caller is told no word less for it
    ],
)
def test_words_are_heard_as_far_as_told(setup_s: float, told_ms: float, found: bool) -> None:
    """Three seconds were played of what counts, and the model was told of `told_ms`."""
    one = ClusterCall(SimulatedCall("http://127.0.0.1:9", clock=lambda: 0.0), talks=False, words=counting(60))
    truth = one.truth
    truth.began_s, truth.fetched = 10.0 + setup_s, [Fetched(at_s=9.9, took_ms=100, path="/twilio/voice", status=200)]
    for node, started_s, closed_s in (("gw0", truth.began_s, 20.0), ("gw1", 20.1, 30.0)):
        url = f"wss://voice.example.com/twilio/n/{node}/media"
        stream = StreamTruth(stream_sid="MZ1", url=url, dialled_s=10.0, started_s=started_s, closed_s=closed_s)
        truth.streams.append(stream)
    truth.played.append(SimpleNamespace(place=0, samples=24_000))  # type: ignore[arg-type]
    heard = one.words[: round(told_ms / checks.MS_PER_CHARACTER)]
    text = SimpleNamespace(at_s=20.2, text=f'The line broke. The caller heard: "{heard}"')
    one.sessions.append(cast(SessionRecord, SimpleNamespace(texts=[text])))
    assert bool(checks._words(one, evidence())) is found
