"""`offhook report`: one call out of a report, a record, or a running gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.cli.main import app
from offhook.gateway.cli.report import report_from
from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal.results.report import report_of, write_report
from offhook.gateway.store.record import BargeInRecord, CallRecord, ToolRecord, TurnRecord
from offhook.metrics.segments import OUTSIDE
from tests.rig.gateway import serving
from tests.rig.process import in_thread

SID = "CA" + "1" * 32
RECORD = CallRecord(
    call_sid=SID,
    duration_ms=9_000.0,
    end_reason="caller_hung_up",
    end_side="caller",
    streams=["MZ1"],
    segments={"webhook_response": 10.0, "answer_to_greeting": 900.0},
    turns=[
        TurnRecord(number=1, generation=1, reply_text="Hello.", reply_started_ms=500.0, reply_ended_ms=1_500.0),
        TurnRecord(
            number=2,
            generation=2,
            caller_started_ms=2_000.0,
            caller_ended_ms=3_000.0,
            caller_text="a table",
            reply_text="For how many?",
            reply_started_ms=3_600.0,
            reply_ended_ms=5_000.0,
            interrupted=True,
            segments={"model_first_audio": 600.0, "output_onset_sent": 20.5, "turn_gap": 712.0},
        ),
    ],
    barge_ins=[
        BargeInRecord(generation=2, onset_ms=4_800.0, decided_ms=4_880.0, clear_sent_ms=4_881.0, stopped_ms=4_950.0)
    ],
    tool_calls=[ToolRecord(call_id="1", name="find_table", requested_ms=3_200.0, finished_ms=3_400.0, outcome="done")],
    errors=["model: connection lost: 1006 network"],
)


def shown(*arguments: object, environ: dict[str, str] | None = None) -> str:
    done = CliRunner().invoke(app, ["report", *map(str, arguments)], env=environ, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def is_whole(words: str) -> None:
    for part in ("712", "find_table", "a table", "turn_gap 1 712.0 – – 712.0", "connection lost", OUTSIDE):
        assert part in words, part


def test_a_record_is_shown_and_drawn(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(msgspec.json.encode(RECORD))
    words = shown(path, "--out", tmp_path)
    is_whole(words)
    assert (tmp_path / f"{SID}.png").stat().st_size > 10_000
    assert "line_" not in words  # nobody stood at the line


def test_a_record_stays_in_its_folder_and_lines(tmp_path: Path) -> None:
    path, out = tmp_path / "record.json", tmp_path / "out"
    out.mkdir()
    turn = msgspec.structs.replace(RECORD.turns[0], caller_text="\x1b]0;owned\x07\x1b[2J")
    forged = msgspec.structs.replace(RECORD, call_sid="../../escaped", errors=["\x1b[31mred"], turns=[turn])
    path.write_bytes(msgspec.json.encode(forged))
    words = shown(path, "--out", out)
    assert "\x1b" not in words
    assert [found.name for found in tmp_path.rglob("*.png")] == ["call.png"]
    assert not list(tmp_path.parent.glob("escaped*"))


def test_one_call_out_of_a_report(tmp_path: Path) -> None:
    other = msgspec.structs.replace(RECORD, call_sid="CA" + "2" * 32, turns=[])
    path = tmp_path / "report.json"
    write_report(report_of([report_from(RECORD), report_from(other)]), path)
    is_whole(shown(path, "--call", SID))
    assert "2 of 2 calls" in shown(path)
    with pytest.raises(OperatorError, match="holds 2 calls"):
        shown(path, "--call", "CA3")


@pytest.fixture
def gateway() -> Iterator[str]:
    """A gateway in a thread of its own, that had the call."""

    @asynccontextmanager
    async def served() -> AsyncIterator[str]:
        environ = {"OFFHOOK_INSECURE": "1", "GEMINI_API_KEY": "x", "OFFHOOK_CONSOLE_TOKEN": "only-for-this-test"}
        async with serving([parse_agent("name: a\ninstructions: x\n")], environ) as (gateway, url):
            gateway.records.keep(RECORD)
            yield url

    with in_thread(served()) as url:
        yield url


def test_a_call_of_a_running_gateway(gateway: str, tmp_path: Path) -> None:
    token = {"OFFHOOK_CONSOLE_TOKEN": "only-for-this-test"}
    is_whole(shown(SID, "--url", gateway, "--out", tmp_path, environ=token))
    with pytest.raises(OperatorError, match="set OFFHOOK_CONSOLE_TOKEN"):
        shown(SID, "--url", gateway, environ={"OFFHOOK_CONSOLE_TOKEN": ""})
    with pytest.raises(OperatorError, match="has no record of call"):
        shown("CA" + "9" * 32, "--url", gateway, environ=token)


@pytest.mark.parametrize(
    ("what", "cure"),
    [("absent.json", "no such file"), ("CA1", "give its address with --url")],
)
def test_what_is_not_there_is_said_with_its_cure(what: str, cure: str) -> None:
    with pytest.raises(OperatorError, match=cure):
        shown(what, "--url", "http://127.0.0.1:9")


def test_a_file_that_is_something_else(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": 1}')
    with pytest.raises(OperatorError, match="neither a call's record nor a report"):
        shown(path)
