"""The call's first stream and its last; the model's link: up, down, silent, replaced."""

from __future__ import annotations

from typing import Final

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation import ledger as lg
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.handlers.closing import close
from offhook.gateway.conversation.handlers.floor import (
    Emit,
    all_complete,
    awaited_tools,
    close_heard_replies,
    complete,
    end_call,
    listen,
    lose_link,
    may_rotate,
    prompt_again,
    rotate,
    think,
    watch_model,
)
from offhook.gateway.conversation.state import Greets, Link, Phase, Policy, State

__all__ = [
    "GO_AWAY_MARGIN_S",
    "RETURN_S",
    "call_limits",
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
    "model_silent_listening",
    "model_silent_speaking",
    "prompt_for_owed",
    "stream_lost",
    "stream_never_started",
    "stream_started",
    "stream_stopped",
    "strike",
]
PROMPT_FOR: Final = {
    e.Owed.GREETING: c.Prompt.GREETING,
    e.Owed.ANSWER: c.Prompt.NUDGE,
    e.Owed.REST: c.Prompt.TAKE_UP,
}
RETURN_S: Final = 1.5  # a link that is back has the caller's audio of the meantime, if it was short
GO_AWAY_MARGIN_S: Final = 3.0  # changing connections takes part of the notice


def stream_started(p: Policy, s: State, ev: e.StreamStarted, emit: Emit) -> State:
    if s.link is Link.FAILED:
        return end_call(s, Ending.MODEL_UNREACHABLE, ev.at_s, emit)
    s = s.with_ledger(s.ledger._replace(rate_hz=p.rate_hz))
    call_limits(p, ev.at_s, ev.at_s, emit)
    if s.link is not Link.UP:
        emit(c.SetTimer(e.ConnectTimeout, ev.at_s + p.connect_timeout_s))
    if p.greets is Greets.SOUND:
        emit(c.PlayGreeting())
    return _greet(p, s, ev.at_s, emit)


def call_limits(p: Policy, began_s: float, at_s: float, emit: Emit) -> None:
    """Time the limit of a call that began at `began_s`; a warning that is over by now is not given again."""
    if not p.call_limit_s:
        return
    emit(c.SetTimer(e.TimeLimit, max(at_s, began_s + p.call_limit_s)))
    warning_s = max(began_s, began_s + p.call_limit_s - p.warning_s)
    if p.warning_s and warning_s >= at_s:
        emit(c.SetTimer(e.TimeWarning, warning_s))


def _greet(p: Policy, s: State, at_s: float, emit: Emit) -> State:
    """Once stream and model are both there, the model greets, if it is to."""
    if p.greets is not Greets.MODEL:
        return listen(p, s, at_s, emit)
    if s.link is Link.UP:
        emit(c.SendPrompt(c.Prompt.GREETING))
    if s.caller.speaking or s.caller.turn_open:
        return s.with_due(reply=True)
    return think(p, s, at_s, emit)


def stream_stopped(p: Policy, s: State, ev: e.StreamStopped, emit: Emit) -> State:
    return end_call(s, Ending.CALLER_HUNG_UP, ev.at_s, emit)


def stream_lost(p: Policy, s: State, ev: e.StreamLost, emit: Emit) -> State:
    return end_call(s, Ending.STREAM_LOST, ev.at_s, emit)


def stream_never_started(p: Policy, s: State, ev: e.StreamLost, emit: Emit) -> State:
    return end_call(s, Ending.STREAM_NEVER_STARTED, ev.at_s, emit)


def model_silent(p: Policy, s: State, ev: e.ModelSilent, emit: Emit) -> State:
    for tool in awaited_tools(s):  # one that has not ended by now never will
        emit(c.CancelTool(tool.call_id))
    return strike(p, s._replace(tools=tuple(t for t in s.tools if t.withdrawn)), ev.at_s, emit)


def model_silent_speaking(p: Policy, s: State, ev: e.ModelSilent, emit: Emit) -> State:
    """Only a filler is heard: the measures against the model's silence are taken behind it."""
    return s if not s.due.reply or awaited_tools(s) else strike(p, s, ev.at_s, emit)


def model_silent_listening(p: Policy, s: State, ev: e.ModelSilent, emit: Emit) -> State:
    """The caller repeats what had no reply. A model that hears the caller speak may rightly wait for the end."""
    taken = s.caller.speaking or s.caller.turn_open
    if s.due.since_s is None or not taken or s.due.alive or awaited_tools(s):
        return s
    if s.caller.turn_open and not s.due.failed_prompts:
        return s  # a prompt within a turn that the gateway has opened would be part of it
    return strike(p, s, ev.at_s, emit)


def strike(p: Policy, s: State, at_s: float, emit: Emit) -> State:
    """The model owes the caller a reply: prompt it, then get a new connection, then give up."""
    failed_prompts = s.due.failed_prompts
    if failed_prompts >= 2:  # the new connection, too, has brought nothing, or has not come up
        return close(p, s, Ending.MODEL_LOST, at_s, emit)  # a filler is heard to its end
    if s.link is not Link.UP:
        return s  # it is prompted when the link is back, or the call ends
    counted = s.caller.speaking  # when the caller spoke again
    if not failed_prompts and not counted and s.due.since_s is not None and s.caller.offset_s >= s.due.since_s:
        emit(c.Unanswered())
    s = s.with_due(failed_prompts=failed_prompts + 1, struck_s=at_s, alive=False)
    if failed_prompts:
        emit(c.ReconnectModel())
        s = lose_link(s, at_s, emit)
    else:
        prompt_again(s, emit)
    if s.phase is Phase.THINKING:
        return think(p, s, at_s, emit)
    watch_model(p, s, at_s, emit)
    return s


