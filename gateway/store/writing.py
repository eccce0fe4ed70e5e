"""What is written and removed, each function within one transaction of its caller."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from offhook.gateway.store.columns import COLUMNS, Entry, first_key, samples_of, tools_of, unpacked, words_of
from offhook.gateway.store.database import Transaction
from offhook.gateway.store.record import CallRecord, RecordingRecord

__all__ = ["HOURS_KEPT_S", "Removed", "drop_old_hours", "expired", "recordings_of", "remove_calls", "write_entries"]

HOUR_S, DAY_S = 3_600, 86_400
WIDTHS_S = (HOUR_S, DAY_S, 30 * DAY_S)  # of counts of latency
HOURS_KEPT_S = 35 * DAY_S  # counts by the hour; wider ones stay
_INSERT = f"insert into calls ({COLUMNS}) values ({', '.join('?' * len(COLUMNS.split(',')))})"
Samples = dict[tuple[int, int, str, str, str], dict[int, int]]  # (width, start, segment, agent, model) -> bin -> count


class Removed(msgspec.Struct, kw_only=True):
    """What was removed: calls, their words and webhooks' bodies, and the files and objects of their recordings."""

    calls: list[str] = []
    lines: int = 0  # of transcripts
    webhooks: int = 0
    recordings: list[str] = []


async def write_entries(session: Transaction, entries: Iterable[Entry], node: str) -> None:
    """Write each entry's record and events. What is there already, from the same owner or a later one, stays.

    `node`: whose counts of latency these are; no two processes that write to one Postgres have the same.
    """
    samples: Samples = defaultdict(dict)
    for entry in entries:
        if entry.row is not None:
            await _write_call(session, entry.row, entry.record, samples)
        for event in entry.events:
            await session.run(
                "insert into outbox (id, subject, kind, body, created_ms, due_ms) values (?, ?, ?, ?, ?, ?) "
                "on conflict (id) do nothing",
                event.id,
                event.subject,
                event.kind,
                event.body,
                event.at_ms,
                event.at_ms,
            )
    await _add_samples(session, samples, node)


async def _write_call(session: Transaction, row: Sequence[Any], data: bytes, samples: Samples) -> None:
    key, call_sid, epoch = row[0], row[1], row[2]
    there = await session.rows("select id, epoch from calls where call_sid = ?", call_sid)
    if there:
        key, epoch_there = there[0]
        if epoch_there > epoch:
            return
        await _take_out(session, key, samples)
    else:
        while await session.rows("select 1 from calls where id = ?", key):  # another call of this millisecond
            key += 1
    record = unpacked(data)
    await session.run(_INSERT, key, *row[1:])
    await session.run("insert into records (id, record) values (?, ?)", key, data)
    if words := words_of(record):
        if session.dialect == "sqlite":
            await session.run("insert into words (rowid, said) values (?, ?)", key, words)
        else:
            await session.run("insert into words (id, said) values (?, to_tsvector('simple', ?::text))", key, words)
    await session.many("insert into call_tools (tool, id) values (?, ?)", [(tool, key) for tool in tools_of(record)])
    _count(samples, record, row[8], 1)


def _count(samples: Samples, record: CallRecord, started_ms: int, sign: int) -> None:
    for segment, bins in samples_of(record).items():
        for width_s in WIDTHS_S:
            start_s = started_ms // 1000 // width_s * width_s
            counted = samples[width_s, start_s, segment, record.agent, record.model]
            for index, count in bins.items():
                counted[index] = counted.get(index, 0) + sign * count


async def _add_samples(session: Transaction, samples: Samples, node: str) -> None:
    for (width_s, start_s, segment, agent, model), bins in sorted(samples.items()):
        key = (width_s, start_s, segment, agent, model, node)
        where = "width_s = ? and start_s = ? and segment = ? and agent = ? and model = ? and node = ?"
        there = await session.rows(f"select bins from latency where {where}", *key)
        total = {int(index): count for index, count in msgspec.json.decode(there[0][0]).items()} if there else {}
        for index, count in bins.items():
            total[index] = total.get(index, 0) + count
        text = msgspec.json.encode({str(index): count for index, count in sorted(total.items()) if count}).decode()
        if there:
            await session.run(f"update latency set bins = ? where {where}", text, *key)
        else:
            await session.run(
                "insert into latency (width_s, start_s, segment, agent, model, node, bins) "
                "values (?, ?, ?, ?, ?, ?, ?)",
                *key,
                text,
            )


async def _take_out(session: Transaction, key: int, samples: Samples | None) -> CallRecord | None:
    """Remove one call from all tables but the outbox; its record. `samples`: from which its own are subtracted."""
    stored = await session.rows(
        "select r.record, c.started_ms from calls c join records r on r.id = c.id where c.id = ?", key
    )
    if not stored:
        return None
    record = unpacked(stored[0][0])
    if samples is not None:
        _count(samples, record, stored[0][1], -1)
    if session.dialect == "postgres":
        await session.run("delete from words where id = ?", key)
    elif words := words_of(record):
        await session.run("insert into words (words, rowid, said) values ('delete', ?, ?)", key, words)
    for table in ("call_tools", "records", "calls"):
        await session.run(f"delete from {table} where id = ?", key)
    return record


async def remove_calls(session: Transaction, keys: Iterable[int]) -> Removed:
    """Remove these calls: records, words, webhooks' bodies. Counts of latency stay: they name nobody.

    The caller has removed the recordings before: a failure in between leaves records to try again.
    """
    removed = Removed()
    for key in keys:
        record = await _take_out(session, key, None)
        if record is None:
            continue
        removed.calls.append(record.call_sid)
        removed.lines += len(record.transcript)
        removed.webhooks += await session.run("delete from outbox where subject = ?", record.call_sid)
    return removed


async def recordings_of(session: Transaction, keys: Sequence[int]) -> list[tuple[str, RecordingRecord]]:
    """The recordings of these calls, each with its call's SID."""
    marks = ", ".join("?" * len(keys))
    which = f"c.id in ({marks}) and c.recording <> ''"
    sql = f"select r.record from calls c join records r on r.id = c.id where {which} order by c.id"
    records = [unpacked(row[0]) for row in await session.rows(sql, *keys)]
    return [(record.call_sid, record.recording) for record in records if record.recording is not None]


async def drop_old_hours(session: Transaction, now_ms: int) -> None:
    """Counts by the hour older than `HOURS_KEPT_S`."""
    before_s = now_ms // 1000 - HOURS_KEPT_S
    await session.run("delete from latency where width_s = ? and start_s < ?", HOUR_S, before_s)


async def expired(
    session: Transaction, agent: str, before_ms: int | None, most_bytes: int | None, limit: int
) -> list[int]:
    """Keys of an agent's oldest calls that are older than `before_ms`, or beyond `most_bytes` of all its calls."""
    keys: list[int] = []
    if before_ms is not None:
        sql = "select id from calls where agent = ? and id < ? order by id limit ?"
        keys = [row[0] for row in await session.rows(sql, agent, first_key(before_ms), limit)]
    if most_bytes is None or keys:
        return keys
    ((total,),) = await session.rows("select coalesce(sum(size_bytes), 0) from calls where agent = ?", agent)
    excess = int(total) - most_bytes
    if excess <= 0:
        return keys
    for key, size in await session.rows(
        "select id, size_bytes from calls where agent = ? order by id limit ?", agent, limit
    ):
        if excess <= 0:
            break
        keys.append(key)
        excess -= size
    return keys
