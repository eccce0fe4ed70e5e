"""Placing outbound calls: at the carrier's rate, each once.

Without a table they wait in this process (`OutboundQueue`) and end with it. With one they wait in the database, which
all processes share: whoever has room claims the oldest, notes that it asks the carrier, and asks. A claim that was left
before that is due again. One that was left after it is in doubt, and looked up at the carrier, which has no key of its
own against a second call.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from offhook.gateway.agent.spec import Agent
from offhook.gateway.errors import OperatorError, PeerError
from offhook.gateway.store.database import DatabaseAway
from offhook.gateway.store.outbound import OutboundTable, Row
from offhook.gateway.telephony.admission import Admission, Refusal
from offhook.gateway.telephony.carrier import Carrier, CarrierBusy, Feature
from offhook.gateway.telephony.outbound import (
    BUSY_S,
    MAX_QUEUED,
    IdempotencyKey,
    OutboundCall,
    OutboundQueue,
    QueueFull,
    check_same,
    made_call,
)
from offhook.gateway.telephony.status import CallStatus
from offhook.gateway.telephony.transfer import caller_in
from offhook.metrics.catalogue import Metrics

__all__ = ["CostReached", "Placing", "StoreUnreachable"]

log = logging.getLogger(__name__)

IDLE_S = 1.0  # between two looks at a table in which nothing waits


class CostReached(OperatorError):
    """The cost per day is reached: no call is placed until calls of the last 24 hours are older."""


class StoreUnreachable(OperatorError):
    """The database did not take the call, or cannot be asked for it."""


class _Asked(msgspec.Struct):
    """The table's `body`."""

    to: str
    agent: str
    caller_id: str
    variables: dict[str, str] = {}
    placed_by: str = ""


