"""The store with many calls: what a page, a search, percentiles and one call take, and how large a call is.

    python -m tests.bench.bench_store make FOLDER [COUNT]        SQLite with so many synthetic calls of 50 weeks
    python -m tests.bench.bench_store make postgresql://... [COUNT]
    python -m tests.bench.bench_store ask FOLDER | postgresql://...
    python -m tests.bench.bench_store loop FOLDER [SECONDS]      stalls of the event loop while calls end
    python -m tests.bench.bench_store                            the short form: 20,000 calls in a temporary folder

Percentiles are nearest-rank over 100 questions of each kind, at random places of the year, after one that warms up.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from offhook.gateway.labels import LABELS
from offhook.gateway.store import postgres as postgres_module
from offhook.gateway.store.columns import COLUMNS, CallEvent, entry_of, first_key, hash_number, iso, packed, words_of
from offhook.gateway.store.database import CallDatabase, Transaction
from offhook.gateway.store.history import CallQuery, count_calls, find_record, list_calls, percentiles
from offhook.gateway.store.kept import KeptRecords
from offhook.gateway.store.migrate import migrate
from offhook.gateway.store.postgres import PostgresDatabase
from offhook.gateway.store.record import BargeInRecord, CallRecord, ToolRecord, TranscriptLine, TurnRecord
from offhook.gateway.store.spool import Spool
from offhook.gateway.store.sqlite import SqliteDatabase
from offhook.gateway.store.writing import write_entries
from offhook.metrics.catalogue import Metrics

KEY = b"bench"
WEEK_MS = 7 * 86_400_000
YEAR_MS = 50 * WEEK_MS
NOW_MS = 1_795_737_600_000  # 2026-11-27 00:00 UTC
WEEK_CALLS = 20_000
BATCH = 500
ASKED = 100
AGENTS = ("desk", "sales", "support", "night", "orders")
TOOLS = ("find_table", "book_table", "remember", "transfer", "end_call")
ENDS = (
    ("caller_hung_up", "caller", 80),
    ("agent_hung_up", "agent", 15),
    ("transferred", "agent", 4),
    ("model_lost", "model", 1),
)
COMMON = [f"common{i}" for i in range(300)]
RARE = [f"rare{i}" for i in range(50_000)]


def made(number: int, count: int, rng: random.Random) -> CallRecord:
    """The call of this number, of `count` in the week: six turns, 10 kB of JSON."""

    def words(count: int) -> str:
        return " ".join(rng.choice(COMMON) if rng.random() < 0.97 else rng.choice(RARE) for _ in range(count))

    started_ms = NOW_MS - WEEK_MS + number * WEEK_MS // count
    turns, lines = [], []
    for turn in range(6):
        gap = rng.lognormvariate(6.6, 0.25)
        segments = {
            "turn_gap": gap,
            "model_first_audio": gap - 60,
            "output_onset_sent": 3.0,
            "output_onset_played": gap,
        }
        segments |= {"model_first_event": gap - 90, "uplink_forward": 1.0, "output_onset_played": gap}
        said, answer = words(12), words(25)
        turns.append(
            TurnRecord(
                number=turn + 1,
                generation=turn,
                segments=segments,
                caller_text=said,
                reply_text=answer,
                caller_started_ms=turn * 9e3,
                caller_ended_ms=turn * 9e3 + 3e3,
                reply_started_ms=turn * 9e3 + 4e3,
            )
        )
        lines.append(TranscriptLine(at_ms=turn * 9e3, who="caller", text=said))
        lines.append(TranscriptLine(at_ms=turn * 9e3 + 4e3, who="agent", text=answer, heard_text=answer))
    end, side, _ = rng.choices(ENDS, [weight for *_, weight in ENDS])[0]
    cut = {"bargein_silence": rng.lognormvariate(5, 0.3), "bargein_detect": 60.0, "bargein_stop": 40.0}
    return CallRecord(
        call_sid=f"CA{number:032x}",
        agent=rng.choice(AGENTS),
        model="model-1",
        caller=f"+1555{rng.randrange(10**7):07}",
        started_at=iso(started_ms),
        duration_ms=60_000.0,
        end_reason=end,
        end_side=side,
        turns=turns,
        barge_ins=[BargeInRecord(generation=1, onset_ms=1, decided_ms=2, verdict="confirmed_locally", segments=cut)],
        tool_calls=[ToolRecord(call_id="t", name=rng.choice(TOOLS), requested_ms=1, outcome="done")],
        transcript=lines,
        segments={"answer_to_greeting": 900.0, "model_setup": 300.0},
        usage={"totalTokenCount": 4_000, "cost_usd": 0.02},
    )


# The database copies for minutes, which no statement of a gateway may take.
postgres_module.STATEMENT_S = 600.0


def database_at(where: str) -> CallDatabase:
    if where.startswith("postgres"):
        return PostgresDatabase(where)
    Path(where).mkdir(parents=True, exist_ok=True)
    return SqliteDatabase(Path(where) / "offhook.sqlite3")


async def make(where: str, count: int) -> None:
    """A week of calls by the store's own code; further weeks are copies of it, made by the database."""
    weeks = max(1, round(count / WEEK_CALLS))
    week = min(count, WEEK_CALLS)
    database = database_at(where)
    await migrate(database)
    began_s = time.monotonic()
    for first in range(0, week, BATCH):
        rng = random.Random(first)
        records = [made(number, week, rng) for number in range(first, min(first + BATCH, week))]
        entries = [entry_of(one, 1, KEY) for one in records]
        await database.write(partial(write_entries, entries=entries, node="n"))
        if database.dialect == "sqlite":
            await database.write(partial(_note_words, rows=[(one.call_sid, words_of(one)) for one in records]))
    print(f"{week} calls written, {week / (time.monotonic() - began_s):.0f} a second", flush=True)
    for copy in range(1, weeks):
        await database.write(partial(_copy, shift_ms=-copy * WEEK_MS, suffix=f"-{copy}"))
    await database.write(_finish)
    await database.close()
    print(f"{weeks} weeks in {time.monotonic() - began_s:.0f} s")