# --- the model's link


def model_ready_connecting(p: Policy, s: State, ev: e.ModelReady, emit: Emit) -> State:
    return s._replace(link=Link.UP, rotation_due=False)


def model_ready(p: Policy, s: State, ev: e.ModelReady, emit: Emit) -> State:
    """The model may have to be prompted: what the caller said meanwhile is lost, or soon received."""
    emit(c.StopTimer(e.ConnectTimeout))
    emit(c.StopTimer(e.GoAwayDeadline))
    s = s._replace(link=Link.UP, rotation_due=False)
    if not s.due.failed_prompts:
        s = s.with_due_anew(reply=s.due.reply)  # a model that was not there was not silent
    if s.owed is not e.Owed.NOTHING:
        return prompt_for_owed(p, s, ev.at_s, emit)
    greeting_due = p.greets is Greets.MODEL and not s.ledger.newest and s.last_words is None
    if greeting_due and s.phase in (Phase.LISTENING, Phase.THINKING):
        return _greet(p, s, ev.at_s, emit)  # a connection that was prompted, and lost, said nothing
    if s.phase is Phase.SPEAKING and s.due.reply:  # go on where the link broke off; the rest is still being heard
        if greeting_due:
            emit(c.SendPrompt(c.Prompt.GREETING))
        else:
            prompt_again(s, emit)
        if s.due.failed_prompts == 1:
            s = s.with_due(struck_s=ev.at_s)
    elif s.phase is Phase.THINKING and not awaited_tools(s):
        if s.due.failed_prompts or s.agent_replied or s.last_words is not None:
            prompt_again(s, emit)
            if s.due.failed_prompts == 1:
                s = s.with_due(struck_s=ev.at_s)  # the prompt before was lost with its connection
            return think(p, s, ev.at_s, emit)
        emit(c.SetTimer(e.ModelSilent, ev.at_s + RETURN_S))
    elif s.phase is Phase.LISTENING and s.due.failed_prompts:
        s = s.with_due(prompt_waits=True)
    return s


def prompt_for_owed(p: Policy, s: State, at_s: float, emit: Emit) -> State:
    """The call began elsewhere, and the model's first session here is up: it is prompted for what was owed there, once.

    A caller who speaks meanwhile is answered instead.
    """
    if s.link is not Link.UP:
        return s
    owed, s = s.owed, s._replace(owed=e.Owed.NOTHING)
    covered = s.phase is Phase.SPEAKING and s.due.reply  # by a filler
    if s.phase not in (Phase.THINKING, Phase.CLOSING) and not covered:
        return s
    emit(c.SendPrompt(PROMPT_FOR[owed]))
    return think(p, s, at_s, emit) if s.phase is Phase.THINKING else s


def model_down(p: Policy, s: State, ev: e.ModelDown, emit: Emit) -> State:
    """No more of the present reply will come; what was received is heard to its end, and the rest is due."""
    emit(c.StopTimer(e.GoAwayDeadline))
    return _cut(p, lose_link(s, ev.at_s, emit), ev.at_s, emit)


def _cut(p: Policy, s: State, at_s: float, emit: Emit) -> State:
    s = s.with_due(tool_asked=False, reply=s.due.reply or not all_complete(s))
    if s.phase in (Phase.SPEAKING, Phase.CLOSING):
        for reply in s.ledger.replies:
            s = complete(p, s, reply.generation, at_s, emit)
        return s
    ledger = lg.complete(s.ledger, s.ledger.newest)
    if s.phase is Phase.HELD:
        return s._replace(ledger=ledger)
    return close_heard_replies(p, s, *lg.settle(ledger, at_s), at_s, emit)


def model_down_connecting(p: Policy, s: State, ev: e.ModelDown, emit: Emit) -> State:
    return s._replace(link=Link.DOWN, rotation_due=False)


def model_failed_connecting(p: Policy, s: State, ev: e.ModelFailed, emit: Emit) -> State:
    return s._replace(link=Link.FAILED)


def model_failed(p: Policy, s: State, ev: e.ModelFailed | e.ConnectTimeout, emit: Emit) -> State:
    """The link has given up: what was received is heard, then the call ends."""
    ending = Ending.MODEL_UNREACHABLE if s.link is Link.DIALLING else Ending.MODEL_LOST
    emit(c.StopTimer(e.ConnectTimeout))
    emit(c.StopTimer(e.GoAwayDeadline))
    s = _cut(p, s._replace(link=Link.FAILED, rotation_due=False), ev.at_s, emit)
    if s.phase is Phase.ENDED:
        return s
    return close(p, s, s.ending or ending, ev.at_s, emit)  # a goodbye under way keeps its reason


def connect_timeout(p: Policy, s: State, ev: e.ConnectTimeout, emit: Emit) -> State:
    return s if s.link is Link.UP else model_failed(p, s, ev, emit)


def go_away(p: Policy, s: State, ev: e.GoAway, emit: Emit) -> State:
    if s.link is not Link.UP:
        return s
    if s.phase is Phase.LISTENING and may_rotate(s):
        return rotate(s, ev.at_s, emit)
    emit(c.SetTimer(e.GoAwayDeadline, ev.at_s + max(0.0, ev.time_left_s - GO_AWAY_MARGIN_S)))
    return s._replace(rotation_due=True)


def go_away_deadline(p: Policy, s: State, ev: e.GoAwayDeadline, emit: Emit) -> State:
    """Quiet or not. A reply that is being heard was received long before, or is lost with the connection."""
    return rotate(s, ev.at_s, emit) if s.rotation_due and s.link is Link.UP else s