class Placing:
    """`carriers`: the switchboard's; the first that can places calls. `table`: None, and calls wait in `queue` alone.

    `briefing_over(outbound)`: the call that briefs a warm transfer's target could not be placed. `has_lost(call_id)`:
    another process has that call.
    """

    def __init__(
        self,
        queue: OutboundQueue,
        table: OutboundTable | None,
        admission: Admission,
        metrics: Metrics,
        agents: Mapping[str, Agent],
        carriers: Sequence[Carrier],
        *,
        clock: Callable[[], float],
        briefing_over: Callable[[OutboundCall], None],
        has_lost: Callable[[str], Awaitable[bool]],
        spawn: Callable[[Coroutine[Any, Any, Any]], None],
    ) -> None:
        self.queue, self._table, self._admission, self._metrics = queue, table, admission, metrics
        self._agents, self._carriers, self._clock = agents, carriers, clock
        self._briefing_over, self._has_lost, self._spawn = briefing_over, has_lost, spawn
        self._stored: dict[str, tuple[str, ...]] = {}  # what the table has of each call that is followed here
        self._looking, self._look_s = False, 0.0

    @property
    def carrier(self) -> Carrier | None:
        return next((carrier for carrier in self._carriers if Feature.PLACE in carrier.can), None)

    def check_cost(self, agent: Agent) -> None:
        """Raise `CostReached`, counted."""
        if self._admission.cost_reached(agent, self._clock()):
            self._metrics.calls_rejected_total.inc(Refusal.COST.value)
            raise CostReached(f"the calls of agent {agent.name!r}, or of this gateway, have reached their cost per day")

    # --- asked for

    async def submit(
        self,
        to: str,
        agent: Agent,
        key: IdempotencyKey | None,
        *,
        caller_id: str = "",
        variables: dict[str, str] | None = None,
        placed_by: str = "",
    ) -> OutboundCall:
        """Queue a call, or find the one of this key. Raises `OperatorError`, `QueueFull`, `KeyReused`,
        `StoreUnreachable`.
        """
        if self._table is None:
            return self.queue.submit(to, agent, caller_id=caller_id, variables=variables, placed_by=placed_by, key=key)
        call = made_call(to, agent, caller_id=caller_id, variables=variables, placed_by=placed_by)
        body = msgspec.json.encode(_Asked(call.to, call.agent, call.caller_id, call.variables, placed_by)).decode()
        row = Row(call.id, key.digest if key else "", body, CallStatus.WAITING.value)
        try:
            found = await self._table.submit(row, key.text if key else None, call.to, MAX_QUEUED)
        except DatabaseAway as error:
            raise StoreUnreachable(f"the call was not queued, because the database is away: {error}") from None
        if found is None:
            raise QueueFull(f"{MAX_QUEUED} calls are queued already: try again later")
        if key is not None:
            check_same(key, found.digest)
        self._look_s = 0.0
        return self.queue.find(found.id) or _call_of(found)

    async def find(self, id: str) -> OutboundCall | None:
        """A call, whichever process asked for it. Raises `StoreUnreachable`."""
        known = self.queue.find(id)
        if known is not None or self._table is None:
            return known
        try:
            row = await self._table.find(id)
        except DatabaseAway as error:
            raise StoreUnreachable(f"the database is away: {error}") from None
        return None if row is None else _call_of(row)

    async def follow(self, id: str) -> None:
        """The carrier reports on this call: from now on it is followed here, whichever process placed it."""
        if self._table is None or self.queue.find(id) is not None:
            return
        try:
            row = await self._table.find(id)
        except DatabaseAway as error:
            log.warning("a report on outbound call %s is not entered: %s", id, error)
            return
        if row is not None:
            self._keep(_call_of(row))

    async def cancel(self, call: OutboundCall) -> bool:
        """Take a call out before the carrier is asked; False when it is too late. Raises `StoreUnreachable`."""
        if self.queue.cancel(call):
            return True
        if self._table is None or call.conference:
            return False
        try:
            done = await self._table.cancel(call.id)
        except DatabaseAway as error:
            raise StoreUnreachable(f"the database is away: {error}") from None
        if done:
            call.status = CallStatus.CANCELED
        return done

    # --- placed

    def tick(self, now_s: float) -> None:
        """Several times a second: place what is due."""
        carrier = self.carrier
        if self._table is not None:
            if not self._looking and now_s >= self._look_s:
                self._looking = True
                self._spawn(self._look(self._table, carrier, now_s))
        elif carrier is not None and not self._admission.draining:
            while call := self.queue.due(now_s, self._admission.free):
                self._spawn(self._place(carrier, call))

    async def _look(self, table: OutboundTable, carrier: Carrier | None, now_s: float) -> None:
        """Store what has become of calls; take what is due."""
        self._look_s = now_s + IDLE_S
        try:
            await self._store(table)
            if carrier is not None and not self._admission.draining:
                await self._claim(table, carrier, now_s)
                if (row := await table.in_doubt()) is not None:
                    await self._settle(table, carrier, row)
        except DatabaseAway as error:
            log.warning("outbound calls wait: %s", error)
        finally:
            self._looking = False

    async def _claim(self, table: OutboundTable, carrier: Carrier, now_s: float) -> None:
        queue, gap_ms = self.queue, self.queue.gap_s * 1000
        room = self._admission.free - queue.unanswered
        if queue.waiting and room > 0:  # briefings: a caller waits
            self._look_s = 0.0
            if await table.take_turn(gap_ms) and (briefing := queue.due(now_s, self._admission.free)):
                self._spawn(self._place(carrier, briefing))
            return
        if room <= 0 or not await table.is_due():
            return
        self._look_s = 0.0
        for row in await table.claim(gap_ms, queue.behind_s * 1000, room):
            call = _call_of(row)
            call.status = CallStatus.PLACING
            self._keep(call, _state_of(row))
            self._spawn(self._place_claimed(table, carrier, call))

    def _keep(self, call: OutboundCall, stored: tuple[str, ...] | None = None) -> None:
        self.queue.keep(call)
        self._stored[call.id] = _state(call) if stored is None else stored

    def _drop(self, call: OutboundCall) -> None:
        self.queue.drop(call)
        self._stored.pop(call.id, None)

    async def _store(self, table: OutboundTable) -> None:
        """Write each call that has changed since it was written last."""
        for id in list(self._stored):
            call = self.queue.find(id)
            if call is None:
                del self._stored[id]
            elif (call.call_sid or call.over) and (state := _state(call)) != self._stored[id]:
                await table.save(id, *state)
                self._stored[id] = state

    async def _place_claimed(self, table: OutboundTable, carrier: Carrier, call: OutboundCall) -> None:
        try:
            begun = await table.begin(call.id)
        except DatabaseAway as error:
            log.warning("outbound call %s is not placed now: %s", call.id, error)
            begun = False
        if not begun:  # it was canceled, or another process has it by now
            self._drop(call)
            return
        try:
            await self._place(carrier, call)
            if call.status is CallStatus.WAITING:
                self._drop(call)
                await table.put_back(call.id, int(BUSY_S * 1000))
            self._look_s = 0.0
        except DatabaseAway as error:
            log.warning("outbound call %s: %s", call.id, error)

    async def _settle(self, table: OutboundTable, carrier: Carrier, row: Row) -> None:
        """The process that asked the carrier for this call has ended before the answer was stored."""
        call = _call_of(row)
        try:
            placed = await table.not_ours(await carrier.placed(call, row.placing_ms / 1000))
        except PeerError as error:
            log.warning("outbound call %s: whether it was placed is not known yet: %s", row.id, error)
            return
        if not placed:
            log.warning("outbound call %s: its process ended, and the carrier does not have it: placed again", row.id)
            await table.put_back(row.id)
            return
        log.warning("outbound call %s: its process ended, and the carrier has it", row.id)
        stored = _state_of(row)
        call.call_sid, call.status = placed[0], CallStatus.QUEUED
        self._keep(call, stored)
        await self._store(table)

    async def _place(self, carrier: Carrier, call: OutboundCall) -> None:
        agent = self._agents.get(call.agent)
        try:
            if agent is None:
                raise PeerError(f"there is no agent {call.agent!r} any more")
            if not call.conference:  # a briefing belongs to a call that was admitted
                self.check_cost(agent)
            elif await self._has_lost(caller_in(call.conference)):
                raise PeerError("another process has the caller's call")
            call_id = await carrier.place(call, agent)
        except CostReached as error:
            call.error = str(error)
            call.on_status(CallStatus.FAILED)
        except CarrierBusy as error:
            log.warning("an outbound call is delayed: %s", error)
            if self._table is None or call.conference:
                self.queue.back_off(call, self._clock())
            else:
                call.status = CallStatus.WAITING
        except PeerError as error:
            log.warning("an outbound call could not be placed: %s", error)
            call.error = str(error)
            call.on_status(CallStatus.FAILED)
            if call.conference:
                self._briefing_over(call)
        else:
            call.call_sid = call.call_sid or call_id
            call.on_status(CallStatus.QUEUED)

    async def close(self) -> None:
        """The process ends: what waits here is not placed, what waits in the table is left to others."""
        self.queue.stop()
        if self._table is not None:
            try:
                await self._store(self._table)
                await self._table.give_back()
            except DatabaseAway as error:
                log.warning("outbound calls: %s", error)


def _call_of(row: Row) -> OutboundCall:
    asked = msgspec.json.decode(row.body, type=_Asked)
    return OutboundCall(
        id=row.id,
        to=asked.to,
        agent=asked.agent,
        caller_id=asked.caller_id,
        variables=asked.variables,
        status=CallStatus.WAITING if row.status == "claimed" else CallStatus(row.status),
        call_sid=row.call_sid,
        answered_by=row.answered_by,
        error=row.error,
        placed_by=asked.placed_by,
    )


def _state(call: OutboundCall) -> tuple[str, str, str, str]:
    return call.status.value, call.call_sid, call.answered_by, call.error


def _state_of(row: Row) -> tuple[str, str, str, str]:
    return row.status, row.call_sid, row.answered_by, row.error
