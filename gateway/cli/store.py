"""The `offhook` commands of the store: `db`, `calls` and `webhooks`. They work on the configured database, whether a
gateway runs or not.

`mount(app)` adds them to the command line.
"""

from __future__ import annotations

import asyncio
import csv
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from offhook.gateway.config import settings_from
from offhook.gateway.errors import OperatorError
from offhook.gateway.store.asked import query_of
from offhook.gateway.store.columns import iso
from offhook.gateway.store.configured import configured_database, configured_recordings, number_key
from offhook.gateway.store.database import CallDatabase
from offhook.gateway.store.history import PAGE_MAX, CallQuery, KeptCall, count_calls, find_record, list_calls
from offhook.gateway.store.migrate import NEWEST, migrate, schema_status
from offhook.gateway.store.outbound import listed_outbound
from offhook.gateway.store.outbox import listed, retry_dead, waiting
from offhook.gateway.store.upkeep import forget

__all__ = ["mount"]

T = TypeVar("T")
PIECE_BYTES = 1_000_000
PARQUET_ROWS = 50_000  # of one row group
Since = Annotated[str, typer.Option(help="From this time on: 2026-11-24, or 2026-11-24T15:00+01:00; UTC by default.")]
Until = Annotated[str, typer.Option(help="Before this time.")]
Number = Annotated[str, typer.Option("--caller", help="The other party's number.")]
Agent = Annotated[str, typer.Option(help="Name of the agent.")]
Words = Annotated[str, typer.Option(help="Words that were said.")]
EndReason = Annotated[str, typer.Option("--end", help="Why it ended, such as caller_hung_up.")]
Tool = Annotated[str, typer.Option(help="A tool that ran.")]


def mount(app: typer.Typer) -> None:
    """Add the commands."""
    db = typer.Typer(help="The store of records: its schema, and what is removed from it.", no_args_is_help=True)
    db.command("status")(db_status)
    db.command("migrate")(db_migrate)
    db.command("forget")(db_forget)
    app.add_typer(db, name="db")
    calls = typer.Typer(help="Records of past calls, and the outbound queue.", no_args_is_help=True)
    calls.command("list")(calls_list)
    calls.command("outbound")(calls_outbound)
    calls.command("show")(calls_show)
    calls.command("export")(calls_export)
    calls.command("recording")(calls_recording)
    app.add_typer(calls, name="calls")
    webhooks = typer.Typer(help="Webhooks to your systems, and how their delivery goes.", no_args_is_help=True)
    webhooks.command("list")(webhooks_list)
    webhooks.command("retry")(webhooks_retry)
    webhooks.command("send-test")(webhooks_send_test)
    app.add_typer(webhooks, name="webhooks")


def _with_database(work: Callable[[CallDatabase], Awaitable[T]], *, whole_schema: bool = True) -> T:
    """Run this on the configured database. Raises `OperatorError` for a schema that is not the newest."""

    async def main() -> T:
        database = configured_database(settings_from(os.environ))
        try:
            if whole_schema and (await schema_status(database)).pending:
                raise OperatorError(f"{database.where} has an older schema: run `offhook db migrate`")
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(main())


# --- db


def db_status() -> None:
    """Show the schema's version, the calls and webhooks in it, and what `migrate` would apply."""

    async def work(database: CallDatabase) -> None:
        status = await schema_status(database)
        print(f"{database.where}: schema {status.version} of {NEWEST}")
        for name in status.pending:
            print(f"pending: {name} (`offhook db migrate`)")
        if not status.pending:
            print(f"calls: {await database.read(count_calls)}")
            for state, count in sorted((await database.read(waiting)).items()):
                print(f"webhooks {state}: {count}")

    _with_database(work, whole_schema=False)


def db_migrate() -> None:
    """Bring the schema up to date; `offhook serve` does so at its start."""

    async def work(database: CallDatabase) -> None:
        for name in await migrate(database):
            print(f"applied {name}")
        print(f"{database.where}: schema {NEWEST}")

    _with_database(work, whole_schema=False)


