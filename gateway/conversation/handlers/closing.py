"""The end of a call: idle callers, limits, goodbyes."""

from __future__ import annotations

from typing import Final

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.handlers.floor import (
    GOODBYE_PAUSE_S,
    GOODBYE_START_S,
    INTERRUPTIBLE_ENDINGS,
    Do,
    all_complete,
    end_call,
    goodbye_s,
    listen,
    may_rotate,
    think,
    wait_for_last_words,
)
from offhook.gateway.conversation.handlers.tools import find_tool
from offhook.gateway.conversation.state import Link, Phase, Policy, State

__all__ = [
    "WARN_AGAIN_S",
    "close",
    "end_requested",
    "end_requested_connecting",
    "goodbye_timeout",
    "idle",
    "time_limit",
    "time_warning",
]
WARN_AGAIN_S: Final = 1.0  # the time warning waits for a quiet moment


# --- the end of the call


def idle(p: Policy, s: State, ev: e.IdleTimeout, do: Do) -> State:
    if s.caller_speaking or s.activity:
        return s
    if s.link is not Link.UP:
        return listen(p, s, ev.at_s, do)
    if p.idle_prompt_s and not s.idle_prompted:
        do(c.AskModel(c.Prompt.IDLE))
        return think(p, s._replace(idle_prompted=True), ev.at_s, do)
    do(c.AskModel(c.Prompt.IDLE_GOODBYE))
    do(c.SetTimer(e.GoodbyeTimeout, ev.at_s + GOODBYE_START_S))
    return s._replace(phase=Phase.CLOSING, ending=Ending.CALLER_IDLE)


def end_requested_connecting(p: Policy, s: State, ev: e.EndRequested, do: Do) -> State:
    return end_call(s, ev.ending, ev.at_s, do)


def end_requested(p: Policy, s: State, ev: e.EndRequested, do: Do) -> State:
    """The first reason stands, unless the gateway has one of its own: that cannot be talked away.

    A tool that was called off has no say: its thread may not have noticed yet.
    """
    if s.ending is not None and ev.ending in INTERRUPTIBLE_ENDINGS:
        return s
    if ev.call_id and find_tool(s, ev.call_id) is None:
        return s
    return close(p, s, ev.ending, ev.at_s, do)


def close(p: Policy, s: State, ending: Ending, at_s: float, do: Do) -> State:
    """End once what is being said has been heard; where a goodbye is due and unsaid, give it time to begin."""
    if s.phase is Phase.HELD:
        return s._replace(ending=ending)  # the verdict comes first
    if s.ledger.replies and s.phase in (Phase.SPEAKING, Phase.CLOSING):
        wait_s = goodbye_s(s.ledger, at_s)
    elif ending in INTERRUPTIBLE_ENDINGS and s.link is Link.UP:
        wait_s = GOODBYE_PAUSE_S if s.answered and not s.caller_speaking else GOODBYE_START_S
    else:
        return end_call(s, ending, at_s, do)
    for timer in (e.ModelSilent, e.IdleTimeout, e.FillerDue):
        do(c.StopTimer(timer))
    s = s._replace(phase=Phase.CLOSING, ending=ending)
    if s.caller_speaking and not s.ledger.replies:
        return wait_for_last_words(p, s, at_s, do)
    do(c.SetTimer(e.GoodbyeTimeout, at_s + wait_s))
    return s


def goodbye_timeout(p: Policy, s: State, ev: e.GoodbyeTimeout, do: Do) -> State:
    return end_call(s, s.ending or Ending.AGENT_HUNG_UP, ev.at_s, do)


def time_warning(p: Policy, s: State, ev: e.TimeWarning, do: Do) -> State:
    """In a quiet moment, or behind a reply that is all there: a text in mid-reply would cut it short."""
    if s.phase not in (Phase.LISTENING, Phase.SPEAKING) or not may_rotate(s) or not all_complete(s):
        do(c.SetTimer(e.TimeWarning, ev.at_s + WARN_AGAIN_S))
        return s
    do(c.AskModel(c.Prompt.TIME_WARNING))
    return think(p, s, ev.at_s, do) if s.phase is Phase.LISTENING else s._replace(owed=True)


def time_limit(p: Policy, s: State, ev: e.TimeLimit, do: Do) -> State:
    return close(p, s, Ending.TIME_LIMIT, ev.at_s, do)
