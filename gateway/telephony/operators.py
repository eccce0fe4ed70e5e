"""What operators and tools have done to calls at their carriers: hold, keys, outbound calls."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from offhook.gateway.agent.spec import Agent
from offhook.gateway.call.call import Call
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.errors import OperatorError, PeerError
from offhook.gateway.telephony.admission import Admission, Refusal
from offhook.gateway.telephony.carrier import Carrier, CarrierBusy, Feature, Hold, Keys
from offhook.gateway.telephony.leg import HOLD_MAX_S, RETURN_S, Leg
from offhook.gateway.telephony.outbound import OutboundCall, OutboundQueue
from offhook.gateway.telephony.status import CallStatus
from offhook.gateway.telephony.transfer import briefing_agent, caller_in
from offhook.metrics.catalogue import Metrics

__all__ = ["CostReached", "Operators"]

log = logging.getLogger(__name__)

KEY_S = 0.5  # a key's tone and the pause after it
KEYS = frozenset("0123456789ABCD*#w")


class CostReached(OperatorError):
    """The cost per day is reached: no call is placed until calls of the last 24 hours are older."""


class Operators:
    """The part of the switchboard that operators' requests arrive at. `calls`, `legs`, `carriers` are the
    switchboard's. `briefing_over(outbound)`: the call that briefs a warm transfer's target could not be placed.
    `has_lost(call_id)`: another process has that call.
    """

    def __init__(
        self,
        calls_per_s: float,
        admission: Admission,
        metrics: Metrics,
        agents: Mapping[str, Agent],
        calls: Mapping[str, Call],
        legs: Mapping[str, Leg],
        carriers: Sequence[Carrier],
        *,
        clock: Callable[[], float],
        briefing_over: Callable[[OutboundCall], None],
        has_lost: Callable[[str], Awaitable[bool]],
        spawn: Callable[[Coroutine[Any, Any, Any]], None],
    ) -> None:
        self._admission, self._metrics, self._agents, self._calls = admission, metrics, agents, calls
        self._legs, self._carriers, self._clock = legs, carriers, clock
        self._briefing_over, self._has_lost, self._spawn = briefing_over, has_lost, spawn
        self.outbound = OutboundQueue(calls_per_s)

    # --- a live call

    async def hold(self, call_id: str, music_url: str = "", line: str = "") -> bool:
        """Play music to the caller until `resume`; the agent waits. False when that cannot be done now."""
        leg = self._legs.get(call_id)
        if leg is None or Feature.HOLD not in leg.carrier.can:
            return False
        leg.away_max_s = HOLD_MAX_S
        return await self._interrupt(leg, Hold(music_url, line))

    async def resume(self, call_id: str) -> bool:
        """End a hold: the call's stream comes back. False for a call that is not on hold."""
        leg = self._legs.get(call_id)
        if leg is None or Feature.HOLD not in leg.carrier.can:
            return False
        return await leg.carrier.resume(call_id)

    def press(self, call: Call, leg: Leg, digits: str) -> bool:
        """Send keys to the far end; False while the call has no line. `digits` outside of `KEYS` are left out."""
        if call.line is None:
            return False
        self._spawn(self._send_keys(leg, digits))
        return True

    async def _send_keys(self, leg: Leg, digits: str) -> None:
        digits = "".join(d for d in digits if d in KEYS)
        leg.away_max_s = RETURN_S + len(digits) * KEY_S + 5.0
        if not await self._interrupt(leg, Keys(digits)) and (call := self._calls.get(leg.call_id)):
            call.timeline.error("keys could not be sent: the carrier did not take the request now")

    async def _interrupt(self, leg: Leg, what: Hold | Keys) -> bool:
        try:
            return await leg.carrier.interrupt(leg.call_id, what)
        except PeerError as error:
            log.warning("call %s: %s", leg.call_id, error)
            return False

    # --- outbound calls

    def tick(self, now_s: float) -> None:
        """Place the outbound calls that are due."""
        placing = self._placing_carrier()
        if placing is not None and not self._admission.draining:
            free = self._admission.free
            while outbound := self.outbound.due(now_s, free):
                self._spawn(self._place(placing, outbound))

    def call_out(
        self,
        to: str,
        agent_name: str,
        *,
        caller_id: str = "",
        variables: dict[str, str] | None = None,
        placed_by: str = "",
    ) -> OutboundCall:
        """Queue an outbound call. Raises `OperatorError` for one that cannot be placed."""
        agent = self._agents.get(agent_name) if agent_name else next(iter(self._agents.values()))
        if agent is None:
            raise OperatorError(f"no agent is named {agent_name[:60]!r}: there are {', '.join(self._agents)}")
        self._check_cost(agent)
        if self._placing_carrier() is None:
            raise OperatorError(
                "calls cannot be placed: set the carrier's credentials and OFFHOOK_PUBLIC_URL; `offhook doctor` "
                "names what is missing"
            )
        outbound = self.outbound.submit(to, agent, caller_id=caller_id, variables=variables)
        outbound.placed_by = placed_by
        return outbound

    async def hang_up(self, outbound: OutboundCall) -> bool:
        """End an outbound call, however far it has come; False when it is over."""
        if outbound.over:
            return False
        if self.outbound.cancel(outbound):
            return True
        if call := self._calls.get(outbound.call_sid):
            call.stop(Ending.AGENT_HUNG_UP)
            return True
        leg = self._legs.get(outbound.call_sid)
        carrier = leg.carrier if leg is not None else self._placing_carrier()
        if carrier is None or not outbound.call_sid:
            return False
        with suppress(PeerError):
            return await carrier.hang_up(outbound.call_sid)
        return False

    def _placing_carrier(self) -> Carrier | None:
        return next((carrier for carrier in self._carriers if Feature.PLACE in carrier.can), None)

    def agent_of(self, outbound: OutboundCall) -> Agent | None:
        """The agent that speaks in it."""
        agent = self._agents.get(outbound.agent)
        if agent is None or not outbound.conference:
            return agent
        return briefing_agent(agent)

    def _check_cost(self, agent: Agent) -> None:
        if self._admission.cost_reached(agent, self._clock()):
            self._metrics.calls_rejected_total.inc(Refusal.COST.value)
            raise CostReached(f"the calls of agent {agent.name!r}, or of this gateway, have reached their cost per day")

    async def _place(self, carrier: Carrier, outbound: OutboundCall) -> None:
        agent = self._agents[outbound.agent]
        try:
            if not outbound.conference:  # a briefing belongs to a call that was admitted
                self._check_cost(agent)
            elif await self._has_lost(caller_in(outbound.conference)):
                raise PeerError("another process has the caller's call")
            call_id = await carrier.place(outbound, agent)
        except CostReached as error:
            outbound.error = str(error)
            outbound.on_status(CallStatus.FAILED)
        except CarrierBusy as error:
            log.warning("an outbound call is delayed: %s", error)
            self.outbound.back_off(outbound, self._clock())
        except PeerError as error:
            log.warning("an outbound call could not be placed: %s", error)
            outbound.error = str(error)
            outbound.on_status(CallStatus.FAILED)
            if outbound.conference:
                self._briefing_over(outbound)
        else:
            outbound.call_sid = outbound.call_sid or call_id
            outbound.on_status(CallStatus.QUEUED)
