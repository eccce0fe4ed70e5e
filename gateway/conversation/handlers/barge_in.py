"""The caller's voice and keys: turns, and barge-in from suspicion to verdict."""

from __future__ import annotations

from typing import Final

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation import ledger as lg
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.handlers.floor import (
    CLEAR_TIMEOUT_S,
    GOODBYE_PAUSE_S,
    GOODBYE_START_S,
    INTERRUPTIBLE_ENDINGS,
    Emit,
    after_barge_in,
    all_complete,
    awaited_tools,
    caller_has_floor,
    caller_resumed,
    cancel_ending,
    close_heard_replies,
    complete,
    end_call,
    goodbye_s,
    has_protected,
    heard_silence,
    heard_speaking,
    lasted_s,
    listen,
    may_interrupt,
    open_turn,
    playback_finished,
    playback_overdue_s,
    prompt_again,
    send_audio,
    settle,
    silent_since_s,
    think,
    turn_ended,
    wait_for_last_words,
    was_sent,
    watch_playout,
)
from offhook.gateway.conversation.state import LineState, Link, Mode, Phase, Policy, State
from offhook.gateway.conversation.units import RATE_HZ

__all__ = [
    "LAST_WORDS",
    "caller_transcribed",
    "cancel_heard",
    "cancel_unheard",
    "digit_listening",
    "digit_over_agent",
    "digit_thinking",
    "drop_for_good",
    "endpoint",
    "interrupted",
    "interrupted_closing",
    "interrupted_held",
    "interrupted_over_agent",
    "lasted_closing",
    "lasted_held",
    "lasted_over_agent",
    "loud_listening",
    "speech_ended",
    "speech_ended_closing",
    "speech_ended_held",
    "speech_ended_over_agent",
    "speech_ended_stopping",
    "speech_over_agent",
    "speech_started",
    "speech_while_closing",
    "speech_while_held",
    "speech_while_stopping",
    "suspect_barge_in",
    "verdict_timeout",
]
LAST_WORDS: Final = 3_200  # samples at RATE_HZ, 400 ms: speech into the very end of a reply answers it


def _stop_playback(s: State, at_s: float, emit: Emit) -> State:
    """Empty the line's queue; the acknowledgement is bounded by a timer. A line that is away has no queue."""
    if s.line is LineState.AWAY:
        return s
    ledger = lg.clear(s.ledger, at_s)
    emit(c.Clear(ledger.epoch))
    emit(c.SetTimer(e.ClearTimeout, at_s + CLEAR_TIMEOUT_S))
    emit(c.StopTimer(e.PlayoutTimeout))
    return s.with_ledger(ledger)


def suspect_barge_in(p: Policy, s: State, at_s: float, emit: Emit) -> State:
    """The caller's voice over the agent's: stop playback at once, then wait for the verdict (or not)."""
    if was_sent(s):
        s = _stop_playback(s, at_s, emit)
        if p.mode is Mode.STOP:
            return _confirm(p, s, at_s, c.Verdict.CONFIRMED_LOCALLY, emit)
        emit(c.BargeIn(s.ledger.replies[0].generation, s.caller.onset_s, c.Verdict.SUSPECTED))
    emit(c.StopTimer(e.GoodbyeTimeout))
    emit(c.SetTimer(e.BargeInLasted, max(at_s, lasted_s(p, s))))
    return s._replace(phase=Phase.HELD)


def _drop_replies(p: Policy, s: State, at_s: float, emit: Emit, *, report: bool = True) -> State:
    """The open replies, and everything up to the newest number, are dead."""
    for reply in s.ledger.replies:
        heard = lg.heard(s.ledger, reply, at_s)
        emit(c.Drop(reply.generation))
        emit(c.ReplyEnded(reply.generation, reply.received, heard, heard < reply.received))
        if report and p.report_heard and s.link is not Link.FAILED and heard < reply.received:
            emit(c.ReportHeard(reply.generation, heard))
    numbers = [reply.generation for reply in s.ledger.replies]  # that of a filler is above the newest
    return s.with_ledger(lg.kill(lg.without_replies(s.ledger), max(s.ledger.newest, *numbers, 0)))


def _cancel_yielding_tools(s: State, emit: Emit) -> State:
    for tool in s.tools:
        if tool.policy is e.ToolPolicy.CANCEL:
            emit(c.CancelTool(tool.call_id))
    return s._replace(tools=tuple(t for t in s.tools if t.policy is e.ToolPolicy.FINISH))


