"""Who has the floor: what the handlers of every kind of event share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation import ledger as lg
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.state import LineState, Link, Mode, Phase, Policy, RunningTool, State
from offhook.gateway.conversation.units import MARK_EVERY, PLAYOUT_GRACE_S, RATE_HZ

__all__ = [
    "ANSWER_S",
    "CLEAR_TIMEOUT_S",
    "GIVE_UP_S",
    "GOODBYE_MAX_S",
    "GOODBYE_PAUSE_S",
    "GOODBYE_START_S",
    "INTERRUPTIBLE_ENDINGS",
    "LINK_LOST_S",
    "NUDGED_S",
    "SILENT_LEAST_S",
    "STALL_S",
    "Emit",
    "Handler",
    "after_barge_in",
    "all_complete",
    "awaited_tools",
    "caller_has_floor",
    "caller_resumed",
    "cancel_ending",
    "close_heard_replies",
    "complete",
    "end_call",
    "goodbye_s",
    "has_protected",
    "heard_silence",
    "heard_speaking",
    "ignore",
    "lasted_s",
    "listen",
    "lose_link",
    "may_interrupt",
    "may_rotate",
    "model_replied",
    "open_turn",
    "patience_s",
    "playback_finished",
    "playback_overdue_s",
    "prompt_again",
    "rotate",
    "send_audio",
    "settle",
    "silent_since_s",
    "think",
    "turn_ended",
    "wait_for_last_words",
    "was_sent",
    "watch_model",
    "watch_playout",
    "watch_s",
    "watch_silence",
]

CLEAR_TIMEOUT_S: Final = 1.0  # an acknowledgement takes a round trip; without one playback has long stopped
STALL_S: Final = 5.0  # a reply that was begun and brings nothing for this long is over for the caller
SILENT_LEAST_S: Final = 1.0  # of `silent_after_s`, whatever the policy says
ANSWER_S: Final = 1.5  # a reply begins within 1.2 s as a rule: after this, a caller who speaks again has had none
TURN_PAUSE_S: Final = 0.8  # speech that resumes sooner is of the same turn, for the model as well
NUDGED_S: Final = 1.5  # a model that hears begins its reply to a prompt within a second
GIVE_UP_S: Final = 4.0  # for the new connection to come up and for its model to reply
LINK_LOST_S: Final = 40.0  # the link gives up by itself after half a minute; this is for a link that does not
GOODBYE_START_S: Final = 3.0  # a model that ends the call before its goodbye gets this long to begin it
GOODBYE_PAUSE_S: Final = 1.0  # all was said and heard, it seems: a last syllable may be on its way
GOODBYE_MAX_S: Final = 20.0  # and this long to finish
INTERRUPTIBLE_ENDINGS: Final = frozenset({Ending.AGENT_HUNG_UP, Ending.TRANSFERRED, Ending.CALLER_IDLE})
"""Endings with a goodbye: the caller may keep the call alive by speaking. The gateway's own reasons stand."""

Emit = Callable[[c.Command], None]
Handler = Callable[[Policy, State, Any, Emit], State]  # the event is of the one type that the table gives it


def ignore(p: Policy, s: State, ev: e.Event, emit: Emit) -> State:
    """This event means nothing in this phase."""
    return s


def end_call(s: State, ending: Ending, at_s: float, emit: Emit) -> State:
    """The one way out: every tool call cancelled, every open reply accounted for, `End` last."""
    for tool in s.tools:
        emit(c.CancelTool(tool.call_id))
    for reply in s.ledger.replies:
        heard = lg.heard(s.ledger, reply, at_s)
        emit(c.ReplyEnded(reply.generation, reply.received, heard, heard < reply.received))
    emit(c.End(ending))
    return s._replace(phase=Phase.ENDED, ledger=lg.without_replies(s.ledger), tools=(), ending=ending)


def awaited_tools(s: State) -> list[RunningTool]:
    """The tools that the conversation waits for."""
    return [t for t in s.tools if not t.withdrawn]


def has_protected(s: State) -> bool:
    return any(r.protected for r in s.ledger.replies)


def all_complete(s: State) -> bool:
    return all(r.complete for r in s.ledger.replies)


def was_sent(s: State) -> bool:
    """Whether the caller can have heard anything of the open replies."""
    return any(r.sent for r in s.ledger.replies)


