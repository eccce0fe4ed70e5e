"""`offhook demo --kill`: the caller's call outlives the worker that has it, and report and picture show it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from offhook.gateway.rehearsal.kill import kill_scenario, run_kill
from offhook.gateway.rehearsal.phone.steps import HangUp

pytestmark = pytest.mark.wall_clock


async def test_demo_survives_its_process(tmp_path: Path) -> None:
    scenario = kill_scenario()
    # Up to the words after the hole.
    steps = [*scenario.steps[:3], replace(scenario.steps[3], ms=5500), HangUp()]
    kept = [one for one in scenario.expect if one.kind in ("streams", "end_reason")]
    report, killer = await run_kill(replace(scenario, steps=steps, expect=kept), tmp_path)
    assert [v.words for v in report.calls[0].verdicts if not v.ok] == []
    assert killer.victim in (tmp_path / "gateway.log").read_text()
    assert "the agent was heard again after" in killer.words()
    assert (tmp_path / "call.png").stat().st_size > 10_000
