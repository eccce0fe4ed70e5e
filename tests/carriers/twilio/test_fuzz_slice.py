"""A slice of the media endpoint's fuzzing; the long run is `python -m tests.bench.fuzz_media 600`."""

from __future__ import annotations

import os
import random

import pytest

from tests.bench.fuzz_media import fuzz

SEED = int(os.environ.get("OFFHOOK_FUZZ_SEED") or random.randrange(10**6))  # a failure names it


@pytest.mark.wall_clock  # it goes on for so many seconds
async def test_nothing_escapes_and_nothing_is_left() -> None:
    report = await fuzz(3.0, SEED)
    assert not report.escaped, f"seed {SEED}: {report.escaped[0][:500]}"
    assert not report.left_over, f"seed {SEED}: {report.left_over}"
    assert report.messages > 300  # about 2,500 on a quiet machine
    assert len(report.counted) > 10
    assert not [labels for labels in report.counted if '"other"' in labels]
