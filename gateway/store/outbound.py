"""Outbound calls in the database: asked for once per idempotency key, placed once, by one process at a time.

    waiting    nobody has it
    claimed    a process has it, and has not asked the carrier yet: it is due again once the lease is over
    placing    that process asks the carrier: once the lease is over it is in doubt, and only the carrier knows
    ...        the carrier's statuses

Times are milliseconds since 1970. Every method raises `DatabaseAway`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from offhook.gateway.store.columns import hash_number
from offhook.gateway.store.database import CallDatabase, Transaction

__all__ = ["CLAIM_MS", "DIAL_MS", "OutboundTable", "Row", "drop_old_outbound", "forget_outbound", "listed_outbound"]

CLAIM_MS = 15_000  # from a claim to the request: milliseconds
DIAL_MS = 60_000  # from the request to its answer: 25 s at most, and the carrier's list needs a moment
KEPT_MS = 7 * 86_400_000  # so long a key is known
PACE_MAX_MS = 60_000  # a later next turn comes from a clock that was wrong
_OPEN = "status in ('waiting', 'claimed', 'placing')"
_DUE = "(status = 'waiting' or (status = 'claimed' and claimed_until_ms <= ?))"
_FIELDS = "id, digest, body, status, call_sid, answered_by, error, placing_ms"


class Row(msgspec.Struct, frozen=True):
    """A call as it stands in the table; `body` is the caller's own JSON."""

    id: str
    digest: str
    body: str
    status: str
    call_sid: str = ""
    answered_by: str = ""
    error: str = ""
    placing_ms: int = 0


class OutboundTable:
    """`node`: this process among those that share the database, another one after a restart. `clock`: seconds since
    1970. `number_key` hashes the addresses that are called.
    """

    def __init__(self, database: CallDatabase, node: str, number_key: bytes, clock: Callable[[], float]) -> None:
        self._database, self._node, self._number_key, self._clock = database, node, number_key, clock

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    async def submit(self, row: Row, key: str | None, to: str, most: int) -> Row | None:
        """Add a call, or find the one with this key: the row in the table. None: `most` are waiting already."""
        number_hash = hash_number(to, self._number_key)
        return await self._database.write(
            partial(_submit, row=row, key=key, number_hash=number_hash, most=most, now_ms=self._now_ms())
        )

    async def is_due(self) -> bool:
        """Whether a call may wait for this process."""
        rows = await self._database.read(
            lambda session: session.rows(
                f"select 1 from outbound where {_OPEN} and (status = 'waiting' or claimed_until_ms <= ?) limit 1",
                self._now_ms(),
            )
        )
        return bool(rows)

    async def claim(self, gap_ms: float, behind_ms: float, most: int) -> list[Row]:
        """Take the oldest calls that wait, as many as their rate permits by now: one each `gap_ms` over all processes.
        `behind_ms`: turns that may be made up for.
        """
        return await self._database.write(
            partial(_claim, node=self._node, now_ms=self._now_ms(), gap_ms=gap_ms, behind_ms=behind_ms, most=most)
        )

    async def take_turn(self, gap_ms: float) -> bool:
        """A call that is not in the table is to be placed at the same rate: whether it may be now."""
        now_ms = self._now_ms()

        async def take(session: Transaction) -> bool:
            next_ms = await _next_ms(session, now_ms)
            if now_ms < next_ms:
                return False
            await session.run("update outbound_pace set next_ms = ?", int(max(next_ms, now_ms) + gap_ms))
            return True

        return await self._database.write(take)

    async def begin(self, id: str) -> bool:
        """The carrier is asked now; False when the claim is not this process's any more, or the call was canceled."""
        now_ms = self._now_ms()
        return await self._changed(
            "update outbound set status = 'placing', placing_ms = ?, claimed_until_ms = ?, attempts = attempts + 1 "
            "where id = ? and status = 'claimed' and claimed_by = ?",
            now_ms,
            now_ms + DIAL_MS,
            id,
            self._node,
        )

    async def put_back(self, id: str, pause_ms: int = 0) -> bool:
        """The carrier has not got it: it waits again. `pause_ms`: nothing is placed for so long."""
        now_ms = self._now_ms()

        async def put(session: Transaction) -> bool:
            if pause_ms:
                await session.run(
                    "update outbound_pace set next_ms = ? where next_ms < ?", now_ms + pause_ms, now_ms + pause_ms
                )
            return bool(
                await session.run(
                    "update outbound set status = 'waiting', claimed_by = '' "
                    "where id = ? and status in ('claimed', 'placing') and claimed_by = ?",
                    id,
                    self._node,
                )
            )

        return await self._database.write(put)

    async def save(self, id: str, status: str, call_sid: str, answered_by: str, error: str) -> None:
        """What has become of it at the carrier."""
        await self._changed(
            "update outbound set status = ?, call_sid = ?, answered_by = ?, error = ? where id = ?",
            status,
            call_sid,
            answered_by,
            error,
            id,
        )

    async def cancel(self, id: str) -> bool:
        """Take a call out; False when the carrier was asked already, or there is none."""
        return await self._changed(
            "update outbound set status = 'canceled' where id = ? and status in ('waiting', 'claimed')", id
        )

    async def in_doubt(self) -> Row | None:
        """A call whose process ended while it asked the carrier, for this process to settle; again after `DIAL_MS`."""
        now_ms = self._now_ms()

        async def take(session: Transaction) -> Row | None:
            skip = " for update skip locked" if session.dialect == "postgres" else ""
            rows = await session.rows(
                f"select {_FIELDS} from outbound where status = 'placing' and claimed_until_ms <= ? "
                f"order by seq limit 1{skip}",
                now_ms,
            )
            for row in rows:
                await session.run(
                    "update outbound set claimed_by = ?, claimed_until_ms = ? where id = ?",
                    self._node,
                    now_ms + DIAL_MS,
                    row[0],
                )
            return Row(*rows[0]) if rows else None

        return await self._database.write(take)

    async def not_ours(self, call_sids: Sequence[str]) -> list[str]:
        """Of these calls at the carrier the ones that belong to no row."""
        marks = ", ".join("?" * len(call_sids)) or "''"
        rows = await self._database.read(
            lambda session: session.rows(f"select call_sid from outbound where call_sid in ({marks})", *call_sids)
        )
        known = {row[0] for row in rows}
        return [sid for sid in call_sids if sid not in known]

    async def find(self, id: str) -> Row | None:
        rows = await self._database.read(
            lambda session: session.rows(f"select {_FIELDS} from outbound where id = ?", id)
        )
        return Row(*rows[0]) if rows else None

    async def give_back(self) -> None:
        """This process ends: what it claimed and has not asked the carrier for waits for another."""
        await self._changed(
            "update outbound set status = 'waiting', claimed_by = '' where status = 'claimed' and claimed_by = ?",
            self._node,
        )

    async def _changed(self, sql: str, *values: object) -> bool:
        return bool(await self._database.write(lambda session: session.run(sql, *values)))


