"""`offhook db`, `calls` and `webhooks` on a database with some calls."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import wave
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from offhook.gateway.cli.main import app
from offhook.gateway.store.columns import CallEvent, entry_of
from offhook.gateway.store.migrate import migrate
from offhook.gateway.store.outbound import OutboundTable, Row
from offhook.gateway.store.outbox import failed
from offhook.gateway.store.recordings import Recordings
from offhook.gateway.store.sealed import read_keys
from offhook.gateway.store.sqlite import SqliteDatabase
from offhook.gateway.store.writing import write_entries
from tests.needs import require
from tests.store.made import CALLER, KEY, NOON_MS, record


async def fill(folder: Path) -> None:
    database = SqliteDatabase(folder / "offhook.sqlite3")
    await migrate(database)
    (folder / "CA1.wav").write_bytes(b"RIFF")
    calls = [
        record("CA1", recording=str(folder / "CA1.wav"), said="one pizza"),
        record("CA2", at_ms=NOON_MS + 1_000, agent="night"),
        record("CA3", at_ms=NOON_MS + 2_000, caller="+15550000001", tool="book"),
    ]
    entries = [
        entry_of(one, 1, KEY, (CallEvent(f"id-{one.call_sid}", one.call_sid, "call.ended", b"{}", NOON_MS),))
        for one in calls
    ]
    await database.write(partial(write_entries, entries=entries, node="n"))
    await database.write(partial(failed, seq=1, error="answered 500", due_ms=None))
    await database.close()


def run(folder: Path, *arguments: str, code: int = 0, **environ: str) -> str:
    environ = {"OFFHOOK_DATA_DIR": str(folder), "OFFHOOK_NUMBER_KEY": KEY.decode(), **environ}
    result = CliRunner().invoke(app, list(arguments), env=environ)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    asyncio.run(fill(tmp_path))
    return tmp_path


def test_calls_are_listed_by_filter(folder: Path) -> None:
    def sids(*arguments: str) -> list[str]:
        lines = run(folder, "calls", "list", "--json", *arguments).splitlines()
        return [json.loads(line)["call_sid"] for line in lines]

    assert sids() == ["CA3", "CA2", "CA1"]
    assert sids("--limit", "2") == ["CA3", "CA2"]
    assert sids("--caller", CALLER, "--agent", "desk") == ["CA1"]
    assert sids("--words", "pizza") == ["CA1"]
    assert sids("--tool", "book", "--since", "2026-11-27T12:00:02Z") == ["CA3"]
    assert "CA3" in run(folder, "calls", "list").splitlines()[0]


def test_outbound_calls_are_listed_and_forgotten(folder: Path) -> None:
    async def ask() -> None:
        database = SqliteDatabase(folder / "offhook.sqlite3")
        table = OutboundTable(database, "n", KEY, lambda: NOON_MS / 1000)
        for id, to in (("first", CALLER), ("second", "+15550000002")):
            await table.submit(Row(id, "", "{}", "waiting"), id, to, 9)
        await table.save("first", "completed", "CA9", "human", "")
        await database.close()

    asyncio.run(ask())
    second, first = run(folder, "calls", "outbound").splitlines()
    assert second.split()[1:] == ["waiting", "second"]
    assert first.split()[1:] == ["completed", "first", "CA9", "human"]
    run(folder, "db", "forget", "--caller", CALLER, "--yes")
    assert run(folder, "calls", "outbound").splitlines() == [second]


def test_a_call_is_shown_and_all_are_exported(folder: Path) -> None:
    shown = json.loads(run(folder, "calls", "show", "CA1"))
    assert (shown["transcript"][0]["text"], shown["usage"]["cost_usd"]) == ("one pizza", 0.01)
    rows = list(csv.DictReader(io.StringIO(run(folder, "calls", "export", "--csv"))))
    assert [rows[0][name] for name in ("call_sid", "tokens", "turn_gap_ms")] == ["CA3", "120", "800.0"]
    whole = [json.loads(line) for line in run(folder, "calls", "export", "--agent", "night").splitlines()]
    assert [one["call_sid"] for one in whole] == ["CA2"]


def test_calls_are_exported_as_parquet(folder: Path) -> None:
    require("pyarrow")
    from pyarrow import parquet

    run(folder, "calls", "export", "--parquet", str(folder / "calls.parquet"))
    rows = parquet.read_table(folder / "calls.parquet").to_pylist()
    assert [(row["call_sid"], row["tokens"], row["cost_usd"]) for row in rows] == [
        (name, 120, 0.01) for name in ("CA3", "CA2", "CA1")
    ]
    assert rows[2]["started_at"].timestamp() * 1000 == NOON_MS


def test_a_recording_is_decrypted_into_a_file(folder: Path) -> None:
    key = "2026:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    (folder / "CA1.wav").unlink()
    sealed = Recordings(read_keys(key)).create(folder / "CA1.wav.sealed")
    sealed.write(0, bytes(range(200)) * 400)
    sealed.close()
    (folder / "CA1.wav.sealed").rename(folder / "CA1.wav")  # where its record says
    out = folder / "out.wav"
    run(folder, "calls", "recording", "CA1", "--out", str(out), OFFHOOK_RECORDING_KEYS=key)
    with wave.open(str(out)) as file:
        assert file.readframes(99_999) == bytes(range(200)) * 400
    (folder / "keys").write_text(key + "\n")
    run(folder, "calls", "recording", "CA1", "-o", str(out), OFFHOOK_RECORDING_KEYS_FILE=str(folder / "keys"))


def test_a_forgotten_caller_leaves_other_calls(folder: Path) -> None:
    said = run(folder, "db", "forget", "--caller", "+1 (555) 123-4567", "--yes")
    assert "removed: 2 calls, 4 lines of transcripts, 2 webhooks, 1 recordings" in said
    assert not (folder / "CA1.wav").exists()
    assert "calls: 1" in run(folder, "db", "status")
    assert "removed: 1 calls" in run(folder, "db", "forget", "--call", "CA3", "--yes")
    assert "removed: 0 calls" in run(folder, "db", "forget", "--call", "CA3")


def test_dead_webhooks_are_listed_and_retried(folder: Path) -> None:
    listed = run(folder, "webhooks", "list", "--dead").splitlines()
    assert len(listed) == 1
    assert "id-CA1" in listed[0]
    assert "answered 500" in listed[0]
    assert "1 webhooks are due again" in run(folder, "webhooks", "retry")
    assert run(folder, "webhooks", "list", "--dead") == ""
    assert len(run(folder, "webhooks", "list").splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "environ", "says"),
    [
        (("calls", "list"), {"OFFHOOK_DATA_DIR": ""}, "records are kept in memory: set OFFHOOK_DATA_DIR"),
        (("calls", "list"), {"OFFHOOK_DATA_DIR": "/nowhere"}, "no such folder"),
        (("calls", "list", "--since", "tuesday"), {}, "since must be a time such as"),
        (("calls", "show", "CA9"), {}, "no record of call CA9"),
        (("calls", "recording", "CA2"), {}, "no recording of call CA2"),
        (("calls", "recording", "CA1"), {"OFFHOOK_RECORDING_KEYS": "x"}, "entry 1 must be a name of its own"),
        (("calls", "recording", "CA1"), {"OFFHOOK_RECORDING_KEYS_FILE": "/nowhere"}, "No such file"),
        (("calls", "recording", "CA1"), {"OFFHOOK_RECORDINGS_BUCKET": "calls"}, "must look like s3://bucket/prefix"),
        (("db", "forget"), {}, "either --caller NUMBER or --call SID"),
        (("db", "forget", "--caller", "Ada"), {}, "is not a telephone number"),
        (("webhooks", "send-test"), {}, "set OFFHOOK_WEBHOOK_URL"),
    ],
)
def test_what_cannot_be_done_says_what_to_do(
    folder: Path, arguments: tuple[str, ...], environ: dict[str, str], says: str
) -> None:
    full = {"OFFHOOK_DATA_DIR": str(folder), "OFFHOOK_NUMBER_KEY": KEY.decode(), **environ}
    result = CliRunner().invoke(app, list(arguments), env=full)
    assert says in str(result.exception)


def test_an_empty_folder_is_migrated(tmp_path: Path) -> None:
    assert "pending: 0001_records.sql" in run(tmp_path, "db", "status")
    assert "applied 0001_records.sql" in run(tmp_path, "db", "migrate")
    assert "calls: 0" in run(tmp_path, "db", "status")
