"""Questions about past calls: the list with its filters, one call, percentiles over any span.

Each function works within one transaction of its caller. A list is ordered by the calls' keys, newest first; the key of
its last call is the cursor to the next page.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from offhook.gateway.store.columns import COLUMNS, first_key, iso, tokens, unpacked
from offhook.gateway.store.database import Transaction
from offhook.gateway.store.record import CallRecord
from offhook.gateway.store.writing import DAY_S, HOUR_S, HOURS_KEPT_S, WIDTHS_S
from offhook.metrics.quantiles import Counts, bin_limit_s, summarise

__all__ = [
    "BARGE_IN_MIN_MS",
    "TURN_GAP_MIN_MS",
    "CallPage",
    "CallQuery",
    "KeptCall",
    "SegmentFigures",
    "count_calls",
    "find_keys",
    "find_record",
    "list_calls",
    "newest_records",
    "percentiles",
    "stored_among",
    "stored_names",
]

PAGE_MAX = 200
WALKED = (2_000, 8_000)  # calls that are searched one by one for common words: 15 us each
SAMPLED, RARE = 1_000, 5  # words that are in more calls of so many are common
TURN_GAP_MIN_MS, BARGE_IN_MIN_MS = 1_000, 300  # of the partial indexes: what is faster is not slow
_PHRASE = re.compile(r'"([^"]*)"|(\S+)')


class KeptCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a list. `number`: the other party's, masked."""

    call_sid: str
    agent: str
    model: str
    direction: str
    number: str
    started_at: str
    duration_ms: int
    end_reason: str
    end_side: str
    simulated: bool
    turns: int
    barge_ins: int
    tools: int
    errors: int
    turn_gap_ms: float | None  # the slowest
    barge_in_ms: float | None  # the slowest, onset to silence
    tokens: int
    cost_usd: float | None
    has_recording: bool


class CallPage(msgspec.Struct, frozen=True):
    """`next`: the cursor of the next page, None on the last. There may be fewer calls than asked for before that."""

    calls: list[KeptCall]
    next: str | None = None


class CallQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for; everything unset fits every call. Times are milliseconds since 1970."""

    call_sid: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    number_hash: str | None = None
    agent: str | None = None
    end_reason: str | None = None
    tool: str | None = None
    words: str | None = None  # all of them said, in any order; in quotes: one after the other
    turn_gap_over_ms: float | None = None  # at least one turn gap of more than TURN_GAP_MIN_MS and this
    barge_in_over_ms: float | None = None  # likewise, with BARGE_IN_MIN_MS
    before: int | None = None  # the cursor
    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX)] = 50


class SegmentFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of one segment over one span; None where there are too few samples."""

    segment: str
    count: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


async def list_calls(session: Transaction, query: CallQuery) -> CallPage:
    """One page."""
    columns = ", ".join(f"c.{name.strip()}" for name in COLUMNS.split(","))
    if session.dialect == "postgres" and query.words is not None and not await _is_rare(session, query):
        return await _walked(session, query, columns)
    sql, values = _select(session.dialect, query, columns)
    rows = await session.rows(f"{sql} limit ?", *values, query.limit + 1)
    calls = [_kept(row) for row in rows[: query.limit]]
    return CallPage(calls, str(rows[query.limit - 1][0]) if len(rows) > query.limit else None)


async def _is_rare(session: Transaction, query: CallQuery) -> bool:
    """Whether the words are in few of the newest calls, so that Postgres' index leads to few candidates.

    Postgres keeps no useful statistics of words, and its index none of their order.
    """
    words = " ".join(word for both in _PHRASE.findall(query.words or "") for word in tokens(both[0] or both[1]))
    sql = (
        "select count(*) from (select said from words where id >= ? and id < ? order by id desc limit ?) w "
        "where w.said @@ plainto_tsquery('simple', ?::text)"
    )
    ((found,),) = await session.rows(sql, *_bounds(query), SAMPLED, words)
    return int(found) <= RARE


async def _walked(session: Transaction, query: CallQuery, columns: str) -> CallPage:
    """A page of calls with common words: the newest calls are searched one by one, a bounded number of them."""
    rows: list[Sequence[Any]] = []
    lowest, highest = _bounds(query)
    for walked in WALKED:
        part = msgspec.structs.replace(query, before=highest)
        sql, values = _select(session.dialect, part, columns, walked=walked)
        rows += await session.rows(f"{sql} limit ?", *values, query.limit + 1 - len(rows))
        if len(rows) > query.limit:
            return CallPage([_kept(row) for row in rows[: query.limit]], str(rows[query.limit - 1][0]))
        last = "select id from words where id >= ? and id < ? order by id desc limit 1 offset ?"
        ends = await session.rows(last, lowest, highest, walked - 1)
        if not ends:
            return CallPage([_kept(row) for row in rows])
        highest = ends[0][0]
    return CallPage([_kept(row) for row in rows], str(highest))