def send_audio(s: State, ledger: lg.Ledger, at_s: float, emit: Emit, *, resumed: bool = False) -> lg.Ledger:
    """Send everything received, with a mark every 300 ms, one after a reply's first voice, one at its end.

    Nothing is sent while the line is away: `LineBack` sends what was not.
    """
    if s.line is LineState.AWAY:
        return ledger
    mark_every = MARK_EVERY * ledger.rate_hz // RATE_HZ
    ledger, spans = lg.place(ledger, at_s)
    for reply, start in spans:
        generation, end, before, voice = reply.generation, reply.placed, reply.marked, reply.audible or 0
        marked = before
        while start < end:
            stop = voice if start < voice <= end else min(end, marked + mark_every)
            emit(c.Replay(generation, start, stop) if resumed else c.Play(generation, start, stop))
            resumed = False  # only the seam is faded in
            if stop == voice or stop - marked >= mark_every:
                emit(c.SendMark(generation, stop, ledger.epoch))
                marked = stop
            start = stop
        if reply.complete and marked < end:
            emit(c.SendMark(generation, end, ledger.epoch))
            marked = end
        if marked != before:
            ledger = lg.mark_sent(ledger, generation, marked)
    return ledger


def playback_overdue_s(p: Policy, s: State) -> float:
    """When the end of playback, or more of the reply, is overdue."""
    grace_s = PLAYOUT_GRACE_S
    if not all_complete(s):
        # A turn that waits for its tool says no more until it has the result.
        grace_s = 0.0 if s.ending is None and awaited_tools(s) else min(STALL_S, patience_s(p))
    return lg.ends_at_s(s.ledger) + grace_s


def watch_playout(s: State, due_s: float, emit: Emit) -> None:
    """Bound the wait for the end of playback. While the line is away nothing plays: `LineBack` sets the timer."""
    if s.line is LineState.UP:
        emit(c.SetTimer(e.PlayoutTimeout, due_s))


def close_heard_replies(
    p: Policy, s: State, ledger: lg.Ledger, over: tuple[lg.Reply, ...], at_s: float, emit: Emit
) -> State:
    """These replies were heard to their end."""
    for reply in over:
        emit(c.ReplyEnded(reply.generation, reply.received, reply.heard, False))
    was_protected = has_protected(s)
    s = s._replace(ledger=ledger)
    # After the last protected reply the agent can be interrupted again, by a caller who is speaking as well.
    if was_protected and ledger.replies and s.caller.speaking and may_interrupt(p, s):
        emit(c.SetTimer(e.BargeInLasted, at_s + watch_s(p)))
    return s


def playback_finished(p: Policy, s: State, at_s: float, emit: Emit) -> State:
    """The agent has stopped: decide who has the floor."""
    emit(c.StopTimer(e.PlayoutTimeout))
    if s.ending is not None:
        if (
            s.caller.speaking and s.ending in INTERRUPTIBLE_ENDINGS and s.link is not Link.FAILED
        ):  # thanks, or more to say?
            return wait_for_last_words(p, s, at_s, emit)
        return end_call(s, s.ending, at_s, emit)
    if s.caller.speaking:
        return caller_has_floor(p, s._replace(agent_replied=False), at_s, emit)
    if s.caller.turn_open:
        return s._replace(phase=Phase.LISTENING)
    if s.due.reply or s.due.since_s is not None or awaited_tools(s):  # a reply without a voice is none
        return think(p, s, at_s, emit, quiet_s=silent_since_s(s, at_s))
    return listen(p, s, at_s, emit)


def caller_has_floor(p: Policy, s: State, at_s: float, emit: Emit) -> State:
    """The caller is speaking, or about to say more; the agent is not."""
    return open_turn(p, s, at_s, emit)._replace(phase=Phase.LISTENING)


def open_turn(p: Policy, s: State, at_s: float, emit: Emit) -> State:
    """Local turns: the caller's turn begins for the model. One without a voice is soon over."""
    if not p.local_turns or s.caller.turn_open:
        return s
    emit(c.OpenTurn())
    if not s.caller.speaking:
        emit(c.SetTimer(e.EndpointTimeout, at_s + p.end_silence_s))
    return s.with_caller(turn_open=True)


def model_replied(s: State, emit: Emit) -> State:
    """The model is not silent any more: no measure against that is due, under a filler either."""
    if s.due.since_s is not None:
        emit(c.StopTimer(e.ModelSilent))
    return s.with_due_anew(reply=s.due.reply)


def listen(p: Policy, s: State, at_s: float, emit: Emit) -> State:
    """Neither side has the floor, from now: the idle clock starts; a due change of connection happens now."""
    emit(c.StopTimer(e.ModelSilent))
    emit(c.StopTimer(e.FillerDue))
    idle_s = p.idle_goodbye_s if s.caller.idle_prompted or not p.idle_prompt_s else p.idle_prompt_s
    if idle_s and s.line is LineState.UP:  # a caller whose line is away cannot answer
        emit(c.SetTimer(e.IdleTimeout, at_s + idle_s))
    s = s.with_due_anew(reply=False)._replace(phase=Phase.LISTENING)
    return rotate(s, at_s, emit) if s.rotation_due and may_rotate(s) else s


