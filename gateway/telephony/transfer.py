"""Warm transfer: the agent's second call, in which it tells a human about the caller who waits."""

from __future__ import annotations

from typing import Any

import msgspec

from offhook.gateway.agent.spec import Agent, Greeting, Idle
from offhook.gateway.tools import Tool, ToolCall, ToolHost

__all__ = ["BRIEFING_TOOLS", "DECLINED", "briefing_agent"]

DECLINED = "declined"  # remembered by a briefing call whose human does not want the caller

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