async def _note_words(session: Transaction, rows: list[tuple[str, str]]) -> None:
    await session.script("create table if not exists bench_words (call_sid text primary key, said text);")
    await session.many("insert into bench_words values (?, ?)", rows)


async def _copy(session: Transaction, shift_ms: int, suffix: str) -> None:
    shift, shift_s, week_s = shift_ms << 21, shift_ms // 1000, (NOW_MS - WEEK_MS) // 1000
    first = first_key(NOW_MS - WEEK_MS)
    copied = COLUMNS.replace("id, call_sid,", f"id + ({shift}), call_sid || '{suffix}',", 1)
    copied = copied.replace("started_ms", f"started_ms + ({shift_ms})")
    await session.script(f"insert into calls ({COLUMNS}) select {copied} from calls where id >= {first};")
    for table, others in (("records", "record"), ("call_tools", "tool")):
        await session.script(
            f"insert into {table} (id, {others}) select id + ({shift}), {others} from {table} where id >= {first};"
        )
    if session.dialect == "sqlite":
        await session.script(
            f"insert into words (rowid, said) select c.id + ({shift}), b.said from bench_words b join calls c "
            "on c.call_sid = b.call_sid;"
        )
    else:
        await session.script(
            f"insert into words (id, said) select id + ({shift}), said from words where id >= {first};"
        )
    kept = "width_s, segment, agent, model, node, bins"
    await session.script(
        f"insert into latency (start_s, {kept}) select start_s + ({shift_s}), {kept} from latency "
        f"where start_s >= {week_s};"
    )


async def _finish(session: Transaction) -> None:
    if session.dialect == "sqlite":
        await session.script("drop table bench_words;")
    else:
        for table in ("calls", "words", "call_tools", "latency", "records"):
            await session.script(f"analyze {table};")


