"""The outbox: webhooks to deliver, each function within one transaction of its caller. Times are milliseconds since
1970.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from offhook.gateway.store.database import Transaction

__all__ = ["Delivery", "claim", "delivered", "drop_old", "failed", "listed", "retry_dead", "waiting"]

State = Literal["waiting", "delivered", "dead"]
KEPT_MS = 7 * 86_400_000  # delivered ones, without their bodies: their ids refuse repetitions
_FIELDS = "seq, id, subject, kind, body, created_ms, due_ms, attempts, state, error"
# Only the oldest of a subject that waits: its order is kept.
_DUE = (
    "from outbox o where state = 'waiting' and due_ms <= ? and not exists (select 1 from outbox p "
    "where p.subject = o.subject and p.seq < o.seq and p.state = 'waiting')"
)


class Delivery(msgspec.Struct, frozen=True):
    """One webhook and how its delivery goes. `attempts`: with the one under way."""

    seq: int
    id: str
    subject: str
    kind: str
    body: bytes | None
    created_ms: int
    due_ms: int
    attempts: int
    state: str
    error: str


async def claim(session: Transaction, now_ms: int, lease_ms: int, limit: int) -> list[Delivery]:
    """Take up to `limit` that are due; without `delivered` or `failed` they are due again after `lease_ms`."""
    skip = " for update skip locked" if session.dialect == "postgres" else ""
    rows = await session.rows(f"select seq {_DUE} order by due_ms, seq limit ?{skip}", now_ms, limit)
    found = []
    for (seq,) in rows:
        taken = await session.rows(
            f"update outbox set attempts = attempts + 1, due_ms = ? where seq = ? returning {_FIELDS}",
            now_ms + lease_ms,
            seq,
        )
        found += [Delivery(*row) for row in taken]
    return found


async def delivered(session: Transaction, seq: int) -> None:
    """The receiver has it: the body is not kept."""
    await session.run("update outbox set state = 'delivered', body = null, error = '' where seq = ?", seq)


async def failed(session: Transaction, seq: int, error: str, due_ms: int | None) -> None:
    """Not delivered; due again at `due_ms`, or dead when None."""
    if due_ms is None:
        await session.run("update outbox set state = 'dead', error = ? where seq = ?", error, seq)
    else:
        await session.run("update outbox set due_ms = ?, error = ? where seq = ?", due_ms, error, seq)


async def listed(session: Transaction, state: State | None, limit: int) -> list[Delivery]:
    """The newest ones, without their bodies."""
    fields = _FIELDS.replace("body", "null")
    where, values = ("where state = ?", (state,)) if state else ("", ())
    rows = await session.rows(f"select {fields} from outbox {where} order by seq desc limit ?", *values, limit)
    return [Delivery(*row) for row in rows]


async def retry_dead(session: Transaction, now_ms: int, id: str | None = None) -> int:
    """Make dead ones due again, all or the one of this id; how many."""
    only, values = (" and id = ?", (id,)) if id else ("", ())
    return await session.run(
        f"update outbox set state = 'waiting', attempts = 0, created_ms = ?, due_ms = ? where state = 'dead'{only}",
        now_ms,
        now_ms,
        *values,
    )


async def waiting(session: Transaction) -> dict[str, int]:
    """How many there are, by state."""
    rows = await session.rows("select state, count(*) from outbox group by state")
    return {str(state): int(count) for state, count in rows}


async def drop_old(session: Transaction, now_ms: int) -> None:
    """Delivered ones of more than a week ago."""
    await session.run("delete from outbox where state = 'delivered' and created_ms < ?", now_ms - KEPT_MS)
