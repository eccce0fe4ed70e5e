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
    Do,
    after_barge_in,
    all_complete,
    awaited_tools,
    caller_has_floor,
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
    send_audio,
    settle,
    think,
    unmute,
    wait_for_last_words,
    was_sent,
)
from offhook.gateway.conversation.state import Link, Mode, Phase, Policy, State

__all__ = [
    "LAST_WORDS",
    "caller_transcribed",
    "digit_listening",
    "digit_over_agent",
    "digit_thinking",
    "endpoint",
    "interrupted",
    "interrupted_closing",
    "interrupted_held",
    "interrupted_over_agent",
    "lasted_closing",
    "lasted_held",
    "lasted_over_agent",
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
LAST_WORDS: Final = 3_200  # samples, 400 ms: who speaks into the very end of a reply answers it


def _stop_playback(s: State, at_s: float, do: Do) -> State:
    """Empty the carrier's queue; the clear is answered or bounded by a timer."""
    ledger = lg.clear(s.ledger, at_s)
    do(c.Clear(ledger.epoch))
    do(c.SetTimer(e.ClearTimeout, at_s + CLEAR_TIMEOUT_S))
    do(c.StopTimer(e.PlayoutTimeout))
    return s._replace(ledger=ledger, acknowledged=False)


def suspect_barge_in(p: Policy, s: State, at_s: float, do: Do) -> State:
    """The caller's voice over the agent's: stop playback at once, then wait for the verdict (or not)."""
    if was_sent(s):
        s = _stop_playback(s, at_s, do)
        if p.mode is Mode.STOP:
            return _confirm(p, s, at_s, c.Verdict.CONFIRMED_LOCALLY, do)
        do(c.BargeIn(s.ledger.replies[0].generation, s.onset_s, c.Verdict.SUSPECTED))
    do(c.StopTimer(e.GoodbyeTimeout))
    do(c.SetTimer(e.BargeInLasted, max(at_s, lasted_s(p, s))))
    return s._replace(phase=Phase.HELD)


def _drop_replies(p: Policy, s: State, at_s: float, do: Do, *, tell: bool = True) -> State:
    """The open replies, and everything up to the newest number, are dead."""
    for reply in s.ledger.replies:
        heard = lg.heard(s.ledger, reply, at_s)
        do(c.Drop(reply.generation))
        do(c.ReplyEnded(reply.generation, reply.received, heard, heard < reply.received))
        if tell and p.tell_heard and s.link is not Link.FAILED and heard < reply.received:
            do(c.TellHeard(reply.generation, heard))
    s = s._replace(ledger=lg.without_replies(s.ledger), dead=max(s.dead, s.newest))
    return unmute(p, s, at_s, do)


def _cancel_yielding_tools(s: State, do: Do) -> State:
    for tool in s.tools:
        if tool.policy is e.ToolPolicy.CANCEL:
            do(c.CancelTool(tool.call_id))
    return s._replace(tools=tuple(t for t in s.tools if t.policy is e.ToolPolicy.FINISH))


def _confirm(p: Policy, s: State, at_s: float, verdict: c.Verdict, do: Do) -> State:
    """The caller has the word: everything up to the newest reply is dead, and tools that yield are cancelled."""
    for timer in (e.VerdictTimeout, e.BargeInLasted, e.GoodbyeTimeout, e.FillerDue):
        do(c.StopTimer(timer))
    if was_sent(s):
        do(c.BargeIn(s.ledger.replies[0].generation, s.onset_s, verdict))
    s = _cancel_yielding_tools(_drop_replies(p, s, at_s, do), do)
    if s.ending is not None and s.ending not in INTERRUPTIBLE_ENDINGS:
        return end_call(s, s.ending, at_s, do)
    if s.link is Link.FAILED:
        return end_call(s, Ending.MODEL_LOST, at_s, do)
    s = open_turn(p, s._replace(ending=None, answered=False, owed=True), at_s, do)
    if not s.acknowledged:
        return s._replace(phase=Phase.STOPPING)
    return after_barge_in(p, s, at_s, do)


def digit_listening(p: Policy, s: State, ev: e.DigitPressed, do: Do) -> State:
    """A key press is a sign of life."""
    s = s._replace(idle_prompted=False)
    return s if s.caller_speaking or s.activity else listen(p, s, ev.at_s, do)


def digit_thinking(p: Policy, s: State, ev: e.DigitPressed, do: Do) -> State:
    """The caller is still typing: the model is not late yet."""
    s = s._replace(idle_prompted=False)
    return s if awaited_tools(s) else think(p, s, ev.at_s, do)


def digit_over_agent(p: Policy, s: State, ev: e.DigitPressed, do: Do) -> State:
    s = s._replace(idle_prompted=False)
    if not p.dtmf_barge_in or p.mode is Mode.OFF or has_protected(s) or not s.ledger.replies:
        return s
    if s.phase is not Phase.HELD:
        s = _stop_playback(s._replace(onset_s=ev.at_s), ev.at_s, do)
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_LOCALLY, do)


