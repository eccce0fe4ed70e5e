"""What operators and tools have done to calls at their carriers: hold, keys, outbound calls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from offhook.gateway.agent.spec import Agent
from offhook.gateway.call.call import Call
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.errors import OperatorError, PeerError
from offhook.gateway.telephony.carrier import Feature, Hold, Keys
from offhook.gateway.telephony.leg import HOLD_MAX_S, RETURN_S, Leg
from offhook.gateway.telephony.outbound import OutboundCall, key_of, to_be_called
from offhook.gateway.telephony.placing import Placing
from offhook.gateway.telephony.transfer import briefing_agent

__all__ = ["Operators"]

log = logging.getLogger(__name__)

KEY_S = 0.5  # a key's tone and the pause after it
KEYS = frozenset("0123456789ABCD*#w")


class Operators:
    """The part of the switchboard that operators' requests arrive at. `calls` and `legs` are the switchboard's."""

    def __init__(
        self,
        placing: Placing,
        agents: Mapping[str, Agent],
        calls: Mapping[str, Call],
        legs: Mapping[str, Leg],
        *,
        spawn: Callable[[Coroutine[Any, Any, Any]], None],
    ) -> None:
        self.placing, self._agents, self._calls, self._legs, self._spawn = placing, agents, calls, legs, spawn

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

    async def call_out(
        self,
        to: str,
        agent_name: str,
        *,
        caller_id: str = "",
        variables: dict[str, str] | None = None,
        placed_by: str = "",
        key: str = "",
    ) -> OutboundCall:
        """Queue an outbound call, or find the one that was queued with this idempotency key. Raises `OperatorError`
        for one that cannot be placed, `KeyReused`.
        """
        agent = self._agents.get(agent_name) if agent_name else next(iter(self._agents.values()))
        if agent is None:
            raise OperatorError(f"no agent is named {agent_name[:60]!r}: there are {', '.join(self._agents)}")
        placing = self.placing
        placing.check_cost(agent)
        if placing.carrier is None:
            raise OperatorError(
                "calls cannot be placed: set the carrier's credentials and OFFHOOK_PUBLIC_URL; `offhook doctor` "
                "names what is missing"
            )
        asked = key_of(key, to_be_called(to), agent_name, caller_id, sorted((variables or {}).items()))
        return await placing.submit(to, agent, asked, caller_id=caller_id, variables=variables, placed_by=placed_by)

    async def hang_up(self, outbound: OutboundCall) -> bool:
        """End an outbound call, however far it has come; False when it is over. Raises `OperatorError`."""
        if outbound.over:
            return False
        if await self.placing.cancel(outbound):
            return True
        if call := self._calls.get(outbound.call_sid):
            call.stop(Ending.AGENT_HUNG_UP)
            return True
        leg = self._legs.get(outbound.call_sid)
        carrier = leg.carrier if leg is not None else self.placing.carrier
        if carrier is None or not outbound.call_sid:
            return False
        with suppress(PeerError):
            return await carrier.hang_up(outbound.call_sid)
        return False

    def agent_of(self, outbound: OutboundCall) -> Agent | None:
        """The agent that speaks in it."""
        agent = self._agents.get(outbound.agent)
        if agent is None or not outbound.conference:
            return agent
        return briefing_agent(agent)
