"""The store of a gateway that serves: records outlive it, callers' numbers do not."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from offhook.gateway.config import settings_from
from offhook.gateway.errors import OperatorError
from offhook.gateway.labels import LABELS
from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.phone.steps import HangUp, Say, WaitForAgent
from offhook.gateway.store.columns import hash_number, unpacked
from offhook.gateway.store.configured import kept_records
from offhook.metrics.catalogue import Metrics
from tests.calls.lines import GREETING, HELLO
from tests.rig.calls import Plan, place_calls

POSTGRES = "postgresql://u:p@127.0.0.1:1/db"


def test_served_call_is_kept_without_its_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "offhook")
    metrics: list[str] = []
    agent = f"greeting: {{text: Greet.}}\nredact: ['Thank']\nrecording: {{enabled: true, directory: {tmp_path}/wav}}"
    plan = Plan((WaitForAgent("end"), Say(HELLO), HangUp()), Script((GREETING,)), agent=agent)
    environ = {"OFFHOOK_DATA_DIR": str(tmp_path / "data")}
    outcome = place_calls({"kept": plan}, environ=environ, metrics=metrics, speed=4.0)["kept"]
    caller = outcome.record.caller
    database = sqlite3.connect(tmp_path / "data" / "offhook.sqlite3")
    ((sid, number, blob, recording),) = database.execute(
        "select call_sid, number_hash, record, recording from calls join records using (id)"
    ).fetchall()
    database.close()
    record = unpacked(blob)
    assert (sid, record.end_reason, record.model != "") == (outcome.record.call_sid, "caller_hung_up", True)
    assert Path(recording).stat().st_size == record.recording.size_bytes > 1_000
    assert abs(record.recording.offset_ms) < 500
    key = (tmp_path / "data" / "number.key").read_bytes()
    assert number == hash_number(caller, key)
    assert "[redacted] you for calling" in record.transcript[0].text
    assert (tmp_path / "data" / "number.key").stat().st_mode & 0o777 == 0o600
    for path in (tmp_path / "data").iterdir():
        assert caller.encode() not in path.read_bytes(), path
    assert sid in caplog.text
    assert caller not in caplog.text + metrics[0]


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"OFFHOOK_DATABASE_URL": POSTGRES}, "needs OFFHOOK_DATA_DIR, too"),
        ({"OFFHOOK_DATABASE_URL": POSTGRES, "OFFHOOK_DATA_DIR": "."}, "needs OFFHOOK_NUMBER_KEY"),
        ({"OFFHOOK_DATA_DIR": "/proc/nowhere"}, "choose a folder to write to"),
        (
            {"OFFHOOK_DATABASE_URL": "mysql://x", "OFFHOOK_DATA_DIR": ".", "OFFHOOK_NUMBER_KEY": "k" * 16},
            "must look like postgresql://",
        ),
    ],
)
def test_unusable_store_is_refused_at_start(
    environ: dict[str, str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OperatorError, match=says):
        kept_records(settings_from(environ), Metrics(CollectorRegistry(), LABELS))


def test_nothing_configured_keeps_records_in_memory() -> None:
    assert kept_records(settings_from({}), Metrics(CollectorRegistry(), LABELS)) is None