def _confirm(p: Policy, s: State, at_s: float, verdict: c.Verdict, emit: Emit) -> State:
    """The caller gets the floor: everything up to the newest reply is dead, and tools that yield are cancelled."""
    for timer in (e.VerdictTimeout, e.BargeInLasted, e.FillerDue):
        emit(c.StopTimer(timer))
    if was_sent(s):
        emit(c.BargeIn(s.ledger.replies[0].generation, s.caller.onset_s, verdict))
    s = _cancel_yielding_tools(_drop_replies(p, s, at_s, emit), emit)
    if s.ending is not None and s.ending not in INTERRUPTIBLE_ENDINGS:
        return end_call(s, s.ending, at_s, emit)
    if s.link is Link.FAILED:
        return end_call(s, Ending.MODEL_LOST, at_s, emit)
    s = open_turn(p, cancel_ending(s, emit), at_s, emit)
    if s.ledger.clear_pending:
        return s._replace(phase=Phase.STOPPING)
    return after_barge_in(p, s, at_s, emit)


# --- cancelled by the shell: not a barge-in


def drop_for_good(p: Policy, s: State, generation: int, at_s: float, emit: Emit) -> State:
    """The open replies, and any up to this number, are dead, as are tools that yield. No barge-in is counted."""
    if s.phase in (Phase.SPEAKING, Phase.CLOSING) and s.ledger.replies:  # in HELD playback has stopped
        s = _stop_playback(s, at_s, emit)
    s = s.with_ledger(lg.saw(s.ledger, generation))
    return _cancel_yielding_tools(_drop_replies(p, s, at_s, emit, report=False), emit)


def cancel_heard(p: Policy, s: State, ev: e.CancelReply, emit: Emit) -> State:
    """The agent falls silent; a goodbye that is cancelled ends the call."""
    if not s.ledger.replies:
        return cancel_unheard(p, s, ev, emit)
    for timer in (e.VerdictTimeout, e.BargeInLasted):
        emit(c.StopTimer(timer))
    return playback_finished(p, drop_for_good(p, s, ev.generation, ev.at_s, emit), ev.at_s, emit)


def cancel_unheard(p: Policy, s: State, ev: e.CancelReply, emit: Emit) -> State:
    """Nothing is being heard: the turn that may be on its way is dead. One that is due stays due."""
    s = drop_for_good(p, s, ev.generation, ev.at_s, emit)
    return think(p, s, ev.at_s, emit) if s.phase is Phase.THINKING else s


# --- keys


def digit_listening(p: Policy, s: State, ev: e.DigitPressed, emit: Emit) -> State:
    """A key press is a sign of life."""
    s = s.with_caller(idle_prompted=False)
    return s if s.caller.speaking or s.caller.turn_open else listen(p, s, ev.at_s, emit)


def digit_thinking(p: Policy, s: State, ev: e.DigitPressed, emit: Emit) -> State:
    """The caller is still typing: the model is not late yet."""
    s = s.with_caller(idle_prompted=False)
    if awaited_tools(s):
        return s
    if not s.due.failed_prompts:
        s = s.with_due_anew(reply=True)
    return think(p, s, ev.at_s, emit, quiet_s=ev.at_s)


def digit_over_agent(p: Policy, s: State, ev: e.DigitPressed, emit: Emit) -> State:
    s = s.with_caller(idle_prompted=False)
    if not p.dtmf_barge_in or p.mode is Mode.OFF or has_protected(s) or not s.ledger.replies:
        return s
    if s.phase is not Phase.HELD:
        s = _stop_playback(s.with_caller(onset_s=ev.at_s), ev.at_s, emit)
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_LOCALLY, emit)


# --- the caller's voice


def speech_started(p: Policy, s: State, ev: e.CallerSpeechStarted, emit: Emit) -> State:
    """The agent is silent: the caller gets the floor."""
    emit(c.StopTimer(e.FillerDue))
    s = caller_resumed(p, heard_speaking(s, ev, emit), ev, emit)
    return caller_has_floor(p, s, ev.at_s, emit)


def speech_over_agent(p: Policy, s: State, ev: e.CallerSpeechStarted, emit: Emit) -> State:
    s = heard_speaking(s, ev, emit)
    if s.line is LineState.UP and all_complete(s) and not lg.is_audible(s.ledger, ev.at_s):
        # Only the last marks are still on their way: the caller does not interrupt, but answers.
        s = close_heard_replies(p, s._replace(agent_replied=False), *lg.settle(s.ledger, ev.at_s), ev.at_s, emit)
        return playback_finished(p, s, ev.at_s, emit)
    return suspect_barge_in(p, s, ev.at_s, emit) if may_interrupt(p, s) else s


def speech_while_held(p: Policy, s: State, ev: e.CallerSpeechStarted, emit: Emit) -> State:
    """More of it before the verdict: count from this onset."""
    s = heard_speaking(s, ev, emit)
    emit(c.StopTimer(e.VerdictTimeout))
    emit(c.SetTimer(e.BargeInLasted, max(ev.at_s, lasted_s(p, s))))
    return s


