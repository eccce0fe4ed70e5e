"""The example agents, each in a call through the gateway's own process, as `offhook simulate` places it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.rehearsal.run import run_scenario
from gateway.rehearsal.scenario import load_scenario


@pytest.mark.wall_clock
async def test_both_examples_do_what_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFHOOK_APPOINTMENTS_DB", str(tmp_path / "the-real-book.sqlite"))
    names = ("appointments", "lists")
    reports = await asyncio.gather(*(run_scenario(load_scenario(name), tmp_path / name) for name in names))
    for report in reports:
        assert [verdict.words for call in report.calls for verdict in call.verdicts if not verdict.ok] == []
    assert not (tmp_path / "the-real-book.sqlite").exists(), "a rehearsal writes into nobody's book"
