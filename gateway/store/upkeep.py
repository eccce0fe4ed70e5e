"""What leaves the store: calls beyond their retention, calls that somebody has a right to have forgotten."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from offhook.gateway.store.bucket import BucketAway
from offhook.gateway.store.database import CallDatabase, DatabaseAway, Transaction
from offhook.gateway.store.history import CallQuery, find_keys
from offhook.gateway.store.outbound import drop_old_outbound, forget_outbound
from offhook.gateway.store.outbox import drop_old
from offhook.gateway.store.recordings import Recordings, drop_left
from offhook.gateway.store.writing import Removed, drop_old_hours, expired, recordings_of, remove_calls

__all__ = ["Retention", "forget", "keep_within", "upkeep_forever"]

log = logging.getLogger(__name__)

AT_ONCE = 200  # calls of one transaction
FIRST_S, EVERY_S = 60.0, 3_600.0
DAY_MS = 86_400_000


class Retention(msgspec.Struct, frozen=True):
    """Of one agent's calls; None: without limit."""

    days: float | None = None
    size_bytes: int | None = None
    directory: str = ""  # of its recordings: what a killed process left there has no record


async def forget(database: CallDatabase, query: CallQuery, recordings: Recordings) -> Removed:
    """Remove every call that fits, with its words, webhooks and recording. Raises `DatabaseAway`, `BucketAway`."""
    whole = Removed()
    while keys := await database.read(lambda session: find_keys(session, query, AT_ONCE)):
        _add(whole, await _remove(database, keys, recordings))
    await database.write(partial(forget_outbound, number_hash=query.number_hash or "", call_sids=whole.calls))
    return whole


async def keep_within(
    database: CallDatabase, agent: str, retention: Retention, now_ms: int, recordings: Recordings
) -> Removed:
    """Remove the agent's oldest calls beyond its retention. Raises `DatabaseAway`, `BucketAway`."""
    before_ms = None if retention.days is None else now_ms - int(retention.days * DAY_MS)
    whole = Removed()

    async def find(session: Transaction) -> list[int]:
        return await expired(session, agent, before_ms, retention.size_bytes, AT_ONCE)

    while keys := await database.read(find):
        _add(whole, await _remove(database, keys, recordings))
    return whole


async def _remove(database: CallDatabase, keys: Sequence[int], recordings: Recordings) -> Removed:
    recorded = await database.read(lambda session: recordings_of(session, keys))
    gone = await asyncio.to_thread(lambda: [name for sid, one in recorded for name in recordings.remove(sid, one)])
    removed = await database.write(lambda session: remove_calls(session, keys))
    removed.recordings = gone
    return removed


def _add(whole: Removed, part: Removed) -> None:
    whole.calls += part.calls
    whole.lines += part.lines
    whole.webhooks += part.webhooks
    whole.recordings += part.recordings


async def upkeep_forever(
    database: CallDatabase,
    retentions: Mapping[str, Retention],
    clock: Callable[[], float],
    forgotten: Callable[[Sequence[str]], None],
    recordings: Recordings,
) -> None:
    """Each hour: retention by agent, old counts and deliveries. `clock` gives wall-clock seconds."""
    await asyncio.sleep(FIRST_S)
    while True:
        now_ms = int(clock() * 1000)
        try:
            for agent, retention in retentions.items():
                if retention.days is not None and retention.directory:
                    before_s = clock() - retention.days * DAY_MS / 1000
                    await asyncio.to_thread(drop_left, Path(retention.directory), before_s)
                removed = await keep_within(database, agent, retention, now_ms, recordings)
                if removed.calls:
                    log.info("store: %d calls of agent %s are past their retention", len(removed.calls), agent)
                    forgotten(removed.calls)
            await database.write(partial(drop_old_hours, now_ms=now_ms))
            await database.write(partial(drop_old, now_ms=now_ms))
            await database.write(partial(drop_old_outbound, now_ms=now_ms))
        except (DatabaseAway, BucketAway) as error:
            log.warning("store: upkeep is tried again within the hour: %s", error)
        except Exception:
            log.exception("store: upkeep failed")
        await asyncio.sleep(EVERY_S)
