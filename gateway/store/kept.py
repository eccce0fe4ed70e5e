"""Records that stay: spooled to this disk, then written to the database; the newest at hand in memory.

Three tasks. One moves what the calls hand over to the spool, one moves the spool to the database, and one finishes
recordings. A database that is away, locked or full delays the second alone, a bucket the third. All work is done in
threads, or by Postgres.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from offhook.gateway.errors import OperatorError
from offhook.gateway.store.bucket import BucketAway
from offhook.gateway.store.columns import CallEvent, Entry, entry_of
from offhook.gateway.store.database import CallDatabase, DatabaseAway, Transaction
from offhook.gateway.store.history import count_calls, find_record, newest_records, stored_among
from offhook.gateway.store.memory import MAX_RECORDS, MemoryRecords
from offhook.gateway.store.migrate import migrate
from offhook.gateway.store.record import CallRecord
from offhook.gateway.store.recordings import Finishing, PartMissing, Recordings
from offhook.gateway.store.spool import Spool
from offhook.gateway.store.writing import write_entries
from offhook.metrics.catalogue import Metrics

__all__ = ["KeptRecords"]

log = logging.getLogger(__name__)
T = TypeVar("T")

BATCH = 50  # entries of one transaction: some 100 ms
RETRY_S = (0.5, 1.0, 2.0, 5.0, 10.0)
MOST_IN_MEMORY = 10_000  # where not even the spool can be written: 100 MB
LOOK_S = 60.0
LOADED = 100  # newest records at hand after a start
CLOSE_S = 5.0  # at the process's end; what is left is in the spool


class _Handed(msgspec.Struct, frozen=True):
    """What was handed over: a record, events, or both; a recording to finish."""

    record: CallRecord | None
    epoch: int
    events: tuple[CallEvent, ...]
    finishing: Finishing | None = None


class KeptRecords:
    """Implements `Records`. `number_key` hashes the callers' numbers; `node`: see `writing.write_entries`.

    `written()` is called after each transaction with events in it.
    """

    def __init__(
        self,
        database: CallDatabase,
        spool: Spool,
        number_key: bytes,
        metrics: Metrics,
        *,
        node: str,
        recordings: Recordings | None = None,
        clock: Callable[[], float] = time.time,
        written: Callable[[], None] = lambda: None,
    ) -> None:
        self.database, self.spool, self.number_key = database, spool, number_key
        self._metrics, self._node, self.written = metrics, node, written
        self.recordings, self._clock = recordings or Recordings(), clock
        self._memory = MemoryRecords()
        self._handed: deque[_Handed] = deque()
        self._to_spool, self._to_ship, self._to_finish = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._unfinished: set[int] = set()  # recordings that were reported as failed
        self._thread = ThreadPoolExecutor(1, "store-spool")
        self._tasks: list[asyncio.Task[None]] = []
        self._count = 0
        self._ready = False  # the schema is the newest
        self._away = False

    # --- Records

    def keep(
        self,
        record: CallRecord,
        events: tuple[CallEvent, ...] = (),
        epoch: int = 1,
        finishing: Finishing | None = None,
    ) -> None:
        """Add a record, or replace the one of the same call unless its epoch is higher; `events` go with it."""
        if self._memory.keep(record):
            self._count += 1
        self._hand(_Handed(record, epoch, events, finishing))

    def finish(self, finishing: Finishing) -> None:
        """A recording without a record."""
        self._hand(_Handed(None, 0, (), finishing))

    def emit(self, event: CallEvent) -> None:
        """Add an event that has no record yet."""
        self._hand(_Handed(None, 0, (event,)))

    def recent(self, limit: int) -> Sequence[CallRecord]:
        return self._memory.recent(limit)

    async def get(self, call_id: str) -> CallRecord | None:
        found = await self._memory.get(call_id)
        if found is not None:
            return found
        try:
            return await self.database.read(lambda session: find_record(session, call_id))
        except DatabaseAway as error:
            log.warning("record of call %s: %s", call_id, error)
            return None

    def forget(self, call_ids: Sequence[str]) -> None:
        """These were removed from the database."""
        for call_id in call_ids:
            self._memory.forget(call_id)
        self._count = max(len(self._memory), self._count - len(call_ids))

    def __len__(self) -> int:
        return self._count

    # --- life

    async def open(self) -> None:
        """Bring the schema up to date, load the newest records, start. Raises `OperatorError` for a newer schema.

        A database that is away does not keep the gateway from starting.
        """
        try:
            await self._prepare()
        except DatabaseAway as error:
            self._report_away(error)
        await self._in_thread(self.spool.adopt)
        self._to_ship.set()
        self._to_finish.set()
        self._tasks = [
            asyncio.create_task(self._finish_forever(), name="store: recordings"),
            asyncio.create_task(self._spool_forever(), name="store: spool"),
            asyncio.create_task(self._ship_forever(), name="store: ship"),
            asyncio.create_task(self._look_forever(), name="store: look"),
        ]

    async def close(self) -> None:
        """Move what is left to the database, as far as it takes a few seconds; then to the spool in any case."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_S):
                while self._handed:
                    await self._spool_batch()
                await self._ship_all()
                await self._finish_all()
                await self._ship_all()  # a recording that is finished reports itself
        except (TimeoutError, DatabaseAway, sqlite3.Error) as error:
            log.warning("store: what is left waits in %s: %s", self.spool.path, error)
        if self._handed:
            log.error("%d records are lost: neither database nor spool takes them", len(self._handed))
        await self._in_thread(self.spool.close)
        self._thread.shutdown()
        await self.database.close()

    async def waiting(self) -> int:
        """How many entries the database does not have yet."""
        return len(self._handed) + await self._in_thread(self.spool.__len__)

    async def _prepare(self) -> None:
        for name in await migrate(self.database):
            log.info("store: applied %s to %s", name, self.database.where)
        self._count = await self.database.read(count_calls)
        for record in reversed(await self.database.read(lambda session: newest_records(session, LOADED))):
            self._memory.keep(record)
        self._ready = True

    async def _in_thread(self, work: Callable[..., T], *values: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *values)

    # --- from the calls to the spool

    def _hand(self, handed: _Handed) -> None:
        if len(self._handed) >= MOST_IN_MEMORY:
            self._handed.popleft()
            self._metrics.records_failed_total.inc("lost")
        self._handed.append(handed)
        self._to_spool.set()

    async def _spool_forever(self) -> None:
        failures = 0
        while True:
            await self._to_spool.wait()
            self._to_spool.clear()
            while self._handed:
                try:
                    await self._spool_batch()
                except sqlite3.Error as error:
                    if not failures:
                        log.error("store: the spool %s cannot be written: %s", self.spool.path, error)
                    self._metrics.records_failed_total.inc("spool")
                    await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
                    failures += 1
                else:
                    failures = 0
                    self._to_ship.set()
                    self._to_finish.set()

    async def _spool_batch(self) -> None:
        batch = [self._handed[index] for index in range(min(BATCH, len(self._handed)))]
        refused = await self._in_thread(self._spool, batch)
        for _ in range(refused):
            self._metrics.records_failed_total.inc("refused")
        for _ in batch:
            self._handed.popleft()

    def _spool(self, batch: Sequence[_Handed]) -> int:
        """In the thread; how many cannot be kept."""
        entries, work, refused = [], [], 0
        for handed in batch:
            if handed.finishing is not None:
                work.append((handed.finishing, int(self._clock() * 1000)))
            if handed.record is None:
                if handed.events:
                    entries.append(Entry(handed.events))
                continue
            try:
                entries.append(entry_of(handed.record, handed.epoch, self.number_key, handed.events))
            except Exception:  # a record that cannot be written as JSON is a bug: the others go on
                log.exception("store: the record of call %s cannot be kept", handed.record.call_sid)
                refused += 1
        self.spool.put(entries, work)
        return refused

    # --- from the spool to the database

    async def _ship_forever(self) -> None:
        failures = 0
        while True:
            await self._to_ship.wait()
            self._to_ship.clear()
            try:
                while await self._ship():
                    pass
            except OperatorError as error:  # a newer schema
                self._report_away(error)
            except (DatabaseAway, sqlite3.Error) as error:
                self._report_away(error)
            except Exception:
                log.exception("store: shipping failed")
                self._metrics.task_failures_total.inc("store")
            else:
                if self._away:
                    log.info("store: %s is back", self.database.where)
                self._away, failures = False, 0
                continue
            await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
            failures += 1
            self._to_ship.set()

    async def _ship_all(self) -> None:
        while self._ready and not self._away and await self._ship():
            pass

    async def _ship(self) -> bool:
        """One batch; whether there was one."""
        if not self._ready:
            await self._prepare()
        batch = await self._in_thread(self.spool.first, BATCH)
        self._metrics.records_waiting.set(len(batch) if len(batch) < BATCH else await self.waiting())
        if not batch:
            return False
        try:
            await self._write([entry for _, entry in batch])
        except DatabaseAway:
            raise
        except Exception:  # `NotStorable`, or a bug
            await self._ship_alone(batch)
        else:
            await self._in_thread(self.spool.remove, [number for number, _ in batch])
        return True

    async def _ship_alone(self, batch: Sequence[tuple[int, Entry]]) -> None:
        """One of them is refused: the others are written."""
        for number, entry in batch:
            try:
                await self._write([entry])
            except DatabaseAway:
                raise
            except Exception as error:
                log.error("store: a record is refused and stays in %s: %s", self.spool.path, error)
                self._metrics.records_failed_total.inc("refused")
                await self._in_thread(self.spool.set_aside, number, str(error))
            else:
                await self._in_thread(self.spool.remove, [number])

    async def _write(self, entries: Sequence[Entry]) -> None:
        async def work(session: Transaction) -> None:
            await write_entries(session, entries, self._node)

        await self.database.write(work)
        if any(entry.events for entry in entries):
            self.written()

    # --- recordings

    async def _finish_forever(self) -> None:
        failures = 0
        while True:
            await self._to_finish.wait()
            self._to_finish.clear()
            try:
                left = await self._finish_all()
            except sqlite3.Error as error:
                log.error("store: recordings wait in %s: %s", self.spool.path, error)
                left = 1
            except Exception:
                log.exception("store: finishing recordings failed")
                self._metrics.task_failures_total.inc("store")
                left = 1
            if not left:
                failures = 0
                continue
            try:
                async with asyncio.timeout(RETRY_S[min(failures, len(RETRY_S) - 1)]):
                    await self._to_finish.wait()
            except TimeoutError:
                failures += 1
            self._to_finish.set()

    async def _finish_all(self) -> int:
        """Each recording in its turn; how many are left for another time."""
        left = 0
        for number, work, at_ms in await self._in_thread(self.spool.recordings):
            try:
                event = await self._finish(work, at_ms)
            except PartMissing:
                left += 1
            except Exception as error:  # the disk, the bucket, a key that is missing
                left += 1
                self._metrics.records_failed_total.inc("recording")
                if number not in self._unfinished:
                    self._unfinished.add(number)
                    log.error("call %s: its recording is tried again: %s", work.call_sid, error)
                if isinstance(error, BucketAway):  # so are the others
                    break
            else:
                self._unfinished.discard(number)
                await self._in_thread(self.spool.finished, number, event)
                self._to_ship.set()
        return left

    async def _finish(self, work: Finishing, at_ms: int) -> CallEvent | None:
        """The event that reports it, None without a recording."""
        if work.whole and await self._forgotten(work.call_sid):
            work = msgspec.structs.replace(work, record=msgspec.structs.replace(work.record, refused=True))
        now_ms = int(self._clock() * 1000)
        there = await asyncio.to_thread(self.recordings.finish, work, now_ms, at_ms)
        return work.event if there else None

    async def _forgotten(self, call_sid: str) -> bool:
        """The call was removed before its recording was finished."""
        if await self._memory.get(call_sid) is not None or await self.waiting():
            return False
        try:
            return not await self.database.read(lambda session: stored_among(session, [call_sid]))
        except DatabaseAway:
            return False

    # --- what others removed

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.drop_forgotten()
            except (DatabaseAway, sqlite3.Error):
                pass  # it is reported where records wait for it
            except Exception:
                log.exception("store: looking for forgotten calls failed")
                self._metrics.task_failures_total.inc("store")

    async def drop_forgotten(self) -> None:
        """Drop from memory what is no longer in the database: `offhook db forget` is another process."""
        call_ids = [record.call_sid for record in self._memory.recent(MAX_RECORDS)]
        if call_ids and not await self.waiting():  # so these have been written
            there = await self.database.read(lambda session: stored_among(session, call_ids))
            self.forget([call_id for call_id in call_ids if call_id not in there])

    def _report_away(self, error: Exception) -> None:
        self._metrics.records_failed_total.inc("database")
        if not self._away:
            log.error("store: records wait in %s until the database takes them: %s", self.spool.path, error)
        self._away = True
