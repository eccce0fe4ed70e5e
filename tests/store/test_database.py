"""Calls in SQLite and in Postgres: one record each, found by what was asked, removed without a trace."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from offhook.gateway.errors import OperatorError
from offhook.gateway.store import history
from offhook.gateway.store.columns import CallEvent, entry_of, hash_number
from offhook.gateway.store.database import CallDatabase, NotStorable
from offhook.gateway.store.history import (
    CallQuery,
    count_calls,
    find_keys,
    find_record,
    list_calls,
    percentiles,
    stored_names,
)
from offhook.gateway.store.migrate import NEWEST, migrate, schema_status
from offhook.gateway.store.outbox import claim, listed
from offhook.gateway.store.record import CallRecord
from offhook.gateway.store.writing import expired, recordings_of, remove_calls, write_entries
from tests.store.made import CALLER, DAY_MS, KEY, NOON_MS, record


async def write(database: CallDatabase, *records: CallRecord, epoch: int = 1, node: str = "n") -> None:
    entries = [entry_of(one, epoch, KEY) for one in records]
    await database.write(lambda session: write_entries(session, entries, node))


async def found(database: CallDatabase, **query: object) -> list[str]:
    page = await database.read(lambda session: list_calls(session, CallQuery(**query)))  # type: ignore[arg-type]
    return [call.call_sid for call in page.calls]


async def gaps(database: CallDatabase, **only: str) -> int:
    figures = await database.read(
        lambda session: percentiles(session, NOON_MS, NOON_MS + DAY_MS, NOON_MS, **only)  # type: ignore[arg-type]
    )
    return sum(one.count for one in figures if one.segment == "turn_gap")


async def test_a_schema_is_made_once(empty: CallDatabase) -> None:
    assert (await schema_status(empty)).version == 0
    first, second = await asyncio.gather(migrate(empty), migrate(empty))
    assert sorted([*first, *second]) == ["0001_records.sql", "0002_outbound.sql"]
    assert (await schema_status(empty)).version == NEWEST


async def test_a_newer_schema_is_refused(database: CallDatabase) -> None:
    await database.write(lambda session: session.run("insert into schema_version (version) values (?)", 99))
    with pytest.raises(OperatorError, match="knows schemas up to 2: install the version"):
        await migrate(database)


async def test_a_record_comes_back_with_its_number_masked(database: CallDatabase) -> None:
    given = record()
    await write(database, given)
    kept = await database.read(lambda session: find_record(session, "CA1"))
    assert kept is not None
    assert (kept.caller, kept.transcript, kept.turns) == ("+15•••67", given.transcript, given.turns)
    assert await database.read(lambda session: find_record(session, "CA2")) is None


@pytest.mark.parametrize(("epochs", "agent"), [((1, 2), "second"), ((2, 1), "first"), ((1, 1), "second")])
async def test_one_record_per_call_by_epoch(database: CallDatabase, epochs: tuple[int, int], agent: str) -> None:
    await write(database, record(agent="first"), epoch=epochs[0])
    await write(database, record(agent="second"), epoch=epochs[1])
    kept = await database.read(lambda session: find_record(session, "CA1"))
    assert kept is not None
    assert kept.agent == agent
    assert await database.read(count_calls) == 1
    assert await gaps(database) == 1  # a replaced record's samples are gone


async def test_calls_of_one_key_are_both_kept(database: CallDatabase) -> None:
    first, second = entry_of(record("CA1"), 1, KEY), entry_of(record("CA2"), 1, KEY)
    assert first.row is not None
    assert second.row is not None
    same = type(second)(row=(first.row[0], *second.row[1:]), record=second.record)
    await database.write(lambda session: write_entries(session, [first, same], "n"))
    assert sorted(await found(database)) == ["CA1", "CA2"]


QUERIES = [
    ({}, ["slow", "tool", "quiet"]),
    ({"agent": "desk"}, ["slow", "tool", "quiet"]),
    ({"agent": "other"}, []),
    ({"number_hash": hash_number("+1 (555) 999-9999", KEY)}, ["tool"]),
    ({"end_reason": "transferred"}, ["slow"]),
    ({"tool": "book"}, ["tool"]),
    ({"words": "pizza"}, ["slow", "tool"]),
    ({"words": "PIZZA, napoli!"}, ["tool"]),
    ({"words": "pizza", "tool": "book"}, ["tool"]),
    ({"words": '"pizza from"'}, ["tool"]),
    ({"words": '"from pizza"'}, []),
    ({"words": "cafe"}, ["slow"]),
    ({"words": "?!"}, []),
    ({"words": "' or 1=1 -- *"}, []),
    ({"turn_gap_over_ms": 2_000}, ["slow"]),
    ({"barge_in_over_ms": 2_000}, []),
    ({"since_ms": NOON_MS + 1_000}, ["slow", "tool"]),
    ({"until_ms": NOON_MS + 1_000}, ["quiet"]),
    ({"limit": 1}, ["slow"]),
]


async def test_calls_are_found_by_each_filter(database: CallDatabase) -> None:
    await write(
        database,
        record("quiet"),
        record("tool", at_ms=NOON_MS + 1_000, tool="book", caller="+15559999999", said="A pizza from Napoli"),
        record("slow", at_ms=NOON_MS + 2_000, gap_ms=3_000, end="transferred", said="Pizza and café"),
    )
    for query, expected in QUERIES:
        assert await found(database, **query) == expected, query
    names = await database.read(stored_names)
    assert names == {"agents": ["desk"], "end_reasons": ["caller_hung_up", "transferred"], "tools": ["book"]}


async def test_pages_hold_every_call_once(database: CallDatabase) -> None:
    names = [f"CA{i}" for i in range(7)]
    await write(database, *(record(name, at_ms=NOON_MS + i // 3) for i, name in enumerate(names)))
    seen: list[str] = []
    cursor: str | None = None
    while True:
        query = CallQuery(limit=2, before=int(cursor) if cursor else None)
        page = await database.read(lambda session, query=query: list_calls(session, query))
        seen += [call.call_sid for call in page.calls]
        cursor = page.next
        if cursor is None:
            break
    assert sorted(seen) == names


async def test_percentiles_add_up_hours_days_and_nodes(database: CallDatabase) -> None:
    for i in range(40):
        await write(database, record(f"CA{i}", at_ms=NOON_MS + i * 3_600_000, gap_ms=100.0 * (i + 1)), node=f"n{i % 2}")
    await write(database, record("other", agent="night", model="model-2"))
    assert await gaps(database) == 25  # noon to noon, and the other agent's
    assert await gaps(database, agent="desk") == 24
    assert await gaps(database, model="model-2") == 1
    figures = await database.read(lambda s: percentiles(s, NOON_MS, NOON_MS + 2 * DAY_MS, NOON_MS, agent="desk"))
    gap = next(one for one in figures if one.segment == "turn_gap")
    assert gap.count == 40
    assert gap.p50_ms == pytest.approx(2_000, rel=0.011)
    assert gap.p95_ms == pytest.approx(3_800, rel=0.011)
    assert gap.p99_ms is None
    for i in range(40):
        await write(database, record(f"CB{i}", at_ms=NOON_MS + i * 36 * 3_600_000, agent="rare"))
    for days, count in ((60, 40), (59, 40), (58, 39), (31, 21)):
        then_ms = NOON_MS + days * DAY_MS
        figures = await database.read(lambda s, end=then_ms: percentiles(s, NOON_MS, end, NOON_MS, agent="rare"))
        assert next(one for one in figures if one.segment == "turn_gap").count == count
    late = NOON_MS + 60 * DAY_MS  # the hours are gone by then: whole days
    figures = await database.read(lambda s: percentiles(s, NOON_MS, NOON_MS + DAY_MS, late, agent="desk"))
    assert next(one for one in figures if one.segment == "turn_gap").count == 36


async def test_a_removed_call_leaves_nothing_but_counts(database: CallDatabase) -> None:
    event = CallEvent("e1", "CA1", "call.ended", b"{}", NOON_MS)
    mine = entry_of(record("CA1", tool="book", said="secret words"), 1, KEY, (event,))
    other = entry_of(record("CA2", caller="+15550000001"), 1, KEY)
    await database.write(lambda session: write_entries(session, [mine, other], "n"))
    keys = await database.read(lambda s: find_keys(s, CallQuery(number_hash=hash_number(CALLER, KEY)), 10))
    removed = await database.write(lambda session: remove_calls(session, keys))
    assert (removed.calls, removed.lines, removed.webhooks) == (["CA1"], 2, 1)
    assert await found(database) == ["CA2"]
    assert await found(database, words="secret") == []
    assert await found(database, words="table") == ["CA2"]
    assert await found(database, tool="book") == []
    for table in ("records", "call_tools", "outbox", "words"):
        ((count,),) = await database.read(lambda s, table=table: s.rows(f"select count(*) from {table}"))
        assert count == (1 if table in ("records", "words") else 0), table
    assert await gaps(database) == 2


async def test_pages_of_common_words_lead_to_all(database: CallDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "WALKED", (3, 4))
    await write(
        database, *(record(f"CA{i:02}", at_ms=NOON_MS + i, said="pizza" if i % 5 == 0 else "table") for i in range(20))
    )
    for words, sids in (
        ("table", [i for i in range(20) if i % 5]),
        ("day", list(range(20))),
        ("pizza", [0, 5, 10, 15]),
    ):
        got, before = [], None
        while True:
            query = CallQuery(words=words, limit=2, before=before)
            page = await database.read(partial(list_calls, query=query))
            got += [int(call.call_sid[2:]) for call in page.calls]
            if page.next is None:
                break
            assert before is None or int(page.next) < before
            before = int(page.next)
        assert got == sids[::-1], words


async def test_calls_expire_by_age_and_by_size(database: CallDatabase) -> None:
    await write(database, *(record(f"CA{i}", at_ms=NOON_MS + i * DAY_MS, recording=f"/r/{i}.wav") for i in range(4)))
    await write(database, record("other", agent="night"))
    old = await database.read(lambda s: expired(s, "desk", NOON_MS + DAY_MS + 1, None, 100))
    assert len(old) == 2
    large = await database.read(lambda s: expired(s, "desk", None, 2_900, 100))
    recorded = await database.read(lambda s: recordings_of(s, large))
    assert [(sid, one.file) for sid, one in recorded][:2] == [("CA0", "/r/0.wav"), ("CA1", "/r/1.wav")]
    removed = await database.write(lambda s: remove_calls(s, large))
    assert removed.calls[:2] == ["CA0", "CA1"]
    assert "other" in await found(database)


async def test_deliveries_of_a_call_keep_their_order(database: CallDatabase) -> None:
    events = tuple(
        CallEvent(f"{sid}-{kind}", sid, kind, b"{}", NOON_MS) for sid in ("CA1", "CA2") for kind in ("started", "ended")
    )
    again = entry_of(record("CA1"), 1, KEY, events)
    for _ in range(2):  # shipped twice: the ids are the same
        await database.write(lambda session: write_entries(session, [again], "n"))
    first = await database.write(lambda session: claim(session, NOON_MS, 1_000, 10))
    assert [one.id for one in first] == ["CA1-started", "CA2-started"]
    assert await database.write(lambda session: claim(session, NOON_MS, 1_000, 10)) == []
    assert len(await database.read(lambda session: listed(session, None, 10))) == 4


async def test_words_that_no_database_takes_are_kept(database: CallDatabase) -> None:
    odd = "nul \0 here, emoji 🦜, " + "x" * 3_000 + ' "quote'
    await write(database, record(said=odd, agent="a\0b"))
    kept = await database.read(lambda session: find_record(session, "CA1"))
    assert kept is not None
    assert kept.transcript[0].text == odd
    assert await found(database, words="emoji") == ["CA1"]


async def test_values_of_the_wrong_kind_are_refused(database: CallDatabase) -> None:
    entry = entry_of(record(), 1, KEY)
    assert entry.row is not None
    bad = type(entry)(row=(*entry.row[:3], None, *entry.row[4:]), record=entry.record)
    with pytest.raises(NotStorable):
        await database.write(lambda session: write_entries(session, [bad], "n"))
    assert await found(database) == []
