"""Random troubles, many links at once; the long run is `python -m tests.bench.fuzz_link --scripts 200 --seed 1`."""

import asyncio

import pytest

from tests.bench.fuzz_link import fuzz, script_of


@pytest.mark.wall_clock
def test_every_link_recovers_or_gives_up_and_is_gone():
    report = asyncio.run(fuzz(scripts=16, seed=7))  # more at once would measure the machine
    assert report.broken == []
    assert report.ends["goes on"] > 0
    assert sum(report.ends.values()) > report.ends["goes on"], "some storms are too much"
    assert report.outlived > 0, "and some are survived"


def test_a_script_is_its_seed():
    assert script_of(3) == script_of(3)
    assert len({repr(script_of(seed)) for seed in range(50)}) == 50


@pytest.mark.wall_clock
def test_a_link_that_does_not_stop_trying_is_found(monkeypatch):
    """Planted: patience that never ends."""
    monkeypatch.setattr("offhook.gateway.models.gemini.link.next_step", stubborn)
    report = asyncio.run(fuzz(scripts=8, seed=7, lasts_s=2.0))
    assert any("allowed" in line for line in report.broken)


def stubborn(tried, cause, now_s, *, has_handle, patience):
    from offhook.gateway.models.gemini.recovery import Connect

    return tried, Connect(0.0, resume=has_handle)