def patience_s(p: Policy) -> float:
    """As much silence as a caller who waits may meet."""
    return max(SILENT_LEAST_S, p.silent_after_s)


def silent_since_s(s: State, at_s: float) -> float:
    """Since when a caller who waits has heard nothing: from the end of playback, or of the caller's own words."""
    return min(at_s, max(lg.ends_at_s(s.ledger), s.caller.offset_s))


def think(p: Policy, s: State, at_s: float, emit: Emit, *, quiet_s: float | None = None) -> State:
    """The model has the floor, from now or from the turn that it has not answered yet.

    While a tool runs, its own limit bounds the wait. `quiet_s`: since when the caller has heard nothing; from now
    unless it is given, or known from before.
    """
    emit(c.StopTimer(e.IdleTimeout))
    if quiet_s is None:
        quiet_s = s.quiet_s if s.phase is Phase.THINKING else at_s
    tools = awaited_tools(s)
    if tools:
        emit(c.SetTimer(e.ModelSilent, max(at_s, *(t.ends_s for t in tools))))
    else:
        if s.due.since_s is None:
            s = s.with_due(since_s=at_s)
        watch_model(p, s, at_s, emit)
    s = s._replace(phase=Phase.THINKING, due=s.due._replace(reply=True), quiet_s=quiet_s)
    watch_silence(p, s, at_s, emit)
    return s


def watch_silence(p: Policy, s: State, at_s: float, emit: Emit) -> None:
    """Time the filler: a caller who waits hears nothing for `silent_after_s` at most, and less where a tool says so.

    Whatever keeps the caller waiting, the model or the way to it, is dealt with behind the filler.
    """
    if s.line is LineState.AWAY:
        return  # nobody hears it: `LineBack` sets the timer
    due_s = [at_s + t.filler_after_s for t in awaited_tools(s) if t.filler_after_s is not None]
    emit(c.SetTimer(e.FillerDue, max(at_s, min((s.quiet_s + patience_s(p), *due_s)))))


def watch_model(p: Policy, s: State, at_s: float, emit: Emit) -> None:
    """Time the next measure against the model's silence, counted from the first turn without a reply.

    A model that shows that it hears is left time for the caller's newest turn; a deaf one is not.
    """
    due = s.due
    since_s = at_s if due.since_s is None else due.since_s
    answer_s = s.caller.offset_s + ANSWER_S
    if due.failed_prompts:
        due_s = due.struck_s + (NUDGED_S if due.failed_prompts == 1 else GIVE_UP_S)
    else:
        due_s = since_s + patience_s(p)
        if due.unanswered and not s.caller.speaking:
            due_s = min(due_s, answer_s)
    if due.alive and not s.caller.speaking:
        due_s = max(due_s, answer_s)
    emit(c.SetTimer(e.ModelSilent, max(at_s, due_s)))


def caller_resumed(p: Policy, s: State, ev: e.CallerSpeechStarted, emit: Emit) -> State:
    """The caller speaks into the model's silence: more of the same turn, or a turn that had no reply.

    A caller who speaks a second time without a reply ("hello? ... hello?") did not cough.
    """
    before = s.caller
    due = s.due._replace(reply=s.due.reply or not s.agent_replied, prompt_waits=False)
    pause_s = ev.onset_s - before.offset_s
    spoke = before.offset_s > 0.0 and not s.agent_replied
    if due.since_s is None and spoke and due.reply and not awaited_tools(s):
        due = due._replace(since_s=before.offset_s)
    if due.since_s is not None and spoke and before.offset_s >= due.since_s:
        first = before.offset_s == due.since_s and not due.failed_prompts
        if first and pause_s < max(TURN_PAUSE_S, p.end_silence_s):
            due = due._replace(since_s=None)
        elif pause_s >= ANSWER_S:
            emit(c.Unanswered())
            due = due._replace(unanswered=due.unanswered + 1 if due.unanswered < 2 else 2)
    s = s._replace(due=due, agent_replied=False)
    if due.since_s is None or awaited_tools(s):
        emit(c.StopTimer(e.ModelSilent))
    else:
        watch_model(p, s, ev.at_s, emit)
    return s


def turn_ended(s: State) -> State:
    """The caller has stopped speaking while the agent is silent: a reply that is due is due from then."""
    if s.due.reply and s.due.since_s is None and not awaited_tools(s):
        return s.with_due(since_s=s.caller.offset_s)
    return s


