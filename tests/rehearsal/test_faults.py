"""The fault suite: its checker finds what it is for, and some cases run with a real gateway."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import pytest
from rich.console import Console

from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal.faults.cases import CASES
from offhook.gateway.rehearsal.faults.run import Seen, always, chosen, faults
from offhook.gateway.rehearsal.load.scrape import Scrape
from offhook.gateway.rehearsal.model.record import SessionRecord
from offhook.gateway.rehearsal.phone.truth import CallTruth, StreamTruth, Violation
from offhook.gateway.store.record import CallRecord

pytestmark = [pytest.mark.wall_clock, pytest.mark.usefixtures("forked")]

RECORD = CallRecord(call_sid="CA1", end_reason="caller_hung_up")
GOOD = {
    'offhook_frames_total{direction="inbound"}': 100.0,
    'offhook_frames_dropped_total{reason="model_down"}': 20.0,
    'offhook_calls_total{reason="caller_hung_up",side="caller"}': 1.0,
    "process_open_fds": 9.0,
}


def seen(log: str = "", code: int = 0, records: list[CallRecord] | None = None, **counters: float) -> Seen:
    truth = CallTruth(call_sid="CA1", streams=[StreamTruth(stream_sid="MZ1", url="", dialled_s=0, started_s=1)])
    if code:
        truth.violations.append(Violation(at_s=0, code=code, what="unknown message"))
    session = SessionRecord(0, "", "key", 0.0, audio_bytes=80 * 640)
    before = Scrape(0, {"process_open_fds": 9.0})
    after = Scrape(1, {**GOOD, **counters})
    return Seen([truth], [RECORD] if records is None else [None], [session], before, after, log, {})


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({}, None),
        ({'offhook_frames_total{direction="inbound"}': 103.0}, None),  # on their way when the call ended
        ({'offhook_frames_total{direction="inbound"}': 104.0}, "104 frames received, 80 reached the model, 20 were"),
        ({'offhook_frames_total{direction="inbound"}': 90.0}, "90 frames received, 80 reached the model, 20 were"),
        ({"offhook_samples_after_clear_total": 160.0}, "160 samples of a dropped reply were sent after its clear"),
        ({'offhook_calls_total{reason="model_lost",side="model"}': 1.0}, "2 ends were counted for 1 calls"),
        ({"offhook_calls_active": 1.0}, "1 calls are still active"),
        ({"offhook_stuck_calls_total": 1.0}, "1 calls did not end by themselves"),
        ({"process_open_fds": 12.0}, "3 more descriptors are open than before"),
        ({"log": "Task was destroyed but it is pending!"}, "the log has was destroyed but it is pending"),
        ({"log": "Traceback (most recent call last):"}, "the log has Traceback"),
        ({"code": 31951}, "31951: unknown message"),
        ({"records": []}, "1 ends were counted for 0 calls"),
    ],
)
def test_the_checker_finds(what: dict[str, Any], words: str | None):
    made = seen(**what)
    found = always(made, [record for record in made.records if record is not None])
    if words is None:
        assert found == []
    else:
        assert any(fault.startswith(words) for fault in found), found


def test_cases_are_chosen_by_number():
    assert {case.number for case in chosen(CASES, [], quick=False)} >= {*range(16, 27), *range(30, 35)}
    assert {case.number for case in chosen(CASES, [25], quick=True)} == {25}
    assert all(case.quick for case in chosen(CASES, [], quick=True))
    with pytest.raises(OperatorError, match="no case 99; there are 16, "):
        chosen(CASES, [16, 99], quick=False)


def test_a_few_cases_with_a_real_gateway():
    report = asyncio.run(
        faults(
            chosen(CASES, [17, 24, 25, 32], quick=True), parallel=6, console=Console(quiet=True), clock=time.monotonic
        )
    )
    assert len(report.cases) == 6
    assert [(case.name, case.faults) for case in report.cases if not case.ok] == []
    assert sum(case.calls for case in report.cases) == 11


def test_failed_case_is_printed_and_sets_the_exit_code(tmp_path):
    """The gateway of this case accepts more calls than the case expects."""
    program = (
        "import os, dataclasses, offhook.gateway.cli.rehearse as command\n"
        "command.CASES = tuple(dataclasses.replace(case, environment={}) for case in command.CASES)\n"
        "from offhook.gateway.cli.main import main\n"
        "main()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "faults", "32", "--json", str(tmp_path / "faults.json")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 1, ran.stderr
    assert "✗ 32" in ran.stdout
    assert "6 calls were answered, not 3" in ran.stdout
    assert ran.stdout.endswith("0 of 1 cases good, 6 calls\n")
    (case,) = json.loads((tmp_path / "faults.json").read_text())["cases"]
    assert case["faults"] == ["6 calls were answered, not 3"]