def db_forget(
    call_sid: Annotated[str, typer.Option("--call", help="SID of one call.")] = "",
    caller: Number = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove the calls of a number, or one call: record, words, webhooks and recording. Says what was removed."""
    if bool(call_sid) == bool(caller):
        raise OperatorError("name what to forget: either --caller NUMBER or --call SID")
    settings = settings_from(os.environ)
    query = CallQuery(call_sid=call_sid) if call_sid else query_of({"number": caller}, number_key(settings))

    async def work(database: CallDatabase) -> None:
        if not yes:
            page = await database.read(lambda session: list_calls(session, msgspec.structs.replace(query, limit=1)))
            if page.calls and not typer.confirm(f"Remove these calls from {database.where} for good?"):
                raise typer.Abort
        removed = await forget(database, query, configured_recordings(settings))
        print(
            f"removed: {len(removed.calls)} calls, {removed.lines} lines of transcripts, {removed.webhooks} webhooks, "
            f"{len(removed.recordings)} recordings"
        )
        for call in removed.calls:
            print(call)
        print("A running gateway drops them from its memory within a minute.", file=sys.stderr)

    _with_database(work)


# --- calls


def calls_list(
    since: Since = "",
    until: Until = "",
    caller: Number = "",
    agent: Agent = "",
    end: EndReason = "",
    tool: Tool = "",
    words: Words = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List calls, newest first."""
    query = _query(since, until, caller, agent, end, tool, words)

    def show(call: KeptCall) -> None:
        if json:
            print(msgspec.json.encode(call).decode())
            return
        gap = "" if call.turn_gap_ms is None else f"{call.turn_gap_ms:.0f} ms"
        length = f"{call.duration_ms // 60_000}:{call.duration_ms // 1000 % 60:02}"
        fields = f"{call.started_at[:19]}  {call.call_sid:34}  {call.agent:16.16}  {call.number:14}  {length:>6}"
        print(f"{fields}  {gap:>8}  {call.end_reason}")

    _with_database(lambda database: _each(database, query, show, limit))


def calls_outbound(limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50) -> None:
    """List outbound calls of the last 7 days, newest first: time, status, id, SID at the carrier, what went wrong."""

    async def work(database: CallDatabase) -> None:
        for row, created_ms in await database.read(lambda session: listed_outbound(session, limit)):
            fields = f"{iso(created_ms)[:19]}  {row.status:11}  {row.id}  {row.call_sid:34}  {row.answered_by}"
            print(f"{fields}  {row.error}".rstrip())

    _with_database(work)


def calls_show(call_sid: Annotated[str, typer.Argument(help="SID of the call.")]) -> None:
    """Print one call's whole record as JSON: turns with their latency, tools, transcript, tokens, cost, errors."""
    record = _with_database(lambda database: database.read(lambda session: find_record(session, call_sid)))
    if record is None:
        raise OperatorError(f"no record of call {call_sid}")
    print(msgspec.json.format(msgspec.json.encode(record), indent=2).decode())


def calls_recording(
    call_sid: Annotated[str, typer.Argument(help="SID of the call.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; CALL_SID.wav without it.")] = None,
) -> None:
    """Write a call's recording to a WAV file: from the disk or the bucket, decrypted."""
    recordings = configured_recordings(settings_from(os.environ))
    record = _with_database(lambda database: database.read(lambda session: find_record(session, call_sid)))
    if record is None or record.recording is None:
        raise OperatorError(f"no {'recording' if record else 'record'} of call {call_sid}")
    audio = recordings.opened(record.recording)
    if audio is None:
        where = record.recording.object or record.recording.file
        raise OperatorError(f"the recording of call {call_sid} is not on this machine: {where}")
    path, at = out or Path(f"{call_sid}.wav"), 0
    with path.open("wb") as file:
        while piece := audio.read(at, PIECE_BYTES):
            file.write(piece)
            at += len(piece)
    audio.close()
    print(f"{path}: {at} bytes")


def calls_export(
    since: Since = "",
    until: Until = "",
    agent: Agent = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV: one line a call.")] = False,
    parquet: Annotated[Path | None, typer.Option(help="To this Parquet file, with the columns of the CSV.")] = None,
) -> None:
    """Write calls to standard output, newest first: as JSON lines with whole records, as CSV, or as Parquet."""
    query = _query(since, until, "", agent, "", "", "")
    writer = csv.writer(sys.stdout)

    async def work(database: CallDatabase) -> None:
        if parquet is not None:
            await _export_parquet(database, query, parquet)
            return
        if as_csv:
            names = KeptCall.__struct_fields__
            writer.writerow(names)
            await _each(database, query, lambda call: writer.writerow([getattr(call, name) for name in names]))
            return
        sids: list[str] = []
        await _each(database, query, lambda call: sids.append(call.call_sid))
        for sid in sids:
            record = await database.read(partial(find_record, call_sid=sid))
            if record is not None:
                print(msgspec.json.encode(record).decode())

    _with_database(work)


async def _export_parquet(database: CallDatabase, query: CallQuery, path: Path) -> None:
    """`started_at` as a time in UTC, everything else as in the CSV."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise OperatorError("--parquet needs pyarrow: pip install 'offhook[parquet]'") from None
    kinds = {"str": pyarrow.string(), "int": pyarrow.int64(), "bool": pyarrow.bool_()}
    columns = [(name, kinds.get(kind, pyarrow.float64())) for name, kind in KeptCall.__annotations__.items()]
    schema = pyarrow.schema(columns)
    schema = schema.set(
        schema.get_field_index("started_at"), pyarrow.field("started_at", pyarrow.timestamp("ms", "UTC"))
    )
    rows: list[dict[str, Any]] = []
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            rows.clear()

        def add(call: KeptCall) -> None:
            started = datetime.fromisoformat(call.started_at) if call.started_at else None
            rows.append({**msgspec.to_builtins(call), "started_at": started})
            if len(rows) >= PARQUET_ROWS:
                flush()

        await _each(database, query, add)
        flush()


def _query(since: str, until: str, caller: str, agent: str, end: str, tool: str, words: str) -> CallQuery:
    names = ("since", "until", "number", "agent", "end_reason", "tool", "words")
    given = zip(names, (since, until, caller, agent, end, tool, words), strict=True)
    return query_of(dict(given), number_key(settings_from(os.environ)) if caller else b"")


async def _each(
    database: CallDatabase, query: CallQuery, use: Callable[[KeptCall], Any], limit: int | None = None
) -> None:
    """Hand every call of the query to `use`, page by page."""
    left = limit
    while left is None or left > 0:
        size = PAGE_MAX if left is None else min(PAGE_MAX, left)
        page = await database.read(partial(list_calls, query=msgspec.structs.replace(query, limit=size)))
        for call in page.calls:
            use(call)
        if page.next is None:
            return
        query = msgspec.structs.replace(query, before=int(page.next))
        left = None if left is None else left - len(page.calls)


# --- webhooks


def webhooks_list(
    dead: Annotated[bool, typer.Option("--dead", help="Only those that are not tried again.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
) -> None:
    """List webhooks, newest first: time, state, attempts, kind, id, what went wrong."""

    async def work(database: CallDatabase) -> None:
        for one in await database.read(lambda session: listed(session, "dead" if dead else None, limit)):
            fields = f"{iso(one.created_ms)[:19]}  {one.state:9}  {one.attempts:2}  {one.kind:15}  {one.id}"
            print(f"{fields}  {one.subject}  {one.error}".rstrip())

    _with_database(work)


def webhooks_retry(
    id: Annotated[str, typer.Argument(help="Id of one; none: all that are dead.")] = "",
) -> None:
    """Deliver dead webhooks again: a running gateway sends them within a second."""
    now_ms = int(time.time() * 1000)
    count = _with_database(lambda database: database.write(lambda session: retry_dead(session, now_ms, id or None)))
    print(f"{count} webhooks are due again")


def webhooks_send_test() -> None:
    """Send a signed test event to OFFHOOK_WEBHOOK_URL, once, and show the answer. Exit code 1 without a 2xx."""
    from offhook.gateway.webhooks.deliver import receiver_for

    receiver = receiver_for(settings_from(os.environ))
    if receiver is None:
        raise OperatorError("set OFFHOOK_WEBHOOK_URL and OFFHOOK_WEBHOOK_SECRET")
    at_s = int(time.time())
    body = msgspec.json.encode({"type": "test", "timestamp": iso(at_s * 1000), "data": {}})

    async def main() -> tuple[int, str]:
        try:
            return await receiver.send(str(uuid.uuid4()), body, at_s)
        finally:
            await receiver.close()

    status, error = asyncio.run(main())
    print(error or f"answered {status}")
    if error:
        raise typer.Exit(1)