def speech_while_stopping(p: Policy, s: State, ev: e.CallerSpeechStarted, emit: Emit) -> State:
    return open_turn(p, heard_speaking(s, ev, emit), ev.at_s, emit)


def speech_while_closing(p: Policy, s: State, ev: e.CallerSpeechStarted, emit: Emit) -> State:
    if s.ledger.replies:
        return speech_over_agent(p, s, ev, emit)
    s = heard_speaking(s, ev, emit)
    return wait_for_last_words(p, s, ev.at_s, emit) if s.ending in INTERRUPTIBLE_ENDINGS else s


def speech_ended(p: Policy, s: State, ev: e.CallerSpeechEnded, emit: Emit) -> State:
    """The caller's turn may be over: the model decides that, or the silence that follows."""
    s = heard_silence(p, s, ev, emit)
    if s.caller.turn_open:
        return s
    if s.due.reply or awaited_tools(s):
        return _await_reply(p, s, ev.at_s, emit)
    return listen(p, s, ev.at_s, emit)


def _await_reply(p: Policy, s: State, at_s: float, emit: Emit) -> State:
    """The caller's turn is over. A connection that came up during it has not been prompted yet."""
    s = turn_ended(s)
    if s.due.prompt_waits and s.link is Link.UP and not awaited_tools(s):
        prompt_again(s, emit)
        s = s.with_due(prompt_waits=False)
    return think(p, s, at_s, emit, quiet_s=silent_since_s(s, at_s))


def loud_listening(p: Policy, s: State, ev: e.LoudWithoutSpeech, emit: Emit) -> State:
    """The caller may have spoken, and the detector is deaf. With server turns the model had it all: a reply is due."""
    if p.local_turns or s.caller.speaking or s.caller.turn_open or s.line is LineState.AWAY:
        return s
    return think(p, s._replace(agent_replied=False), ev.at_s, emit)


def speech_ended_over_agent(p: Policy, s: State, ev: e.CallerSpeechEnded, emit: Emit) -> State:
    """It was the end of the turn that the agent is answering, or nothing that stops it."""
    emit(c.StopTimer(e.BargeInLasted))
    reply_due = s.due.reply
    return heard_silence(p, s, ev, emit).with_due(reply=reply_due)


def speech_ended_stopping(p: Policy, s: State, ev: e.CallerSpeechEnded, emit: Emit) -> State:
    return heard_silence(p, s, ev, emit)


def speech_ended_held(p: Policy, s: State, ev: e.CallerSpeechEnded, emit: Emit) -> State:
    """Short: perhaps only an "uh-huh". The model gets a moment to report an interruption."""
    s = heard_silence(p, s, ev, emit).with_due(reply=s.due.reply)
    if ev.offset_s - s.caller.onset_s >= p.min_barge_in_s:
        return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_LOCALLY, emit)
    emit(c.StopTimer(e.BargeInLasted))
    emit(c.SetTimer(e.VerdictTimeout, max(ev.at_s, ev.offset_s + p.verdict_timeout_s)))
    return s


def endpoint(p: Policy, s: State, ev: e.EndpointTimeout, emit: Emit) -> State:
    """Local turns: the caller's turn is over."""
    if not s.caller.turn_open or s.caller.speaking:
        return s
    emit(c.CloseTurn())
    s = s.with_caller(turn_open=False)
    if s.phase is not Phase.LISTENING:
        return s
    return _await_reply(p, s, ev.at_s, emit) if s.due.reply or awaited_tools(s) else listen(p, s, ev.at_s, emit)


def caller_transcribed(p: Policy, s: State, ev: e.CallerTranscribed, emit: Emit) -> State:
    """The model understood something: what the detector took for a cough was a turn.

    The transcript of a turn that has its reply may come late: it means nothing.
    """
    if s.agent_replied or awaited_tools(s):
        return s
    s = s.with_due(reply=True, alive=True)
    if s.caller.speaking or s.caller.turn_open:
        return s
    return think(p, s, ev.at_s, emit)


# --- barge-in: the verdict


def interrupted_over_agent(p: Policy, s: State, ev: e.ModelInterrupted, emit: Emit) -> State:
    """The model heard the caller first (or, with mode `model`, alone)."""
    if ev.generation <= s.ledger.dead or _unasked(p, s):
        return s
    if p.mode is Mode.OFF or has_protected(s):
        # The model brings no more of this reply; what was received of it is heard to its end.
        return complete(p, s, ev.generation, ev.at_s, emit)
    s = s.with_ledger(lg.saw(s.ledger, ev.generation))
    onset_s = s.caller.onset_s if s.caller.speaking else ev.at_s
    s = _stop_playback(s.with_caller(onset_s=onset_s), ev.at_s, emit)
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_BY_MODEL, emit)