async def find_keys(session: Transaction, query: CallQuery, limit: int) -> list[int]:
    """Keys of calls, newest first."""
    sql, values = _select(session.dialect, query, "c.id")
    return [row[0] for row in await session.rows(f"{sql} limit ?", *values, limit)]


def _select(dialect: str, query: CallQuery, columns: str, *, walked: int | None = None) -> tuple[str, list[Any]]:
    """The statement up to its limit. It walks the words, the tool's calls or all calls, in the order of their keys.

    Postgres searches the newest `walked` calls one by one for words, or all by the index.
    """
    values: list[Any] = []
    where: list[str] = []
    key, source = "c.id", "calls c"
    if query.tool is not None:
        key, source = "t.id", "call_tools t join calls c on c.id = t.id"
        where.append("t.tool = ?")
        values.append(query.tool)
    if query.words is not None:
        phrases = [phrase for both in _PHRASE.findall(query.words) if (phrase := tokens(both[0] or both[1]))]
        if not phrases:
            where.append("1 = 0")  # nothing that could be said
        elif dialect == "sqlite":
            key, words = "w.rowid", "words"
            where.append("w.said match ?")
            values.append(" ".join(f'"{" ".join(phrase)}"' for phrase in phrases))
        else:
            key = "w.id"
            said = [" ".join(phrase) for phrase in phrases]
            asked = " && ".join(["phraseto_tsquery('simple', ?::text)"] * len(phrases))
            if walked is None:
                words = f"(select id from words where said @@ ({asked}) offset 0)"
                values = [*said, *values]
            else:
                words = f"(select id, said from words where id >= ? and id < ? order by id desc limit {walked})"
                values = [*_bounds(query), *values, *said]
                where.append(f"w.said @@ ({asked})")
        if phrases:
            tools = f"join call_tools t on t.id = {key} " if query.tool is not None else ""
            source = f"{words} w {tools}join calls c on c.id = {key}"
    # Slow calls are few: SQLite, which keeps no statistics, would walk all of an agent's. A + hides a column's index.
    is_slow = query.turn_gap_over_ms is not None or query.barge_in_over_ms is not None
    aside = "+" if dialect == "sqlite" and is_slow else ""
    for condition, value in (
        (f"{key} < ?", query.before),
        (f"{key} >= ?", None if query.since_ms is None else first_key(query.since_ms)),
        (f"{key} < ?", None if query.until_ms is None else first_key(query.until_ms)),
        ("c.call_sid = ?", query.call_sid),
        ("c.number_hash = ?", query.number_hash),
        (f"{aside}c.agent = ?", query.agent),
        (f"{aside}c.end_reason = ?", query.end_reason),
    ):
        if value is not None:
            where.append(condition)
            values.append(value)
            if condition.startswith(key) and key != "c.id":  # so that Postgres joins only these
                where.append(condition.replace(key, "c.id"))
                values.append(value)
    for column, least_ms, over_ms in (
        ("c.turn_gap_ms", TURN_GAP_MIN_MS, query.turn_gap_over_ms),
        ("c.barge_in_ms", BARGE_IN_MIN_MS, query.barge_in_over_ms),
    ):
        if over_ms is not None:
            where.append(f"{column} >= {least_ms} and {column} > ?")  # the constant opens the partial index
            values.append(float(over_ms))
    condition = f" where {' and '.join(where)}" if where else ""
    return f"select {columns} from {source}{condition} order by {key} desc", values


def _bounds(query: CallQuery) -> tuple[int, int]:
    """Keys from the first up to the second are looked at."""
    highest = [query.before, None if query.until_ms is None else first_key(query.until_ms)]
    lowest = 0 if query.since_ms is None else first_key(query.since_ms)
    return lowest, min(key for key in (*highest, (1 << 63) - 1) if key is not None)


def _kept(row: Sequence[Any]) -> KeptCall:
    return KeptCall(
        call_sid=row[1],
        agent=row[3],
        model=row[4],
        direction=row[5],
        number=row[7],
        started_at=iso(row[8]) if row[8] else "",
        duration_ms=row[9],
        end_reason=row[10],
        end_side=row[11],
        simulated=bool(row[12]),
        turns=row[13],
        barge_ins=row[14],
        tools=row[15],
        errors=row[16],
        turn_gap_ms=row[17],
        barge_in_ms=row[18],
        tokens=row[19],
        cost_usd=row[20],
        has_recording=bool(row[21]),
    )


