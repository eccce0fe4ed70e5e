"""What is kept and reported of a process's calls: records redacted and stored, events delivered, old calls removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from offhook.gateway.agent.redaction import redacted, without_words
from offhook.gateway.agent.spec import Agent
from offhook.gateway.config import Settings
from offhook.gateway.store import Records
from offhook.gateway.store.columns import CallEvent
from offhook.gateway.store.configured import kept_records
from offhook.gateway.store.memory import MemoryRecords
from offhook.gateway.store.record import CallRecord, ToolRecord
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
        self.store = kept_records(settings, metrics)
        self.records: Records = MemoryRecords() if self.store is None else self.store
        self._redacting: set[asyncio.Task[None]] = set()
        self._events: CallEvents | None = None
        self._deliveries: Deliveries | None = None
        if receiver is not None and self.store is not None:
            self._events = CallEvents(settings.webhook_events, clock)
            self._deliveries = Deliveries(self.store.database, receiver, metrics, clock)
            self.store.written = self._deliveries.wake

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the store, deliver and remove, until after the last call. Raises `OperatorError`."""
        if (store := self.store) is None:
            yield
            return
        await store.open()
        if self._deliveries is not None:
            self._deliveries.start()
        upkeep = asyncio.create_task(
            upkeep_forever(store.database, self._retentions, self._clock, store.forget), name="store: upkeep"
        )
        try:
            yield
        finally:
            await asyncio.gather(*self._redacting, return_exceptions=True)
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

        task = asyncio.create_task(redact(), name="redact")
        self._redacting.add(task)
        task.add_done_callback(self._redacting.discard)

    def _keep(self, record: CallRecord, epoch: int) -> None:
        if self.store is None:
            self.records.keep(record)
            return
        events: tuple[CallEvent, ...] = ()
        if (reporting := self._events) is not None:
            events = self._made(lambda: reporting.ended(record), record)
        self.store.keep(record, events, epoch)

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
    return Retention(agent.retention.days, None if megabytes is None else int(megabytes * 1_000_000))
