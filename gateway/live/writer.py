"""Checkpoints written behind: one pending per call, one task per process, and no call waits for any.

A call says that it has changed; the task builds its newest checkpoint when its turn comes. While the store is away
changes coalesce: there is never more to write than one checkpoint per call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from offhook.gateway.live import CallStage, LiveStore, StoreAway, Write, Written
from offhook.metrics.catalogue import Metrics

__all__ = ["Checkpoints", "Kept"]

log = logging.getLogger(__name__)

BATCH_MAX = 64
LOST_MAX = 10_000  # calls remembered that another node took: as many as ended ones
AWAY_S = 1.0  # between two attempts while the store is away
SOON_S = 0.5  # a change that may wait: the words of a reply as they come


class Kept(Protocol):
    """A call whose checkpoints are written."""

    def checkpoint(self) -> tuple[CallStage, bytes]:
        """Its stage and its head, now."""

    def log(self, start: int) -> Sequence[bytes]:
        """What is only appended to, from this entry on."""

    def superseded(self) -> None:
        """Another node has the call: nothing more of it is this node's."""


@dataclass(slots=True)
class _Entry:
    kept: Kept
    epoch: int
    log_at: int = 0  # entries written
    fenced: bool = False
    changes: int = 0
    kept_changes: int = 0  # of those, what the store has


class Checkpoints:
    """Of this node's calls."""

    def __init__(self, owner: str, store: LiveStore | None, metrics: Metrics) -> None:
        self._owner, self._store, self._metrics = owner, store, metrics
        self._calls: dict[str, _Entry] = {}
        self._dirty: dict[str, None] = {}
        self._later: set[str] = set()
        self._lost: dict[str, None] = {}  # oldest first
        self._flush: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._round = asyncio.Event()  # this round of writes is over; each has its own

    def begin(self, call_id: str, kept: Kept, epoch: int, *, log_at: int = 0) -> None:
        """This call is this node's from now on. `log_at`: entries that are written already."""
        if self._store is not None:
            self._lost.pop(call_id, None)
            self._calls[call_id] = _Entry(kept, epoch, log_at)
            self.changed(call_id)

    def forget(self, call_id: str) -> int | None:
        """No more of this call is written; its epoch, None for one that is not written here."""
        entry = self._calls.pop(call_id, None)
        self._dirty.pop(call_id, None)
        self._later.discard(call_id)
        return None if entry is None else entry.epoch

    def lose(self, call_id: str) -> None:
        """As `forget`, for a call that another node has now."""
        self.forget(call_id)
        self._lost[call_id] = None
        while len(self._lost) > LOST_MAX:
            del self._lost[next(iter(self._lost))]

    def has_lost(self, call_id: str) -> bool:
        """Whether this node had the call, and another one took it."""
        return call_id in self._lost

    def epoch(self, call_id: str) -> int | None:
        entry = self._calls.get(call_id)
        return None if entry is None else entry.epoch

    def call_ids(self) -> list[str]:
        return list(self._calls)

    def changed(self, call_id: str) -> None:
        """Write it now."""
        if (entry := self._calls.get(call_id)) is not None:
            entry.changes += 1
            self._dirty[call_id] = None
            self._wake.set()

    def changed_a_little(self, call_id: str) -> None:
        """Write it within `SOON_S`."""
        if call_id in self._calls and call_id not in self._later:
            self._later.add(call_id)
            if self._flush is None:
                self._flush = asyncio.get_running_loop().call_later(SOON_S, self._flush_later)

    def _flush_later(self) -> None:
        self._flush = None
        for call_id in self._later:
            self.changed(call_id)
        self._later.clear()

    def fenced(self, call_id: str, epoch: int) -> None:
        """Another node has taken this call from the owner with this epoch, which may be here again since."""
        entry = self._calls.get(call_id)
        if entry is None or entry.fenced or entry.epoch != epoch:
            return
        entry.fenced = True
        self._dirty.pop(call_id, None)
        self._metrics.calls_moved_total.inc("lost")
        log.warning("call %s: another node has taken it over", call_id)
        entry.kept.superseded()

    async def written(self, call_id: str, within_s: float) -> bool:
        """Wait until the store has this call as it is now, whatever changes meanwhile; False when that took too long,
        or the call is not this node's any more.
        """
        entry = self._calls.get(call_id)
        if entry is None:
            return False
        changes = entry.changes
        try:
            async with asyncio.timeout(within_s):
                while entry.kept_changes < changes and not entry.fenced:
                    await self._round.wait()
        except TimeoutError:
            return False
        return not entry.fenced

    async def run(self) -> None:
        """Write, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._dirty:
                try:
                    await self._write_some()
                except StoreAway:
                    self._metrics.live_store_errors_total.inc()
                    await asyncio.sleep(AWAY_S)
                except Exception as error:
                    log.error("the checkpoints failed", exc_info=error)
                    self._metrics.task_failures_total.inc("live")
                    await asyncio.sleep(AWAY_S)

    async def _write_some(self) -> None:
        assert self._store is not None
        call_ids = list(self._dirty)[:BATCH_MAX]
        for call_id in call_ids:
            del self._dirty[call_id]
        writes = [write for call_id in call_ids if (write := self._build(call_id)) is not None]
        changes = [self._calls[write.call_id].changes for write in writes]
        try:
            results = await self._store.write(writes)
        except BaseException:
            for write in writes:
                if write.call_id in self._calls:
                    self._dirty.setdefault(write.call_id)
            raise
        for write, result, of in zip(writes, results, changes, strict=True):
            self._metrics.checkpoints_total.inc(result.value)
            entry = self._calls.get(write.call_id)
            if entry is None or entry.epoch != write.epoch:
                continue
            if result is Written.KEPT:
                entry.log_at, entry.kept_changes = write.log_at + len(write.log), of
            elif result is Written.FENCED:
                self.fenced(write.call_id, write.epoch)
            else:
                entry.log_at = 0
                self.changed(write.call_id)
        self._round.set()
        self._round = asyncio.Event()

    def _build(self, call_id: str) -> Write | None:
        entry = self._calls.get(call_id)
        if entry is None or entry.fenced:
            return None
        try:
            log_at = entry.log_at
            stage, head = entry.kept.checkpoint()
            return Write(call_id, self._owner, entry.epoch, stage, head, tuple(entry.kept.log(log_at)), log_at)
        except Exception as error:  # costs this checkpoint, and no other call's
            log.error("call %s: its checkpoint failed", call_id, exc_info=error)
            self._metrics.task_failures_total.inc("live")
            return None
