"""The carrier's stream and the model's link: up, down, silent, replaced."""

from __future__ import annotations

from typing import Final

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation import ledger as lg
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.handlers.closing import close
from offhook.gateway.conversation.handlers.floor import (
    Do,
    all_complete,
    awaited_tools,
    close_heard_replies,
    complete,
    end_call,
    listen,
    lose_link,
    may_rotate,
    rotate,
    think,
)
from offhook.gateway.conversation.state import Greets, Link, Phase, Policy, State

__all__ = [
    "GO_AWAY_MARGIN_S",
    "RETURN_S",
    "connect_timeout",
    "go_away",
    "go_away_deadline",
    "model_down",
    "model_down_connecting",
    "model_failed",
    "model_failed_connecting",
    "model_ready",
    "model_ready_connecting",
    "model_silent",
    "stream_lost",
    "stream_never_started",
    "stream_started",
    "stream_stopped",
    "strike",
]
RETURN_S: Final = 2.0  # a link that is back has what the caller said meanwhile, if it was short
GO_AWAY_MARGIN_S: Final = 3.0  # changing connections takes part of the notice


# --- the carrier


def stream_started(p: Policy, s: State, ev: e.StreamStarted, do: Do) -> State:
    if s.link is Link.FAILED:
        return end_call(s, Ending.MODEL_UNREACHABLE, ev.at_s, do)
    if p.call_limit_s:
        do(c.SetTimer(e.TimeLimit, ev.at_s + p.call_limit_s))
        if p.warning_s:
            do(c.SetTimer(e.TimeWarning, ev.at_s + max(0.0, p.call_limit_s - p.warning_s)))
    if s.link is not Link.UP:
        do(c.SetTimer(e.ConnectTimeout, ev.at_s + p.connect_timeout_s))
    if p.greets is Greets.SOUND:
        do(c.PlayGreeting())
    return _greet(p, s, ev.at_s, do)


def _greet(p: Policy, s: State, at_s: float, do: Do) -> State:
    """Once stream and model are both there, the model greets, if it is to."""
    if p.greets is not Greets.MODEL:
        return listen(p, s, at_s, do)
    if s.link is Link.UP:
        do(c.AskModel(c.Prompt.GREETING))
    if s.caller_speaking or s.activity:
        return s._replace(owed=True)
    return think(p, s, at_s, do)


def stream_stopped(p: Policy, s: State, ev: e.StreamStopped, do: Do) -> State:
    return end_call(s, Ending.CALLER_HUNG_UP, ev.at_s, do)


def stream_lost(p: Policy, s: State, ev: e.StreamLost, do: Do) -> State:
    return end_call(s, Ending.STREAM_LOST, ev.at_s, do)


def stream_never_started(p: Policy, s: State, ev: e.StreamLost, do: Do) -> State:
    return end_call(s, Ending.STREAM_NEVER_STARTED, ev.at_s, do)


def model_silent(p: Policy, s: State, ev: e.ModelSilent, do: Do) -> State:
    for tool in awaited_tools(s):  # one that has not ended by now never will
        do(c.CancelTool(tool.call_id))
    return strike(p, s._replace(tools=tuple(t for t in s.tools if t.withdrawn)), ev.at_s, do)


def strike(p: Policy, s: State, at_s: float, do: Do) -> State:
    """The model owes the caller a word: ask, then get a new connection, then give up."""
    if s.link is not Link.UP:
        return s  # it hears of it when the link is back, or the call ends
    s = s._replace(strikes=s.strikes + 1)
    if s.strikes > 2:
        return end_call(s, Ending.MODEL_LOST, at_s, do)
    if s.strikes == 2:
        do(c.ReconnectModel())
        return lose_link(s, at_s, do)
    do(c.AskModel(c.Prompt.NUDGE))
    return think(p, s, at_s, do)


# --- the model's link


def model_ready_connecting(p: Policy, s: State, ev: e.ModelReady, do: Do) -> State:
    return s._replace(link=Link.UP, rotation_due=False)


