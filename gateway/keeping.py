"""What is kept and reported of a process's calls: records redacted and stored, events delivered, old calls removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from offhook.gateway.agent.redaction import redacted, without_words
from offhook.gateway.agent.spec import Agent
from offhook.gateway.config import Settings
from offhook.gateway.store import Records
from offhook.gateway.store.columns import CallEvent
from offhook.gateway.store.configured import configured_recordings, kept_records
from offhook.gateway.store.memory import MemoryRecords
from offhook.gateway.store.outbound import OutboundTable
from offhook.gateway.store.record import CallRecord, ToolRecord
from offhook.gateway.store.recordings import Finishing
from offhook.gateway.store.upkeep import Retention, upkeep_forever
from offhook.gateway.webhooks.deliver import Deliveries, receiver_for
from offhook.gateway.webhooks.events import CallEvents
from offhook.metrics.catalogue import Metrics

__all__ = ["Keeping"]

log = logging.getLogger(__name__)


class Keeping:
    """`records` has the ended calls; without a store, in memory. `clock` gives wall-clock seconds.

    Raises `OperatorError` for settings that cannot be used.
    """

    def __init__(
        self, settings: Settings, agents: Iterable[Agent], metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._metrics, self._clock = metrics, clock
        self._retentions = {agent.name: _retention_of(agent) for agent in agents}
        receiver = receiver_for(settings)
        self.recordings = configured_recordings(settings)
        self.store = kept_records(settings, metrics, self.recordings)
        self.records: Records = MemoryRecords() if self.store is None else self.store
        self._tasks: set[asyncio.Task[None]] = set()
        self._events: CallEvents | None = None
        self._deliveries: Deliveries | None = None
        if receiver is not None and self.store is not None:
            self._events = CallEvents(settings.webhook_events, clock)
            self._deliveries = Deliveries(self.store.database, receiver, metrics, clock)
            self.store.written = self._deliveries.wake

    def outbound_table(self, node: str, clock: Callable[[], float]) -> OutboundTable | None:
        """Where outbound calls wait, in the same database; None without a store. `clock`: seconds since 1970."""
        if self.store is None:
            return None
        return OutboundTable(self.store.database, node, self.store.number_key, clock)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the store, deliver and remove, until after the last call. Raises `OperatorError`."""
        if (store := self.store) is None:
            try:
                yield
            finally:
                await asyncio.gather(*self._tasks, return_exceptions=True)
            return
        await store.open()
        if self._deliveries is not None:
            self._deliveries.start()
        upkeep = asyncio.create_task(
            upkeep_forever(store.database, self._retentions, self._clock, store.forget, self.recordings),
            name="store: upkeep",
        )
        try:
            yield
        finally:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            upkeep.cancel()
            await asyncio.gather(upkeep, return_exceptions=True)
            if self._deliveries is not None:
                await self._deliveries.close()
            await store.close()

    # --- for the calls: none of these waits or raises

    def started(self, record: CallRecord) -> None:
        """A call was admitted."""
        if (events := self._events) is not None:
            self._emit(lambda: events.started(record), record)

    def tool_finished(self, record: CallRecord, rules: Sequence[str], tool: ToolRecord) -> None:
        """A tool of a live call has its outcome."""
        if (events := self._events) is None:
            return

        def made() -> tuple[CallEvent, ...]:
            (masked,) = redacted(CallRecord(call_sid="", tool_calls=[tool]), rules).tool_calls
            return events.tool_finished(record, masked)

        self._emit(made, record)

    def ended(self, record: CallRecord, rules: Sequence[str], epoch: int = 1) -> None:
        """A call is over: keep its record, redacted by the agent's rules. `epoch`: this process' of the call; a record
        of a higher one stays.
        """
        if not rules:
            self._keep(record, epoch)
            return

        async def redact() -> None:  # expressions of the operator's own may take their time
            try:
                kept = await asyncio.to_thread(redacted, record, rules)
            except Exception:
                log.exception("call %s: its record cannot be redacted, and is kept without words", record.call_sid)
                self._metrics.task_failures_total.inc("store")
                kept = without_words(record)
            self._keep(kept, epoch)

        self._spawn(redact(), "redact")

    def moved(self, record: CallRecord) -> None:
        """Another process goes on with the call: what was recorded here goes where that one finds it."""
        if self.store is not None and self.recordings.bucket is not None and record.recording is not None:
            self.store.finish(Finishing(record.call_sid, record.recording, whole=False))

    def _keep(self, record: CallRecord, epoch: int) -> None:
        recording = record.recording
        if recording is not None:
            recording = self.recordings.placed(recording)
            record.recording = None if recording.refused else recording
        if self.store is None:
            self.records.keep(record)
            if recording is not None:
                self._spawn(self._finish(Finishing(record.call_sid, recording)), "recording")
            return
        events: tuple[CallEvent, ...] = ()
        ready = None
        if (reporting := self._events) is not None:
            events = self._made(lambda: reporting.ended(record), record)
            ready = reporting.recording_ready(record)
        finishing = None if recording is None else Finishing(record.call_sid, recording, event=ready)
        self.store.keep(record, events, epoch, finishing)

    async def _finish(self, work: Finishing) -> None:
        now_ms = int(self._clock() * 1000)
        try:
            await asyncio.to_thread(self.recordings.finish, work, now_ms, now_ms)
        except Exception as error:  # the disk, or a key that is missing
            log.error("call %s: its recording stays in parts: %s", work.call_sid, error)
            self._metrics.records_failed_total.inc("recording")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _emit(self, make: Callable[[], tuple[CallEvent, ...]], record: CallRecord) -> None:
        if self.store is not None:
            for event in self._made(make, record):
                self.store.emit(event)

    def _made(self, make: Callable[[], tuple[CallEvent, ...]], record: CallRecord) -> tuple[CallEvent, ...]:
        try:
            return make()
        except Exception:  # values that are no JSON, say
            log.exception("call %s: an event of it cannot be reported", record.call_sid)
            self._metrics.task_failures_total.inc("webhooks")
            return ()


def _retention_of(agent: Agent) -> Retention:
    megabytes = agent.retention.megabytes
    size_bytes = None if megabytes is None else int(megabytes * 1_000_000)
    directory = str(Path(agent.directory) / agent.recording.directory) if agent.recording.enabled else ""
    return Retention(agent.retention.days, size_bytes, directory)
