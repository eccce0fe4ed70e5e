"""The store with many calls: what a page, a search, percentiles and one call take, and how large a call is.

    python -m tests.bench.bench_store make FOLDER [COUNT]        SQLite with so many synthetic calls of a year
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

from prometheus_client import CollectorRegistry

from offhook.gateway.labels import LABELS
from offhook.gateway.store.columns import CallEvent, entry_of, hash_number, iso, packed
from offhook.gateway.store.database import CallDatabase
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
YEAR_MS = 365 * 86_400_000
NOW_MS = 1_795_780_800_000
BATCH = 500
ASKED = 100
AGENTS = ("desk", "sales", "support", "night", "orders")
TOOLS = ("find_table", "book_table", "remember", "transfer", "end_call")
ENDS = (("caller_hung_up", "caller", 80), ("agent_hung_up", "agent", 15), ("transferred", "agent", 4))
ENDS += (("model_lost", "model", 1),)
COMMON = [f"common{i}" for i in range(300)]
RARE = [f"rare{i}" for i in range(50_000)]


def made(number: int, rng: random.Random) -> CallRecord:
    """A call of six turns, some 8 kB of JSON."""

    def words(count: int) -> str:
        return " ".join(rng.choice(COMMON) if rng.random() < 0.97 else rng.choice(RARE) for _ in range(count))

    started_ms = NOW_MS - YEAR_MS + int(rng.random() * YEAR_MS)
    turns, lines = [], []
    for turn in range(6):
        gap = rng.lognormvariate(6.6, 0.25)
        segments = {
            "turn_gap": gap,
            "model_first_audio": gap - 60,
            "output_onset_sent": 3.0,
            "output_onset_played": gap,
        }
        segments |= {"model_first_event": gap - 90, "uplink_forward": 1.0}
        said, answer = words(12), words(25)
        times = {
            "caller_started_ms": turn * 9e3,
            "caller_ended_ms": turn * 9e3 + 3e3,
            "reply_started_ms": turn * 9e3 + 4e3,
        }
        turns.append(
            TurnRecord(
                number=turn + 1, generation=turn, segments=segments, caller_text=said, reply_text=answer, **times
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


def database_at(where: str) -> CallDatabase:
    if where.startswith("postgres"):
        return PostgresDatabase(where)
    Path(where).mkdir(parents=True, exist_ok=True)
    return SqliteDatabase(Path(where) / "offhook.sqlite3")


async def make(where: str, count: int) -> None:
    database = database_at(where)
    await migrate(database)
    done = await database.read(count_calls)
    began_s, first = time.monotonic(), done
    while done < count:
        rng = random.Random(done)
        entries = [entry_of(made(number, rng), 1, KEY) for number in range(done, min(done + BATCH, count))]
        await database.write(partial(write_entries, entries=entries, node="n"))
        done += len(entries)
        if done % 50_000 == 0:
            print(f"{done} calls, {(done - first) / (time.monotonic() - began_s):.0f} a second", flush=True)
    if database.dialect == "postgres":
        for table in ("calls", "words", "call_tools", "latency", "records"):
            await database.write(partial(_analyze, table=table))
    await database.close()


async def _analyze(session, table: str) -> None:
    await session.script(f"analyze {table}")


async def ask(where: str) -> None:
    database = database_at(where)
    count = await database.read(count_calls)
    if database.dialect == "sqlite":
        size = sum(file.stat().st_size for file in Path(where).iterdir())
    else:
        ((size,),) = await database.read(lambda s: s.rows("select pg_database_size(current_database())"))
    raw = [made(number, random.Random(number)) for number in range(50)]
    import msgspec

    json_kb = sum(len(msgspec.json.encode(one)) for one in raw) / 50e3
    packed_kb = sum(len(packed(one)) for one in raw) / 50e3
    print(
        f"{database.where}: {count} calls, {size / count / 1e3:.2f} kB each ({json_kb:.1f} kB of JSON, {packed_kb:.2f} packed)"
    )
    rng = random.Random(7)

    def at() -> int:
        return NOW_MS - int(rng.random() * YEAR_MS)

    def listing(**query) -> Callable[[], Awaitable[object]]:
        asked = CallQuery(**query)
        return lambda: database.read(lambda session: list_calls(session, asked))

    def figures(days: int) -> Callable[[], Awaitable[object]]:
        until = at()
        span = days * 86_400_000
        return lambda: database.read(
            lambda session: percentiles(session, until - span, until, NOW_MS, agent=rng.choice([None, "desk"]))
        )

    some = [made(number, random.Random(number // BATCH * BATCH)) for number in range(0, count, max(1, count // 100))]
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
        "one call": lambda: lambda sid=rng.choice(some).call_sid: database.read(lambda s: find_record(s, sid)),
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
    ready = [made(10**9 + i + os.getpid() * 10_000, random.Random(i)) for i in range(int(seconds * 20) + 20)]

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