def model_ready(p: Policy, s: State, ev: e.ModelReady, do: Do) -> State:
    """It may have to be told that the caller is waiting: what was said meanwhile is lost, or soon heard."""
    do(c.StopTimer(e.ConnectTimeout))
    do(c.StopTimer(e.GoAwayDeadline))
    s = s._replace(link=Link.UP, rotation_due=False)
    if p.greets is Greets.MODEL and not s.newest and s.phase in (Phase.LISTENING, Phase.THINKING):
        return _greet(p, s, ev.at_s, do)  # a connection that was asked before, and lost, has said nothing
    if s.phase is Phase.SPEAKING and s.owed:  # go on where the link broke off; the rest is still being heard
        do(c.AskModel(c.Prompt.NUDGE))
    elif s.phase is Phase.THINKING and not awaited_tools(s):
        if s.strikes or s.answered:
            do(c.AskModel(c.Prompt.NUDGE))
            return think(p, s, ev.at_s, do)
        do(c.SetTimer(e.ModelSilent, ev.at_s + RETURN_S))
    return s


def model_down(p: Policy, s: State, ev: e.ModelDown, do: Do) -> State:
    """No more of the present reply will come; what there is of it is heard to its end, and the rest is owed."""
    do(c.StopTimer(e.GoAwayDeadline))
    return _cut(p, lose_link(s, ev.at_s, do), ev.at_s, do)


def _cut(p: Policy, s: State, at_s: float, do: Do) -> State:
    s = s._replace(asked_tool=False, owed=s.owed or not all_complete(s))
    if s.phase in (Phase.SPEAKING, Phase.CLOSING):
        for reply in s.ledger.replies:
            s = complete(p, s, reply.generation, at_s, do)
        return s
    ledger = lg.complete(s.ledger, s.newest)
    if s.phase is Phase.HELD:
        return s._replace(ledger=ledger)
    return close_heard_replies(p, s, *lg.settle(ledger, at_s), at_s, do)


def model_down_connecting(p: Policy, s: State, ev: e.ModelDown, do: Do) -> State:
    return s._replace(link=Link.DOWN, rotation_due=False)


def model_failed_connecting(p: Policy, s: State, ev: e.ModelFailed, do: Do) -> State:
    return s._replace(link=Link.FAILED)


def model_failed(p: Policy, s: State, ev: e.ModelFailed | e.ConnectTimeout, do: Do) -> State:
    """The link has given up: what is at hand is heard, then the call ends."""
    ending = Ending.MODEL_UNREACHABLE if s.link is Link.DIALLING else Ending.MODEL_LOST
    do(c.StopTimer(e.ConnectTimeout))
    do(c.StopTimer(e.GoAwayDeadline))
    s = _cut(p, s._replace(link=Link.FAILED, rotation_due=False), ev.at_s, do)
    if s.phase is Phase.ENDED:
        return s
    return close(p, s, s.ending or ending, ev.at_s, do)  # a goodbye under way keeps its reason


def connect_timeout(p: Policy, s: State, ev: e.ConnectTimeout, do: Do) -> State:
    return s if s.link is Link.UP else model_failed(p, s, ev, do)


def go_away(p: Policy, s: State, ev: e.GoAway, do: Do) -> State:
    if s.link is not Link.UP:
        return s
    if s.phase is Phase.LISTENING and may_rotate(s):
        return rotate(s, ev.at_s, do)
    do(c.SetTimer(e.GoAwayDeadline, ev.at_s + max(0.0, ev.time_left_s - GO_AWAY_MARGIN_S)))
    return s._replace(rotation_due=True)


def go_away_deadline(p: Policy, s: State, ev: e.GoAwayDeadline, do: Do) -> State:
    """Quiet or not. A reply that is being heard was received long before, or is lost with the connection."""
    return rotate(s, ev.at_s, do) if s.rotation_due and s.link is Link.UP else s
