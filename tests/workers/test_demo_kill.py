"""`offhook demo --kill`: the caller's call outlives the worker that has it, and report and picture show it."""

from __future__ import annotations

from pathlib import Path

import pytest

from offhook.gateway.rehearsal.kill import run_kill

pytestmark = pytest.mark.wall_clock


async def test_demo_survives_its_process(tmp_path: Path) -> None:
    report, killer = await run_kill(tmp_path)
    assert [v.words for v in report.calls[0].verdicts if not v.ok] == []
    assert killer.victim in (tmp_path / "gateway.log").read_text()
    assert "the agent was heard again after" in killer.words()
    assert (tmp_path / "call.png").stat().st_size > 10_000