def speech_started(p: Policy, s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    """The agent is silent: the caller's word."""
    s = heard_speaking(s, ev, do)
    do(c.StopTimer(e.ModelSilent))
    do(c.StopTimer(e.FillerDue))
    # Who speaks a second time without an answer ("hello? ... hello?") did not cough.
    return caller_has_floor(p, s._replace(owed=s.owed or not s.answered, answered=False), ev.at_s, do)


def speech_over_agent(p: Policy, s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    s = heard_speaking(s, ev, do)
    if all_complete(s) and not lg.is_audible(s.ledger, ev.at_s):
        # Only the last marks are still on their way: the caller does not interrupt, but answers.
        s = close_heard_replies(p, s._replace(answered=False), *lg.settle(s.ledger, ev.at_s), ev.at_s, do)
        return playback_finished(p, s, ev.at_s, do)
    return suspect_barge_in(p, s, ev.at_s, do) if may_interrupt(p, s) else s


def speech_while_held(p: Policy, s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    """More of it before the verdict: count from this onset."""
    s = heard_speaking(s, ev, do)
    do(c.StopTimer(e.VerdictTimeout))
    do(c.SetTimer(e.BargeInLasted, max(ev.at_s, lasted_s(p, s))))
    return s


def speech_while_stopping(p: Policy, s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    return open_turn(p, heard_speaking(s, ev, do), ev.at_s, do)


def speech_while_closing(p: Policy, s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    if s.ledger.replies:
        return speech_over_agent(p, s, ev, do)
    s = heard_speaking(s, ev, do)
    return wait_for_last_words(p, s, ev.at_s, do) if s.ending in INTERRUPTIBLE_ENDINGS else s


def speech_ended(p: Policy, s: State, ev: e.CallerSpeechEnded, do: Do) -> State:
    """The caller's turn may be over: the model decides that, or the silence that follows."""
    s = heard_silence(p, s, ev, do)
    if s.activity:
        return s
    if s.owed or awaited_tools(s):
        return think(p, s, ev.at_s, do)
    return listen(p, s, ev.at_s, do)


def speech_ended_over_agent(p: Policy, s: State, ev: e.CallerSpeechEnded, do: Do) -> State:
    """It was the end of the turn that the agent is answering, or nothing that stops it."""
    do(c.StopTimer(e.BargeInLasted))
    owed = s.owed
    return heard_silence(p, s, ev, do)._replace(owed=owed)


def speech_ended_stopping(p: Policy, s: State, ev: e.CallerSpeechEnded, do: Do) -> State:
    return heard_silence(p, s, ev, do)


def speech_ended_held(p: Policy, s: State, ev: e.CallerSpeechEnded, do: Do) -> State:
    """Short: perhaps only an "uh-huh". The model gets a moment to say otherwise."""
    s = heard_silence(p, s, ev, do)._replace(owed=s.owed)
    if ev.offset_s - s.onset_s >= p.min_barge_in_s:
        return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_LOCALLY, do)
    do(c.StopTimer(e.BargeInLasted))
    do(c.SetTimer(e.VerdictTimeout, max(ev.at_s, ev.offset_s + p.verdict_timeout_s)))
    return s


def endpoint(p: Policy, s: State, ev: e.EndpointTimeout, do: Do) -> State:
    """Local turns: the caller's turn is over, the model is told so."""
    if not s.activity or s.caller_speaking:
        return s
    do(c.ActivityEnd())
    s = s._replace(activity=False)
    if s.phase is not Phase.LISTENING:
        return s
    return think(p, s, ev.at_s, do) if s.owed or awaited_tools(s) else listen(p, s, ev.at_s, do)


def caller_transcribed(p: Policy, s: State, ev: e.CallerTranscribed, do: Do) -> State:
    """The model understood something: what the detector took for a cough was a turn.

    Of a turn that was answered, transcripts may come late: they mean nothing.
    """
    if s.answered or awaited_tools(s):
        return s
    if s.caller_speaking or s.activity:
        return s._replace(owed=True)
    return think(p, s, ev.at_s, do)


# --- barge-in: the verdict


def interrupted_over_agent(p: Policy, s: State, ev: e.ModelInterrupted, do: Do) -> State:
    """The model heard the caller first (or, with mode `model`, alone)."""
    if ev.generation <= s.dead:
        return s
    if p.mode is Mode.OFF or has_protected(s):
        # It will bring no more of this reply; what there is of it is heard to its end.
        return complete(p, s, ev.generation, ev.at_s, do)
    s = s._replace(newest=max(s.newest, ev.generation))
    onset_s = s.onset_s if s.caller_speaking else ev.at_s
    s = _stop_playback(s._replace(onset_s=onset_s), ev.at_s, do)
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_BY_MODEL, do)


def interrupted(p: Policy, s: State, ev: e.ModelInterrupted, do: Do) -> State:
    """Nothing of that turn is being heard: it is dead all the same, and so are the tools that yield."""
    if ev.generation <= s.dead:
        return s
    s = s._replace(newest=max(s.newest, ev.generation))
    s = _cancel_yielding_tools(_drop_replies(p, s, ev.at_s, do), do)
    return think(p, s, ev.at_s, do) if s.phase is Phase.THINKING else s


def interrupted_held(p: Policy, s: State, ev: e.ModelInterrupted, do: Do) -> State:
    if ev.generation <= s.dead:
        return s
    s = s._replace(newest=max(s.newest, ev.generation))
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_BY_MODEL, do)


def interrupted_closing(p: Policy, s: State, ev: e.ModelInterrupted, do: Do) -> State:
    if s.ledger.replies:
        return interrupted_over_agent(p, s, ev, do)
    if ev.generation <= s.dead:
        return s
    s = interrupted(p, s, ev, do)
    if s.ending not in INTERRUPTIBLE_ENDINGS:
        return s
    # The goodbye was talked away before it began.
    return after_barge_in(p, cancel_ending(s, do), ev.at_s, do)


def lasted_held(p: Policy, s: State, ev: e.BargeInLasted, do: Do) -> State:
    if not s.caller_speaking:
        return s
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_LOCALLY, do)


def lasted_over_agent(p: Policy, s: State, ev: e.BargeInLasted, do: Do) -> State:
    """The caller was speaking when the agent began, and goes on: the agent yields."""
    if not s.caller_speaking or not may_interrupt(p, s):
        return s
    s = _stop_playback(s, ev.at_s, do)
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_LOCALLY, do)


