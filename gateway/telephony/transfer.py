"""Warm transfer: the caller waits in a conference while the agent calls a human, briefs them, and leaves.

caller's leg    JOIN the conference, hears music ... the human joins, or the wait ends with the fallback
briefing leg    the agent's second call; JOIN when the human agreed, HANG_UP when not
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec

from offhook.gateway.agent.spec import Agent, Fallback, Greeting, Idle
from offhook.gateway.call.call import Call
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.errors import OperatorError, PeerError
from offhook.gateway.numbers import first_number
from offhook.gateway.telephony.carrier import Feature, Kind, NextStep
from offhook.gateway.telephony.leg import Leg
from offhook.gateway.telephony.outbound import OutboundCall, OutboundQueue
from offhook.gateway.tools import Tool, ToolCall, ToolHost

__all__ = [
    "BRIEFING_TOOLS",
    "DECLINED",
    "WarmTransfers",
    "briefing_agent",
    "caller_in",
    "conference_of",
    "without_human",
]

log = logging.getLogger(__name__)

DECLINED = "declined"  # remembered by a briefing call whose human does not take the caller
UNREACHED = "Sorry, we could not reach a colleague. Goodbye."

_INSTRUCTIONS = """You are calling a colleague about a caller who is waiting on the line and wants to speak to them. \
Say in one or two sentences who is calling and what it is about, then ask whether you should connect them. \
When they agree, say that you are connecting them and use the tool `connect` at once. If they do not want the call, \
or a machine answers, use the tool `decline`.
What is known about the caller: {{about}}"""


async def _connect(call: ToolCall, host: ToolHost) -> Any:
    host.end_call("connected", call.call_id)
    return "Say that you are connecting them now, if you have not."


async def _decline(call: ToolCall, host: ToolHost) -> Any:
    host.remember(DECLINED, "yes")
    host.end_call(DECLINED, call.call_id)
    return "Say goodbye now, if you have not."


_NOTHING = {"type": "object", "properties": {}}
BRIEFING_TOOLS = {
    "connect": Tool("connect", "Connect the colleague with the waiting caller.", _NOTHING, _connect),
    "decline": Tool("decline", "The colleague does not take the call.", _NOTHING, _decline),
}


def briefing_agent(agent: Agent) -> Agent:
    """The same voice and model with another task; `about` comes with the call's variables."""
    return msgspec.structs.replace(
        agent,
        name=f"{agent.name} (briefing)",
        numbers=(),
        instructions=_INSTRUCTIONS,
        greeting=Greeting(text="Greet your colleague and say why you are calling."),
        idle=Idle(prompt_after_s=6.0, goodbye_after_s=12.0),
        tools=(),
    )


def conference_of(call_id: str) -> str:
    """The conference in which this caller waits."""
    return f"offhook-{call_id}"


def caller_in(conference: str) -> str:
    """The call that waits in this conference."""
    return conference.removeprefix(conference_of(""))


def without_human(fallback: Fallback) -> Fallback:
    """The fallback for a caller who has just waited for a human in vain."""
    return msgspec.structs.replace(fallback, dial="", enqueue="", say=fallback.say or UNREACHED)


class WarmTransfers:
    """The warm transfers of the process. Its state is in the legs (`Leg.next`, `Leg.wait_ended`) and the queue.

    `legs`: by call id. `decide(leg, step, now_s)` decides what follows a leg, `hang_up(call)` ends an outbound call,
    `spawn` runs a coroutine that the caller does not wait for.
    """

    def __init__(
        self,
        legs: Mapping[str, Leg],
        outbound: OutboundQueue,
        *,
        decide: Callable[[Leg, NextStep, float], bool],
        hang_up: Callable[[OutboundCall], Coroutine[Any, Any, bool]],
        spawn: Callable[[Coroutine[Any, Any, Any]], None],
    ) -> None:
        self._legs, self._outbound, self._decide, self._hang_up, self._spawn = legs, outbound, decide, hang_up, spawn

    def begin(self, leg: Leg, call: Call, target: str, about: str, now_s: float) -> None:
        """The conversation with the caller ended in a warm transfer: call `target`, while the caller waits."""
        if Feature.CONFERENCE not in leg.carrier.can:
            log.warning("call %s: no warm transfer: the carrier has no conference", leg.call_id)
            self._decide(leg, NextStep(Kind.DIAL, target, about), now_s)
            return
        if not self._decide(leg, NextStep(Kind.JOIN, conference_of(leg.call_id)), now_s):
            return
        own_number = leg.outbound.caller_id if leg.outbound is not None else leg.own_number
        agent = call.agent
        try:
            self._outbound.submit(
                target,
                agent,
                caller_id=agent.outbound.caller_id or first_number([own_number, *agent.numbers]),
                variables={"about": about or "nothing"},
                conference=conference_of(leg.call_id),
            )
        except OperatorError as error:
            log.warning("call %s: no warm transfer: %s", leg.call_id, error)
            self._spawn(self._end_wait(leg.call_id))

    def briefed(self, leg: Leg, call: Call, now_s: float) -> None:
        """The briefing is over: the human joins the caller, unless they hung up or declined."""
        assert leg.outbound is not None
        if call.ending is Ending.AGENT_HUNG_UP and DECLINED not in call.remembered:
            self._decide(leg, NextStep(Kind.JOIN, leg.conference, starts=True), now_s)
        elif self._decide(leg, NextStep(Kind.HANG_UP), now_s):
            self.briefing_over(leg.outbound)

    def briefing_over(self, briefing: OutboundCall) -> None:
        """The briefing call ended: when the human has not joined, the caller's wait ends, too."""
        leg = self._legs.get(briefing.call_sid)
        if leg is not None and leg.next is not None and leg.next.kind is Kind.JOIN:
            return  # they met: the conference's end is the end of both calls
        self._spawn(self._end_wait(caller_in(briefing.conference)))

    def caller_left(self, leg: Leg, now_s: float) -> None:
        """The caller hung up while waiting: end the briefing call."""
        for briefing in self._outbound.of_conference(conference_of(leg.call_id)):
            if briefing_leg := self._legs.get(briefing.call_sid):
                self._decide(briefing_leg, NextStep(Kind.HANG_UP), now_s)
            self._spawn(self._hang_up(briefing))

    async def _end_wait(self, call_id: str) -> None:
        """Take a caller out of the conference that no human will join."""
        leg = self._legs.get(call_id)
        if leg is None or leg.over or leg.wait_ended:
            return
        leg.wait_ended = True
        try:
            await leg.carrier.fall_back(call_id, without_human(leg.fallback))
        except PeerError as error:
            log.warning("call %s: %s", call_id, error)