async def ask(where: str) -> None:
    database = database_at(where)
    count = await database.read(count_calls)
    if database.dialect == "sqlite":
        size = sum(file.stat().st_size for file in Path(where).iterdir())
    else:
        ((size,),) = await database.read(lambda s: s.rows("select pg_database_size(current_database())"))
    raw = [made(number, 50, random.Random(number)) for number in range(50)]
    json_kb = sum(len(msgspec.json.encode(one)) for one in raw) / 50e3
    packed_kb = sum(len(packed(one)) for one in raw) / 50e3
    print(
        f"{database.where}: {count} calls, {size / count / 1e3:.2f} kB each, "
        f"{json_kb:.1f} kB of JSON, {packed_kb:.2f} packed"
    )
    rng = random.Random(7)

    def at() -> int:
        return NOW_MS - int(rng.random() * YEAR_MS)

    def listing(**query) -> Callable[[], Awaitable[object]]:
        asked = CallQuery(**query)
        return lambda: database.read(lambda session: list_calls(session, asked))

    def record_of(sid: str) -> Callable[[], Awaitable[object]]:
        return lambda: database.read(partial(find_record, call_sid=sid))

    def figures(days: int) -> Callable[[], Awaitable[object]]:
        until = at()
        span = days * 86_400_000
        return lambda: database.read(
            lambda session: percentiles(session, until - span, until, NOW_MS, agent=rng.choice([None, "desk"]))
        )

    firsts = range(0, min(count, WEEK_CALLS), BATCH)  # of their batches
    some = [made(number, min(count, WEEK_CALLS), random.Random(number)) for number in firsts]
    questions: dict[str, Callable[[], Callable[[], Awaitable[object]]]] = {
        "newest page": lambda: listing(),
        "page at a time": lambda: listing(until_ms=at()),
        "page of an agent": lambda: listing(until_ms=at(), agent=rng.choice(AGENTS)),
        "of a number": lambda: listing(number_hash=hash_number(rng.choice(some).caller, KEY)),
        "by end reason": lambda: listing(until_ms=at(), end_reason=rng.choice(ENDS)[0]),
        "by tool": lambda: listing(until_ms=at(), tool=rng.choice(TOOLS)),
        "slow turns": lambda: listing(until_ms=at(), turn_gap_over_ms=1_800),
        "agent's slow turns": lambda: listing(until_ms=at(), turn_gap_over_ms=1_800, agent="desk"),
        "a common word": lambda: listing(until_ms=at(), words=rng.choice(COMMON)),
        "a rare word": lambda: listing(words=rng.choice(RARE)),
        "two common words": lambda: listing(words=f"{rng.choice(COMMON)} {rng.choice(COMMON)}"),
        "a phrase": lambda: listing(words=f'"{rng.choice(COMMON)} {rng.choice(COMMON)}"'),
        "a word and a tool": lambda: listing(until_ms=at(), words=rng.choice(COMMON), tool=rng.choice(TOOLS)),
        "one call": lambda: record_of(rng.choice(some).call_sid),
        "percentiles, a month": lambda: figures(30),
        "percentiles, the year": lambda: figures(365),
    }
    for name, question in questions.items():
        took = []
        await question()()
        for _ in range(ASKED):
            one = question()
            began_s = time.perf_counter()
            await one()
            took.append((time.perf_counter() - began_s) * 1e3)
        took.sort()
        print(f"{name:24} P50 {took[49]:7.1f} ms   P95 {took[94]:7.1f} ms   max {took[-1]:7.1f} ms", flush=True)
    await database.close()


async def loop(where: str, seconds: float) -> None:
    """Stalls of the loop with 50 calls that end and start within 3 s, again and again, beside the idle loop's."""
    sys.setswitchinterval(0.0005)  # as `serve` sets it

    async def stalls(beside: Callable[[], None] | None) -> list[float]:
        late, due_s, end_s = [], time.perf_counter(), time.perf_counter() + seconds
        step = 0
        while due_s < end_s:
            due_s += 0.005
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            late.append((time.perf_counter() - due_s) * 1e3)
            step += 1
            if beside is not None and step % 12 == 0:  # one each 60 ms: 50 in 3 s
                beside()
        return sorted(late)

    Path(where).mkdir(parents=True, exist_ok=True)
    records = KeptRecords(
        database_at(where), Spool(Path(where)), KEY, Metrics(CollectorRegistry(), LABELS), node="bench"
    )
    await records.open()
    ready = [made(10**9 + i + os.getpid() * 10_000, 10**12, random.Random(i)) for i in range(int(seconds * 20) + 20)]

    def end_one() -> None:
        record = ready.pop()
        event = CallEvent(record.call_sid, record.call_sid, "call.ended", b"{}" * 200, NOW_MS)
        records.emit(CallEvent("s" + record.call_sid, record.call_sid, "call.started", b"{}", NOW_MS))
        records.keep(record, (event,))

    for name, beside in (("idle", None), ("50 calls end and start every 3 s", end_one), ("idle", None)):
        late = await stalls(beside)
        print(f"{name:34} P50 {late[len(late) // 2]:.2f} ms, P99 {late[int(len(late) * 0.99)]:.2f}, max {late[-1]:.2f}")
    await records.close()


def main(arguments: list[str]) -> None:
    match arguments:
        case ["make", where]:
            asyncio.run(make(where, 1_000_000))
        case ["make", where, count]:
            asyncio.run(make(where, int(count)))
        case ["ask", where]:
            asyncio.run(ask(where))
        case ["loop", where]:
            asyncio.run(loop(where, 20.0))
        case ["loop", where, seconds]:
            asyncio.run(loop(where, float(seconds)))
        case _:
            with tempfile.TemporaryDirectory() as folder:
                asyncio.run(make(folder, 20_000))
                asyncio.run(ask(folder))
                asyncio.run(loop(folder, 5.0))


if __name__ == "__main__":
    main(sys.argv[1:])