async def find_record(session: Transaction, call_sid: str) -> CallRecord | None:
    """One call's whole record."""
    sql = "select r.record from calls c join records r on r.id = c.id where c.call_sid = ?"
    rows = await session.rows(sql, call_sid)
    return unpacked(rows[0][0]) if rows else None


async def newest_records(session: Transaction, limit: int) -> list[CallRecord]:
    """Newest first."""
    return [
        unpacked(row[0]) for row in await session.rows("select record from records order by id desc limit ?", limit)
    ]


async def count_calls(session: Transaction) -> int:
    """How many calls there are."""
    ((count,),) = await session.rows("select count(*) from calls")
    return int(count)


async def stored_among(session: Transaction, call_sids: Sequence[str]) -> set[str]:
    """Which of these calls there are."""
    found: set[str] = set()
    for first in range(0, len(call_sids), 200):
        some = call_sids[first : first + 200]
        marks = ", ".join("?" * len(some))
        rows = await session.rows(f"select call_sid from calls where call_sid in ({marks})", *some)
        found.update(str(row[0]) for row in rows)
    return found


async def stored_names(session: Transaction) -> dict[str, list[str]]:
    """What can be filtered by: agents, end reasons, tools. Each by skipping through an index."""
    found = {}
    for name, table, column in (
        ("agents", "calls", "agent"),
        ("end_reasons", "calls", "end_reason"),
        ("tools", "call_tools", "tool"),
    ):
        rows = await session.rows(
            f"with recursive one(value) as (select min({column}) from {table} union all "
            f"select (select min({column}) from {table} where {column} > one.value) "
            "from one where one.value is not null) select value from one where value is not null limit 500"
        )
        found[name] = [str(row[0]) for row in rows]
    return found


async def percentiles(
    session: Transaction,
    since_ms: int,
    until_ms: int,
    now_ms: int,
    *,
    agent: str | None = None,
    model: str | None = None,
) -> list[SegmentFigures]:
    """Of every segment, over whole hours; over whole days where the span begins before the hours that are kept."""
    parts = _parts(since_ms // 1000, -(-until_ms // 1000), now_ms // 1000 - HOURS_KEPT_S)
    counts: dict[str, dict[int, int]] = {}
    for width_s, from_s, to_s in parts:
        where = "width_s = ? and start_s >= ? and start_s < ?"
        values: list[Any] = [width_s, from_s, to_s]
        for column, value in (("agent", agent), ("model", model)):
            if value is not None:
                where = f"{where} and {column} = ?"
                values.append(value)
        for segment, text in await session.rows(f"select segment, bins from latency where {where}", *values):
            total = counts.setdefault(segment, {})
            for index, count in msgspec.json.decode(text, type=dict[int, int]).items():
                total[index] = total.get(index, 0) + count
    return [_figures(segment, bins) for segment, bins in sorted(counts.items())]


def _parts(since_s: int, until_s: int, hours_from_s: int) -> list[tuple[int, int, int]]:
    """(width, from, to) of the counts that make up a span: the widest that fit, narrower ones at the edges."""
    narrowest = DAY_S if since_s < hours_from_s else HOUR_S
    widths = [width_s for width_s in WIDTHS_S if width_s >= narrowest]
    return _filled(since_s // narrowest * narrowest, until_s, widths)


def _filled(from_s: int, to_s: int, widths: Sequence[int]) -> list[tuple[int, int, int]]:
    if from_s >= to_s:
        return []
    *narrower, width_s = widths
    if not narrower:
        return [(width_s, from_s, to_s)]
    first_s, last_s = -(-from_s // width_s) * width_s, to_s // width_s * width_s
    if first_s >= last_s:
        return _filled(from_s, to_s, narrower)
    return [*_filled(from_s, first_s, narrower), (width_s, first_s, last_s), *_filled(last_s, to_s, narrower)]


def _figures(segment: str, bins: dict[int, int]) -> SegmentFigures:
    bins = {index: count for index, count in bins.items() if count > 0}
    found = summarise(Counts(bins, bin_limit_s(max(bins)) if bins else 0.0))

    def ms(seconds: float | None) -> float | None:
        return None if seconds is None else round(seconds * 1000, 2)

    return SegmentFigures(
        segment=segment, count=found.count, p50_ms=ms(found.p50), p95_ms=ms(found.p95), p99_ms=ms(found.p99)
    )