def verdict_timeout(p: Policy, s: State, ev: e.VerdictTimeout, do: Do) -> State:
    """Dismissed: play on from the first unheard sample."""
    if s.caller_speaking:
        return s
    sent = was_sent(s)
    tail = sum(r.received - r.heard for r in s.ledger.replies)
    if sent and s.ending is None and all_complete(s) and tail <= LAST_WORDS:
        # "... at eight?" - "Yes." Nothing worth playing on is left, and the answer must not be lost. It stops
        # nothing else: "okay" cancels no tool that the agent has just said it would use.
        do(c.BargeIn(s.ledger.replies[0].generation, s.onset_s, c.Verdict.CONFIRMED_LOCALLY))
        s = _drop_replies(p, s, ev.at_s, do, tell=False)
        return playback_finished(p, open_turn(p, s._replace(answered=False), ev.at_s, do), ev.at_s, do)
    if sent:
        do(c.BargeIn(s.ledger.replies[0].generation, s.onset_s, c.Verdict.DISMISSED))
    ledger = send_audio(s.ledger, ev.at_s, do, resumed=sent)
    s = s._replace(phase=Phase.SPEAKING if s.ending is None else Phase.CLOSING, ledger=ledger)
    do(c.SetTimer(e.PlayoutTimeout, max(ev.at_s, playback_overdue_s(s))))
    if s.ending is not None:
        do(c.SetTimer(e.GoodbyeTimeout, ev.at_s + goodbye_s(ledger, ev.at_s)))
    return settle(p, s, ev.at_s, do)  # when nothing was left


def lasted_closing(p: Policy, s: State, ev: e.BargeInLasted, do: Do) -> State:
    if s.ledger.replies:
        return lasted_over_agent(p, s, ev, do)
    if not s.caller_speaking or s.ending not in INTERRUPTIBLE_ENDINGS:
        return s
    return caller_has_floor(p, cancel_ending(s, do), ev.at_s, do)


def speech_ended_closing(p: Policy, s: State, ev: e.CallerSpeechEnded, do: Do) -> State:
    lasted = ev.offset_s - s.onset_s >= p.min_barge_in_s
    s = speech_ended_over_agent(p, s, ev, do)
    if s.ledger.replies or s.ending not in INTERRUPTIBLE_ENDINGS:
        return s
    if not lasted:
        do(c.SetTimer(e.GoodbyeTimeout, ev.at_s + (GOODBYE_PAUSE_S if s.answered else GOODBYE_START_S)))
        return s
    return after_barge_in(p, open_turn(p, cancel_ending(s, do), ev.at_s, do), ev.at_s, do)