def _unasked(p: Policy, s: State) -> bool:
    """Local turns: whether the model was told of no turn. Its detection is disabled, and models report `interrupted`
    all the same: that says nothing about the caller, and the turn's end follows where it is one.
    """
    return p.local_turns and not s.caller.turn_open


def interrupted(p: Policy, s: State, ev: e.ModelInterrupted, emit: Emit) -> State:
    """Nothing of that turn is being heard: it is dead all the same, and so are the tools that yield."""
    if ev.generation <= s.ledger.dead or _unasked(p, s):
        return s
    s = s.with_ledger(lg.saw(s.ledger, ev.generation)).with_due(alive=True)
    s = _cancel_yielding_tools(_drop_replies(p, s, ev.at_s, emit), emit)
    return think(p, s, ev.at_s, emit) if s.phase is Phase.THINKING else s


def interrupted_held(p: Policy, s: State, ev: e.ModelInterrupted, emit: Emit) -> State:
    if ev.generation <= s.ledger.dead or _unasked(p, s):
        return s
    s = s.with_ledger(lg.saw(s.ledger, ev.generation))
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_BY_MODEL, emit)


def interrupted_closing(p: Policy, s: State, ev: e.ModelInterrupted, emit: Emit) -> State:
    if s.ledger.replies:
        return interrupted_over_agent(p, s, ev, emit)
    if ev.generation <= s.ledger.dead or _unasked(p, s):
        return s
    s = interrupted(p, s, ev, emit)
    if s.ending not in INTERRUPTIBLE_ENDINGS:
        return s
    # The goodbye was talked away before it began.
    return after_barge_in(p, cancel_ending(s, emit), ev.at_s, emit)


def lasted_held(p: Policy, s: State, ev: e.BargeInLasted, emit: Emit) -> State:
    if not s.caller.speaking:
        return s
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_LOCALLY, emit)


def lasted_over_agent(p: Policy, s: State, ev: e.BargeInLasted, emit: Emit) -> State:
    """The caller was speaking when the agent began, and goes on: the agent yields."""
    if not s.caller.speaking or not may_interrupt(p, s):
        return s
    s = _stop_playback(s, ev.at_s, emit)
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_LOCALLY, emit)


def verdict_timeout(p: Policy, s: State, ev: e.VerdictTimeout, emit: Emit) -> State:
    """Dismissed: play on from the first unheard sample."""
    if s.caller.speaking:
        return s
    sent = was_sent(s)
    tail = sum(r.received - r.heard for r in s.ledger.replies)
    if sent and s.ending is None and all_complete(s) and tail <= LAST_WORDS * s.ledger.rate_hz // RATE_HZ:
        # "... at eight?" - "Yes." Nothing worth playing on is left, and the answer must not be lost. It stops
        # nothing else: "okay" cancels no tool that the agent has just said it would use.
        emit(c.BargeIn(s.ledger.replies[0].generation, s.caller.onset_s, c.Verdict.CONFIRMED_LOCALLY))
        s = _drop_replies(p, s, ev.at_s, emit, report=False)
        return playback_finished(p, open_turn(p, s._replace(agent_replied=False), ev.at_s, emit), ev.at_s, emit)
    if sent:
        emit(c.BargeIn(s.ledger.replies[0].generation, s.caller.onset_s, c.Verdict.DISMISSED))
    ledger = send_audio(s, s.ledger, ev.at_s, emit, resumed=sent)
    s = s._replace(phase=Phase.SPEAKING if s.ending is None else Phase.CLOSING, ledger=ledger)
    watch_playout(s, max(ev.at_s, playback_overdue_s(p, s)), emit)
    if s.ending is not None:
        emit(c.SetTimer(e.GoodbyeTimeout, ev.at_s + goodbye_s(ledger, ev.at_s)))
    return settle(p, s, ev.at_s, emit)  # when nothing was left


def lasted_closing(p: Policy, s: State, ev: e.BargeInLasted, emit: Emit) -> State:
    if s.ledger.replies:
        return lasted_over_agent(p, s, ev, emit)
    if not s.caller.speaking or s.ending not in INTERRUPTIBLE_ENDINGS:
        return s
    return caller_has_floor(p, cancel_ending(s, emit), ev.at_s, emit)


def speech_ended_closing(p: Policy, s: State, ev: e.CallerSpeechEnded, emit: Emit) -> State:
    lasted = ev.offset_s - s.caller.onset_s >= p.min_barge_in_s
    s = speech_ended_over_agent(p, s, ev, emit)
    if s.ledger.replies or s.ending not in INTERRUPTIBLE_ENDINGS:
        return s
    if not lasted:
        emit(c.SetTimer(e.GoodbyeTimeout, ev.at_s + (GOODBYE_PAUSE_S if s.agent_replied else GOODBYE_START_S)))
        return s
    return after_barge_in(p, open_turn(p, cancel_ending(s, emit), ev.at_s, emit), ev.at_s, emit)
