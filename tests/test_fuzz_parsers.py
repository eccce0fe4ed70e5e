"""Some hundred bent inputs for each parser, the same every time; `make fuzz` goes on for minutes."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tests.bench.fuzz_parsers import TARGETS, run

INPUTS = {
    "carrier": 3_000,
    "model": 3_000,
    "jpeg": 3_000,
    "form": 150,
    "agent": 40,
    "scenario": 40,
    "frames": 400,
    "verdict": 1_000,
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_keeps_its_invariant(name: str) -> None:
    run(TARGETS[name], INPUTS[name], seed=1)


def test_what_breaks_it_is_named() -> None:
    """Planted: an error that is not the parser's own, and an input that takes too long."""

    def fails(data: bytes) -> None:
        if b"event" not in data:
            raise KeyError("event")

    with pytest.raises(KeyError) as caught:
        run(replace(TARGETS["carrier"], check=fails), 3_000, seed=1)
    assert caught.value.__notes__[0].startswith("input: ")

    def dawdles(data: bytes) -> None:
        until_s = time.thread_time() + 0.02
        while time.thread_time() < until_s:
            pass

    with pytest.raises(AssertionError, match=r"0.0\d s for \d+ bytes"):
        run(replace(TARGETS["carrier"], check=dawdles, seconds=0.01), 1, seed=1)