async def _submit(
    session: Transaction, row: Row, key: str | None, number_hash: str, most: int, now_ms: int
) -> Row | None:
    if key is not None and (known := await _of_key(session, key)) is not None:
        return known
    ((waiting,),) = await session.rows("select count(*) from outbound where status in ('waiting', 'claimed')")
    if waiting >= most:
        return None
    added = await session.run(
        "insert into outbound (id, idempotency_key, digest, number_hash, body, status, created_ms) "
        "values (?, ?, ?, ?, ?, 'waiting', ?) on conflict (idempotency_key) do nothing",
        row.id,
        key,
        row.digest,
        number_hash,
        row.body,
        now_ms,
    )
    return row if added or key is None else await _of_key(session, key)


async def _of_key(session: Transaction, key: str) -> Row | None:
    rows = await session.rows(f"select {_FIELDS} from outbound where idempotency_key = ?", key)
    return Row(*rows[0]) if rows else None


async def _next_ms(session: Transaction, now_ms: int) -> int:
    """When the next call may be placed. Whoever has read it is alone with it until the end of the transaction."""
    lock = " for update" if session.dialect == "postgres" else ""
    ((next_ms,),) = await session.rows(f"select next_ms from outbound_pace{lock}")
    return int(next_ms) if next_ms <= now_ms + PACE_MAX_MS else now_ms


async def _claim(session: Transaction, node: str, now_ms: int, gap_ms: float, behind_ms: float, most: int) -> list[Row]:
    next_ms: float = await _next_ms(session, now_ms)
    turns = 0
    while turns < most and next_ms <= now_ms:
        next_ms = max(next_ms, now_ms - behind_ms) + gap_ms
        turns += 1
    if not turns:
        return []
    rows = await session.rows(
        f"select {_FIELDS} from outbound where {_OPEN} and {_DUE} order by seq limit ?", now_ms, turns
    )
    taken = []
    for row in rows:
        if await session.run(  # not one that was canceled meanwhile
            f"update outbound set status = 'claimed', claimed_by = ?, claimed_until_ms = ? where id = ? and {_DUE}",
            node,
            now_ms + CLAIM_MS,
            row[0],
            now_ms,
        ):
            taken.append(Row(*row))
    if taken:
        unused_ms = (turns - len(taken)) * gap_ms
        await session.run("update outbound_pace set next_ms = ?", int(next_ms - unused_ms))
    return taken


async def listed_outbound(session: Transaction, limit: int) -> list[tuple[Row, int]]:
    """The newest ones, each with the time at which it was asked for."""
    rows = await session.rows(f"select {_FIELDS}, created_ms from outbound order by seq desc limit ?", limit)
    return [(Row(*row[:-1]), row[-1]) for row in rows]


async def drop_old_outbound(session: Transaction, now_ms: int) -> None:
    """Calls of more than a week ago, and their keys."""
    await session.run("delete from outbound where created_ms < ?", now_ms - KEPT_MS)


async def forget_outbound(session: Transaction, number_hash: str, call_sids: Sequence[str]) -> None:
    """Remove what is kept of calls to this number ("": of none), unless they are to be placed, and of these calls."""
    await session.run(f"delete from outbound where number_hash = ? and not ({_OPEN})", number_hash)
    await session.many("delete from outbound where call_sid = ?", [(call_sid,) for call_sid in call_sids])