def lose_link(s: State, at_s: float, emit: Emit) -> State:
    """The link is reconnecting; that, too, is bounded."""
    emit(c.SetTimer(e.ConnectTimeout, at_s + LINK_LOST_S))
    return s._replace(link=Link.DOWN, rotation_due=False)


def may_rotate(s: State) -> bool:
    """Whether this is a quiet moment; a new connection does not have the tool calls of this one."""
    return s.link is Link.UP and not (s.caller.speaking or s.caller.turn_open or s.tools)


def prompt_again(s: State, emit: Emit) -> None:
    """The model brought nothing, or its connection was lost: prompt it for what is due."""
    emit(c.SendPrompt(c.Prompt.NUDGE if s.last_words is None else c.Prompt.LAST_WORDS))


def rotate(s: State, at_s: float, emit: Emit) -> State:
    emit(c.StopTimer(e.GoAwayDeadline))
    emit(c.RotateModel())
    return lose_link(s, at_s, emit)


# --- barge-in: the steps


def may_interrupt(p: Policy, s: State) -> bool:
    """Whether the detector stops the agent now."""
    return p.mode in (Mode.HOLD, Mode.STOP) and not has_protected(s)


def lasted_s(p: Policy, s: State) -> float:
    """When speech that began at the onset has lasted: the end of a shorter one is known by then."""
    return s.caller.onset_s + p.min_barge_in_s + p.hangover_s


def watch_s(p: Policy) -> float:
    """How long a caller may speak into the agent's beginning; the end of a turn is known within the hangover."""
    return max(p.min_barge_in_s, p.hangover_s)


def after_barge_in(p: Policy, s: State, at_s: float, emit: Emit) -> State:
    """After a barge-in: the caller is still speaking, or has just stopped and wants an answer."""
    if s.caller.speaking or s.caller.turn_open:
        return caller_has_floor(p, s, at_s, emit)
    return think(p, s, at_s, emit, quiet_s=silent_since_s(s, at_s))


def settle(p: Policy, s: State, at_s: float, emit: Emit) -> State:
    ledger, over = lg.settle(s.ledger)
    if not over:
        return s
    s = close_heard_replies(p, s, ledger, over, at_s, emit)
    return s if ledger.replies else playback_finished(p, s, at_s, emit)


# --- the caller's voice


def heard_speaking(s: State, ev: e.CallerSpeechStarted, emit: Emit) -> State:
    emit(c.StopTimer(e.IdleTimeout))
    emit(c.StopTimer(e.EndpointTimeout))
    return s.with_caller(speaking=True, onset_s=ev.onset_s, idle_prompted=False)


def heard_silence(p: Policy, s: State, ev: e.CallerSpeechEnded, emit: Emit) -> State:
    """A reply is due from here on, unless it was a cough: the model may rightly stay silent after one."""
    if s.caller.turn_open:
        emit(c.SetTimer(e.EndpointTimeout, max(ev.at_s, ev.offset_s + p.end_silence_s)))
    lasted = ev.offset_s - s.caller.onset_s >= p.min_barge_in_s
    return s.with_caller(speaking=False, offset_s=ev.offset_s).with_due(reply=s.due.reply or lasted)


def complete(p: Policy, s: State, generation: int, at_s: float, emit: Emit) -> State:
    """No more of this reply will come: a mark after its end reports when it was heard."""
    reply = lg.find(s.ledger, generation)
    if reply is None or reply.complete:
        return s
    ledger = lg.complete(s.ledger, generation, only=True)
    if reply.marked < reply.placed:
        emit(c.SendMark(generation, reply.placed, ledger.epoch))
        ledger = lg.mark_sent(ledger, generation, reply.placed)
    return settle(p, s._replace(ledger=ledger), at_s, emit)


def goodbye_s(ledger: lg.Ledger, at_s: float) -> float:
    """How long what is being said may take."""
    return max(GOODBYE_MAX_S, lg.ends_at_s(ledger) - at_s + PLAYOUT_GRACE_S)


def wait_for_last_words(p: Policy, s: State, at_s: float, emit: Emit) -> State:
    """The caller speaks before the call ends. A word of thanks changes nothing; a caller who goes on gets the floor."""
    emit(c.SetTimer(e.BargeInLasted, max(at_s, lasted_s(p, s))))
    emit(c.SetTimer(e.GoodbyeTimeout, max(at_s, lasted_s(p, s)) + GOODBYE_START_S))
    return s._replace(phase=Phase.CLOSING)


def cancel_ending(s: State, emit: Emit) -> State:
    """The call goes on after all. Where a filler was interrupted the model's silence goes on counting."""
    emit(c.StopTimer(e.GoodbyeTimeout))
    s = s.with_due_anew(reply=True) if s.due.since_s is None else s.with_due(reply=True)
    return s._replace(ending=None, agent_replied=False)
