"""The end of a call: idle callers, limits, goodbyes."""

from __future__ import annotations

from typing import Final

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation import ledger as lg
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.handlers.barge_in import drop_for_good
from offhook.gateway.conversation.handlers.floor import (
    GOODBYE_PAUSE_S,
    GOODBYE_START_S,
    INTERRUPTIBLE_ENDINGS,
    Emit,
    all_complete,
    caller_has_floor,
    cancel_ending,
    end_call,
    goodbye_s,
    listen,
    may_rotate,
    playback_overdue_s,
    prompt_again,
    think,
    wait_for_last_words,
)
from offhook.gateway.conversation.handlers.tools import find_tool
from offhook.gateway.conversation.state import LastWords, LineState, Link, Phase, Policy, State

__all__ = [
    "WARN_AGAIN_S",
    "close",
    "cost_warning",
    "end_requested",
    "end_requested_connecting",
    "goodbye_timeout",
    "idle",
    "last_words_heard",
    "say_and_end",
    "say_and_end_connecting",
    "time_limit",
    "time_warning",
]
WARN_AGAIN_S: Final = 1.0  # a warning waits for a quiet moment


def idle(p: Policy, s: State, ev: e.IdleTimeout, emit: Emit) -> State:
    if s.caller.speaking or s.caller.turn_open or s.line is LineState.AWAY:
        return s
    if s.link is not Link.UP:
        return listen(p, s, ev.at_s, emit)
    if p.idle_prompt_s and not s.caller.idle_prompted:
        emit(c.SendPrompt(c.Prompt.IDLE))
        return think(p, s.with_caller(idle_prompted=True), ev.at_s, emit)
    emit(c.SendPrompt(c.Prompt.IDLE_GOODBYE))
    emit(c.SetTimer(e.GoodbyeTimeout, ev.at_s + GOODBYE_START_S))
    return s._replace(phase=Phase.CLOSING, ending=Ending.CALLER_IDLE)


def end_requested_connecting(p: Policy, s: State, ev: e.EndRequested, emit: Emit) -> State:
    return end_call(s, ev.ending, ev.at_s, emit)


def end_requested(p: Policy, s: State, ev: e.EndRequested, emit: Emit) -> State:
    """The first reason stands, unless the gateway has one of its own: that cannot be talked away.

    A request of a tool that was cancelled is ignored: its thread may not have noticed yet.
    """
    if s.ending is not None and ev.ending in INTERRUPTIBLE_ENDINGS:
        return s
    if ev.call_id and find_tool(s, ev.call_id) is None:
        return s
    return close(p, s, ev.ending, ev.at_s, emit)


def close(p: Policy, s: State, ending: Ending, at_s: float, emit: Emit) -> State:
    """End once what is being said has been heard; where a goodbye is due and unsaid, give it time to begin."""
    if s.phase is Phase.HELD:
        return s._replace(ending=ending)  # the verdict comes first
    if s.ledger.replies and s.phase in (Phase.SPEAKING, Phase.CLOSING):
        wait_s = goodbye_s(s.ledger, at_s)
    elif ending in INTERRUPTIBLE_ENDINGS and s.link is Link.UP:
        wait_s = GOODBYE_PAUSE_S if s.agent_replied and not s.caller.speaking else GOODBYE_START_S
    else:
        return end_call(s, ending, at_s, emit)
    for timer in (e.ModelSilent, e.IdleTimeout, e.FillerDue):
        emit(c.StopTimer(timer))
    s = s._replace(phase=Phase.CLOSING, ending=ending)
    if s.caller.speaking and not s.ledger.replies:
        return wait_for_last_words(p, s, at_s, emit)
    emit(c.SetTimer(e.GoodbyeTimeout, at_s + wait_s))
    return s


def goodbye_timeout(p: Policy, s: State, ev: e.GoodbyeTimeout, emit: Emit) -> State:
    """Too late to begin, or too long. A goodbye that is complete is heard out: its end is known."""
    end_s = playback_overdue_s(p, s)
    if lg.is_audible(s.ledger, ev.at_s) and all_complete(s) and ev.at_s < end_s:
        emit(c.SetTimer(e.GoodbyeTimeout, end_s))
        return s
    return end_call(s, s.ending or Ending.AGENT_HUNG_UP, ev.at_s, emit)


# --- last words


def say_and_end_connecting(p: Policy, s: State, ev: e.SayAndEnd, emit: Emit) -> State:
    """No stream, no caller."""
    return end_call(s, ev.ending, ev.at_s, emit)


def say_and_end(p: Policy, s: State, ev: e.SayAndEnd, emit: Emit) -> State:
    """The last words take the place of everything that is being said or due; the gateway's own reasons stand."""
    if s.ending is not None and s.ending not in INTERRUPTIBLE_ENDINGS:
        return s
    s = drop_for_good(p, s, ev.generation, ev.at_s, emit)
    if s.link is Link.FAILED:
        return end_call(s, ev.ending, ev.at_s, emit)
    for timer in (e.VerdictTimeout, e.BargeInLasted, e.FillerDue, e.PlayoutTimeout):
        emit(c.StopTimer(timer))
    s = cancel_ending(s, emit)._replace(last_words=LastWords(ev.ending, s.ledger.dead))
    if s.link is Link.UP:
        prompt_again(s, emit)  # else when the link is back
    if s.caller.speaking or s.caller.turn_open:
        return caller_has_floor(p, s, ev.at_s, emit)
    return think(p, s, ev.at_s, emit)


def last_words_heard(p: Policy, s: State, ev: e.TurnComplete, emit: Emit) -> State:
    """The turn of the last words is complete: the call ends once they have been heard. An empty turn said nothing."""
    if s.last_words is None or s.ending is not None or not s.last_words.after < ev.generation <= s.ledger.newest:
        return s
    return close(p, s, s.last_words.ending, ev.at_s, emit)


# --- limits


def time_warning(p: Policy, s: State, ev: e.TimeWarning, emit: Emit) -> State:
    return _warn(p, s, ev, c.Prompt.TIME_WARNING, emit)


def cost_warning(p: Policy, s: State, ev: e.CostWarning, emit: Emit) -> State:
    return _warn(p, s, ev, c.Prompt.COST_WARNING, emit)


def _warn(p: Policy, s: State, ev: e.Timer, prompt: c.Prompt, emit: Emit) -> State:
    """In a quiet moment, or after a reply that is complete: a prompt in mid-reply would cut it short."""
    quiet = s.phase in (Phase.LISTENING, Phase.SPEAKING) and may_rotate(s) and all_complete(s)
    if not quiet or s.line is LineState.AWAY:
        emit(c.SetTimer(type(ev), ev.at_s + WARN_AGAIN_S))
        return s
    emit(c.SendPrompt(prompt))
    return think(p, s, ev.at_s, emit) if s.phase is Phase.LISTENING else s.with_due(reply=True)


def time_limit(p: Policy, s: State, ev: e.TimeLimit, emit: Emit) -> State:
    return close(p, s, Ending.TIME_LIMIT, ev.at_s, emit)
