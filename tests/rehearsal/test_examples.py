"""The example agents as a rehearsal has them; `make simulate` plays their scenarios."""

from __future__ import annotations

from pathlib import Path

import pytest

from offhook.gateway.rehearsal import examples
from offhook.gateway.rehearsal.run import run_scenario
from offhook.gateway.rehearsal.scenario.load import parse_scenario

pytestmark = [pytest.mark.wall_clock(calm=True), pytest.mark.usefixtures("forked")]

BOOKS = f"""\
name: books
agent: {Path(examples.__file__).parent / "appointments.agent.yaml"}
allow_outside_effects: true
caller:
  steps: [wait_for_end]
model:
  replies:
    - on: text
      do:
        - tool: book_appointment
          args: {{day: Tuesday, time: "10:00", service: check-up, name: Jo Marsh}}
    - on: tool:book_appointment
      do:
        - {{say: Goodbye, length_ms: 500}}
        - tool: end_call
expect:
  tool_outcomes: {{book_appointment: done}}
"""


async def test_a_rehearsal_writes_into_nobodys_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFHOOK_APPOINTMENTS_DB", str(tmp_path / "the-real-book.sqlite"))
    report = await run_scenario(parse_scenario(BOOKS), tmp_path / "out")
    assert [verdict.words for verdict in report.calls[0].verdicts if not verdict.ok] == []
    assert not (tmp_path / "the-real-book.sqlite").exists()
