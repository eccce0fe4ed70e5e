"""The conversation machine: `step(policy, state, event) -> (state, commands)`.

It decides everything about turns and does nothing itself. Time comes in with the event; a timer is a command,
its firing an event. The shell carries commands out at once and in order.

The theory in short. A **reply** is numbered (its generation) where it is made: a turn of the model, a greeting
from a file, a filler. Its audio is sent ahead; the ledger knows what was heard. When the caller speaks over the
agent (mode `hold`) the carrier's queue is emptied at once and the unheard tail kept (HELD) until a **verdict**:
the model says `interrupted`, or the caller goes on speaking: the reply is dead, and everything up to its number
is dropped wherever it turns up; or the caller falls silent and the model says nothing: the tail is played on.
Tool calls live beside the phases; each gets exactly one outcome. There is one way out: `End`, the last command.

Every phase has a bounded way on, if nothing else ever happens:

    LISTENING  IdleTimeout, or EndpointTimeout, or the caller falls silent; else the call's TimeLimit
    THINKING   ModelSilent; while the link is down ConnectTimeout
    SPEAKING   PlayoutTimeout
    HELD       BargeInLasted while the caller speaks, then VerdictTimeout
    STOPPING   ClearTimeout
    CLOSING    GoodbyeTimeout

CONNECTING is bounded by the server: a call that no stream claims is told StreamLost.

`TABLE` says for each phase what each event means. What is ignored is ignored by name (`ignore`); a test refuses
a missing pair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gateway.conversation import commands as c
from gateway.conversation import events as e
from gateway.conversation import ledger as lg
from gateway.conversation.endings import Ending
from gateway.conversation.state import Greets, Link, Mode, Phase, Policy, RunningTool, State

__all__ = ["EVENTS", "TABLE", "step"]

MARK_EVERY: Final = 2_400  # samples, 300 ms: a mark is always outstanding, and few enough to cost nothing
CLEAR_TIMEOUT_S: Final = 1.0  # an answer takes a round trip; without one playback has long stopped
PLAYOUT_GRACE_S: Final = 2.0  # marks later than this behind the clock will not come
STALL_S: Final = 5.0  # a reply that was begun and brings nothing for this long is over for the caller
LAST_WORDS: Final = 3_200  # samples, 400 ms: who speaks into the very end of a reply answers it
SILENT_LEAST_S: Final = 1.0  # the model's silence always has an end, whatever the policy says
RETURN_S: Final = 2.0  # a link that is back has what the caller said meanwhile, if it was short
LINK_LOST_S: Final = 40.0  # the link gives up by itself after half a minute; if even its word does not come
WARN_AGAIN_S: Final = 1.0  # the time warning waits for a quiet moment
GOODBYE_START_S: Final = 3.0  # a model that ends the call before its goodbye gets this long to begin it
GOODBYE_PAUSE_S: Final = 1.0  # all was said and heard, it seems: nobody hangs up on the last syllable
GOODBYE_MAX_S: Final = 20.0  # and this long to finish
GO_AWAY_MARGIN_S: Final = 3.0  # changing connections takes part of the notice
YIELDING: Final = frozenset({Ending.AGENT_HUNG_UP, Ending.TRANSFERRED, Ending.CALLER_IDLE})
"""Endings with a goodbye, which the caller can talk away. The gateway's own reasons cannot be."""

Do = Callable[[c.Command], None]
Handler = Callable[[Policy, State, Any, Do], State]  # each takes the one event type it stands under


def step(policy: Policy, state: State, event: e.Event) -> tuple[State, tuple[c.Command, ...]]:
    """What `event` means in `state`. Pure; raises KeyError for an event type that is not in the vocabulary."""
    out: list[c.Command] = []
    state = TABLE[state.phase][type(event)](policy, state, event, out.append)
    return state, tuple(out)


# --- small words the handlers share


def ignore(p: Policy, s: State, ev: e.Event, do: Do) -> State:
    """This event means nothing in this phase."""
    return s


def _end(s: State, ending: Ending, at_s: float, do: Do) -> State:
    """The one way out: every tool call cancelled, every open reply accounted for, `End` last."""
    for tool in s.tools:
        do(c.CancelTool(tool.call_id))
    for reply in s.ledger.replies:
        heard = lg.heard(s.ledger, reply, at_s)
        do(c.ReplyEnded(reply.generation, reply.received, heard, heard < reply.received))
    do(c.End(ending))
    return s._replace(phase=Phase.ENDED, ledger=lg.without_replies(s.ledger), tools=(), ending=ending)


def _awaited(s: State) -> list[RunningTool]:
    """The tools that the conversation waits for."""
    return [t for t in s.tools if not t.withdrawn]


def _protected(s: State) -> bool:
    return any(r.protected for r in s.ledger.replies)


def _all_complete(s: State) -> bool:
    return all(r.complete for r in s.ledger.replies)


def _was_sent(s: State) -> bool:
    """Whether the caller can have heard anything of the open replies."""
    return any(r.sent for r in s.ledger.replies)


def _send(ledger: lg.Ledger, at_s: float, do: Do, *, resumed: bool = False) -> lg.Ledger:
    """Send everything at hand, with a mark every 300 ms, one behind a reply's first voice, one at its end."""
    ledger, spans = lg.place(ledger, at_s)
    for reply, start in spans:
        generation, end, before, voice = reply.generation, reply.placed, reply.marked, reply.audible or 0
        marked = before
        while start < end:
            stop = voice if start < voice <= end else min(end, marked + MARK_EVERY)
            do(c.Replay(generation, start, stop) if resumed else c.Play(generation, start, stop))
            resumed = False  # only the seam is faded in
            if stop == voice or stop - marked >= MARK_EVERY:
                do(c.SendMark(generation, stop, ledger.epoch))
                marked = stop
            start = stop
        if reply.complete and marked < end:
            do(c.SendMark(generation, end, ledger.epoch))
            marked = end
        if marked != before:
            ledger = lg.mark_sent(ledger, generation, marked)
    return ledger


def _overdue_s(s: State) -> float:
    """When the end of playback, or more of the reply, is overdue."""
    grace_s = PLAYOUT_GRACE_S
    if not _all_complete(s):
        # A turn that waits for its tool says no more until it has the result.
        grace_s = 0.0 if s.ending is None and _awaited(s) else STALL_S
    return lg.ends_at_s(s.ledger) + grace_s


def _take_off(p: Policy, s: State, ledger: lg.Ledger, over: tuple[lg.Reply, ...], at_s: float, do: Do) -> State:
    """These replies were heard to their end."""
    for reply in over:
        do(c.ReplyEnded(reply.generation, reply.received, reply.heard, False))
    return _unmute(p, s._replace(ledger=ledger), at_s, do)


def _unmute(p: Policy, s: State, at_s: float, do: Do) -> State:
    """Behind the last protected reply the model hears the caller again, and so does the agent."""
    if not s.muted or _protected(s):
        return s
    do(c.MuteCaller(False))
    s = s._replace(muted=False)
    if s.ledger.replies and s.caller_speaking and _may_interrupt(p, s):
        do(c.SetTimer(e.BargeInLasted, at_s + _watch_s(p)))
    return s


def _quiet(p: Policy, s: State, at_s: float, do: Do) -> State:
    """Nothing is to be heard of the agent any more: whose word is it now?"""
    do(c.StopTimer(e.PlayoutTimeout))
    if s.ending is not None:
        if s.caller_speaking and s.ending in YIELDING and s.link is not Link.FAILED:  # thanks, or more to say?
            return _linger(p, s, at_s, do)
        return _end(s, s.ending, at_s, do)
    if s.caller_speaking:
        return _callers_word(p, s._replace(answered=False), at_s, do)
    if s.activity:
        return s._replace(phase=Phase.LISTENING)
    if s.owed or _awaited(s):
        return _think(p, s, at_s, do)
    return _listen(p, s, at_s, do)


def _callers_word(p: Policy, s: State, at_s: float, do: Do) -> State:
    """The caller is speaking, or about to say more; the agent is not."""
    return _open_turn(p, s, at_s, do)._replace(phase=Phase.LISTENING)


def _open_turn(p: Policy, s: State, at_s: float, do: Do) -> State:
    """Local turns: the model is told that the caller's turn has begun. One without a voice is soon over."""
    if not p.local_turns or s.activity:
        return s
    do(c.ActivityStart())
    if not s.caller_speaking:
        do(c.SetTimer(e.EndpointTimeout, at_s + p.end_silence_s))
    return s._replace(activity=True)


def _listen(p: Policy, s: State, at_s: float, do: Do) -> State:
    """Nobody's word, from now: the idle clock starts; a due change of connection happens now."""
    do(c.StopTimer(e.ModelSilent))
    idle_s = p.idle_goodbye_s if s.idle_prompted or not p.idle_prompt_s else p.idle_prompt_s
    if idle_s:
        do(c.SetTimer(e.IdleTimeout, at_s + idle_s))
    s = s._replace(phase=Phase.LISTENING, strikes=0, owed=False)
    return _rotate(s, at_s, do) if s.rotation_due and _may_rotate(s) else s


def _think(p: Policy, s: State, at_s: float, do: Do) -> State:
    """The model's word. While a tool runs, the tool's own limit bounds the wait; a filler may cover it."""
    do(c.StopTimer(e.IdleTimeout))
    tools = _awaited(s)
    if tools:
        do(c.SetTimer(e.ModelSilent, at_s + max(t.limit_s for t in tools)))
        delays = [t.filler_after_s for t in tools if t.filler_after_s is not None]
        if delays:
            do(c.SetTimer(e.FillerDue, at_s + min(delays)))
    else:
        do(c.SetTimer(e.ModelSilent, at_s + max(SILENT_LEAST_S, p.silent_after_s)))
    return s._replace(phase=Phase.THINKING, owed=True)


def _lose_link(s: State, at_s: float, do: Do) -> State:
    """The link is being changed or got back; that, too, is bounded."""
    do(c.SetTimer(e.ConnectTimeout, at_s + LINK_LOST_S))
    return s._replace(link=Link.DOWN, rotation_due=False)


def _may_rotate(s: State) -> bool:
    """A new connection knows nothing of a tool call that this one is waiting for."""
    return s.link is Link.UP and not (s.caller_speaking or s.activity or s.tools)


def _rotate(s: State, at_s: float, do: Do) -> State:
    do(c.StopTimer(e.GoAwayDeadline))
    do(c.RotateModel())
    return _lose_link(s, at_s, do)


# --- barge-in: the steps


def _may_interrupt(p: Policy, s: State) -> bool:
    """Whether the detector's word stops the agent now."""
    return p.mode in (Mode.HOLD, Mode.STOP) and not _protected(s)


def _lasted_s(p: Policy, s: State) -> float:
    """When speech that began at the onset has lasted: a shorter one is known to be over by then."""
    return s.onset_s + p.min_barge_in_s + p.hangover_s


def _watch_s(p: Policy) -> float:
    """How long a caller may speak into the agent's beginning; the end of a turn is known within the hangover."""
    return max(p.min_barge_in_s, p.hangover_s)


def _stop_playback(s: State, at_s: float, do: Do) -> State:
    """Empty the carrier's queue; the clear is answered or bounded by a timer."""
    ledger = lg.clear(s.ledger, at_s)
    do(c.Clear(ledger.epoch))
    do(c.SetTimer(e.ClearTimeout, at_s + CLEAR_TIMEOUT_S))
    do(c.StopTimer(e.PlayoutTimeout))
    return s._replace(ledger=ledger, acknowledged=False)


def _barge_in(p: Policy, s: State, at_s: float, do: Do) -> State:
    """The caller's voice over the agent's: stop playback at once, then wait for the verdict (or not)."""
    if _was_sent(s):
        s = _stop_playback(s, at_s, do)
        if p.mode is Mode.STOP:
            return _confirm(p, s, at_s, c.Verdict.CONFIRMED_LOCALLY, do)
        do(c.BargeIn(s.ledger.replies[0].generation, s.onset_s, c.Verdict.SUSPECTED))
    do(c.StopTimer(e.GoodbyeTimeout))
    do(c.SetTimer(e.BargeInLasted, max(at_s, _lasted_s(p, s))))
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
    return _unmute(p, s, at_s, do)


def _cancel_yielding_tools(s: State, do: Do) -> State:
    for tool in s.tools:
        if tool.policy is e.ToolPolicy.CANCEL:
            do(c.CancelTool(tool.call_id))
    return s._replace(tools=tuple(t for t in s.tools if t.policy is e.ToolPolicy.FINISH))


def _confirm(p: Policy, s: State, at_s: float, verdict: c.Verdict, do: Do) -> State:
    """The caller has the word: everything up to the newest reply is dead, and tools that yield are cancelled."""
    for timer in (e.VerdictTimeout, e.BargeInLasted, e.GoodbyeTimeout, e.FillerDue):
        do(c.StopTimer(timer))
    if _was_sent(s):
        do(c.BargeIn(s.ledger.replies[0].generation, s.onset_s, verdict))
    s = _cancel_yielding_tools(_drop_replies(p, s, at_s, do), do)
    if s.ending is not None and s.ending not in YIELDING:
        return _end(s, s.ending, at_s, do)
    if s.link is Link.FAILED:
        return _end(s, Ending.MODEL_LOST, at_s, do)
    s = _open_turn(p, s._replace(ending=None, answered=False, owed=True), at_s, do)
    if not s.acknowledged:
        return s._replace(phase=Phase.STOPPING)
    return _yield_word(p, s, at_s, do)


def _yield_word(p: Policy, s: State, at_s: float, do: Do) -> State:
    """After a barge-in: the caller is still speaking, or has just stopped and wants an answer."""
    if s.caller_speaking or s.activity:
        return _callers_word(p, s, at_s, do)
    return _think(p, s, at_s, do)


# --- the carrier


def stream_started(p: Policy, s: State, ev: e.StreamStarted, do: Do) -> State:
    if s.link is Link.FAILED:
        return _end(s, Ending.MODEL_UNREACHABLE, ev.at_s, do)
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
        return _listen(p, s, at_s, do)
    if s.link is Link.UP:
        do(c.AskModel(c.Prompt.GREETING))
    if s.caller_speaking or s.activity:
        return s._replace(owed=True)
    return _think(p, s, at_s, do)


def stream_stopped(p: Policy, s: State, ev: e.StreamStopped, do: Do) -> State:
    return _end(s, Ending.CALLER_HUNG_UP, ev.at_s, do)


def stream_lost(p: Policy, s: State, ev: e.StreamLost, do: Do) -> State:
    return _end(s, Ending.STREAM_LOST, ev.at_s, do)


def stream_never_started(p: Policy, s: State, ev: e.StreamLost, do: Do) -> State:
    return _end(s, Ending.STREAM_NEVER_STARTED, ev.at_s, do)


def mark_returned(p: Policy, s: State, ev: e.MarkReturned, do: Do) -> State:
    ledger = lg.mark_returned(s.ledger, ev.generation, ev.sample, ev.epoch, ev.at_s)
    if ledger is s.ledger:
        return s
    return _settle(p, s.with_ledger(ledger), ev.at_s, do)


def _settle(p: Policy, s: State, at_s: float, do: Do) -> State:
    ledger, over = lg.settle(s.ledger)
    if not over:
        return s
    s = _take_off(p, s, ledger, over, at_s, do)
    return s if ledger.replies else _quiet(p, s, at_s, do)


def playout_timeout(p: Policy, s: State, ev: e.PlayoutTimeout, do: Do) -> State:
    """The marks or the rest of the reply did not come: by the clock the caller has heard what there was."""
    overdue_s = _overdue_s(s)
    if ev.at_s < overdue_s:  # more has come since
        do(c.SetTimer(e.PlayoutTimeout, overdue_s))
        return s
    s = _take_off(p, s, *lg.settle(s.ledger, ev.at_s), ev.at_s, do)
    if not s.ledger.replies or s.ending is not None:
        return _quiet(p, s, ev.at_s, do)
    # The model stopped in mid-reply. What it still brings is played; until then it counts as silent.
    if s.muted:
        do(c.MuteCaller(False))
        s = s._replace(muted=False)
    if s.caller_speaking or s.activity:
        return _callers_word(p, s, ev.at_s, do)
    return _think(p, s, ev.at_s, do)


def clear_acknowledged(p: Policy, s: State, ev: e.ClearAcknowledged, do: Do) -> State:
    if ev.epoch != s.ledger.epoch:
        return s
    do(c.StopTimer(e.ClearTimeout))
    return s._replace(ledger=lg.acknowledge_clear(s.ledger, ev.epoch, ev.at_s), acknowledged=True)


def stopping_acknowledged(p: Policy, s: State, ev: e.ClearAcknowledged, do: Do) -> State:
    s = clear_acknowledged(p, s, ev, do)
    return _yield_word(p, s, ev.at_s, do) if s.acknowledged else s


def clear_timeout(p: Policy, s: State, ev: e.ClearTimeout, do: Do) -> State:
    """The carrier did not answer; its queue was emptied all the same, or the stream is dead."""
    return s._replace(acknowledged=True)


def stopping_timeout(p: Policy, s: State, ev: e.ClearTimeout, do: Do) -> State:
    return _yield_word(p, s._replace(acknowledged=True), ev.at_s, do)


def digit_listening(p: Policy, s: State, ev: e.DigitPressed, do: Do) -> State:
    """A key press is a sign of life."""
    s = s._replace(idle_prompted=False)
    return s if s.caller_speaking or s.activity else _listen(p, s, ev.at_s, do)


def digit_thinking(p: Policy, s: State, ev: e.DigitPressed, do: Do) -> State:
    """The caller is still typing: the model is not late yet."""
    s = s._replace(idle_prompted=False)
    return s if _awaited(s) else _think(p, s, ev.at_s, do)


def digit_over_agent(p: Policy, s: State, ev: e.DigitPressed, do: Do) -> State:
    s = s._replace(idle_prompted=False)
    if not p.dtmf_barge_in or p.mode is Mode.OFF or _protected(s) or not s.ledger.replies:
        return s
    if s.phase is not Phase.HELD:
        s = _stop_playback(s._replace(onset_s=ev.at_s), ev.at_s, do)
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_LOCALLY, do)


# --- the caller's voice


def _heard_speaking(s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    do(c.StopTimer(e.IdleTimeout))
    do(c.StopTimer(e.EndpointTimeout))
    return s._replace(caller_speaking=True, onset_s=ev.onset_s, idle_prompted=False)


def _heard_silence(p: Policy, s: State, ev: e.CallerSpeechEnded, do: Do) -> State:
    """`owed` from here on: a cough is no turn, and for one the model may rightly stay silent."""
    if s.activity:
        do(c.SetTimer(e.EndpointTimeout, max(ev.at_s, ev.offset_s + p.end_silence_s)))
    return s._replace(caller_speaking=False, owed=s.owed or ev.offset_s - s.onset_s >= p.min_barge_in_s)


def speech_started(p: Policy, s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    """The agent is silent: the caller's word."""
    s = _heard_speaking(s, ev, do)
    do(c.StopTimer(e.ModelSilent))
    do(c.StopTimer(e.FillerDue))
    # Who speaks a second time without an answer ("hello? ... hello?") did not cough.
    return _callers_word(p, s._replace(owed=s.owed or not s.answered, answered=False), ev.at_s, do)


def speech_over_agent(p: Policy, s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    s = _heard_speaking(s, ev, do)
    if _all_complete(s) and not lg.is_audible(s.ledger, ev.at_s):
        # Only the last marks are still on their way: the caller does not interrupt, but answers.
        s = _take_off(p, s._replace(answered=False), *lg.settle(s.ledger, ev.at_s), ev.at_s, do)
        return _quiet(p, s, ev.at_s, do)
    return _barge_in(p, s, ev.at_s, do) if _may_interrupt(p, s) else s


def speech_while_held(p: Policy, s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    """More of it before the verdict: count from this onset."""
    s = _heard_speaking(s, ev, do)
    do(c.StopTimer(e.VerdictTimeout))
    do(c.SetTimer(e.BargeInLasted, max(ev.at_s, _lasted_s(p, s))))
    return s


def speech_while_stopping(p: Policy, s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    return _open_turn(p, _heard_speaking(s, ev, do), ev.at_s, do)


def speech_while_closing(p: Policy, s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    if s.ledger.replies:
        return speech_over_agent(p, s, ev, do)
    s = _heard_speaking(s, ev, do)
    return _linger(p, s, ev.at_s, do) if s.ending in YIELDING else s


def speech_ended(p: Policy, s: State, ev: e.CallerSpeechEnded, do: Do) -> State:
    """The caller's turn may be over: the model decides that, or the silence that follows."""
    s = _heard_silence(p, s, ev, do)
    if s.activity:
        return s
    if s.owed or _awaited(s):
        return _think(p, s, ev.at_s, do)
    return _listen(p, s, ev.at_s, do)


def speech_ended_over_agent(p: Policy, s: State, ev: e.CallerSpeechEnded, do: Do) -> State:
    """It was the end of the turn that the agent is answering, or nothing that stops it."""
    do(c.StopTimer(e.BargeInLasted))
    owed = s.owed
    return _heard_silence(p, s, ev, do)._replace(owed=owed)


def speech_ended_stopping(p: Policy, s: State, ev: e.CallerSpeechEnded, do: Do) -> State:
    return _heard_silence(p, s, ev, do)


def speech_ended_held(p: Policy, s: State, ev: e.CallerSpeechEnded, do: Do) -> State:
    """Short: perhaps only an "uh-huh". The model gets a moment to say otherwise."""
    s = _heard_silence(p, s, ev, do)._replace(owed=s.owed)
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
    return _think(p, s, ev.at_s, do) if s.owed or _awaited(s) else _listen(p, s, ev.at_s, do)


def caller_transcribed(p: Policy, s: State, ev: e.CallerTranscribed, do: Do) -> State:
    """The model understood something: what the detector took for a cough was a turn.

    Of a turn that was answered, transcripts may come late: they mean nothing.
    """
    if s.answered or _awaited(s):
        return s
    if s.caller_speaking or s.activity:
        return s._replace(owed=True)
    return _think(p, s, ev.at_s, do)


# --- barge-in: the verdict


def interrupted_over_agent(p: Policy, s: State, ev: e.ModelInterrupted, do: Do) -> State:
    """The model heard the caller first (or, with mode `model`, alone)."""
    if ev.generation <= s.dead:
        return s
    if p.mode is Mode.OFF or _protected(s):
        # It will bring no more of this reply; what there is of it is heard to its end.
        return _complete(p, s, ev.generation, ev.at_s, do)
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
    return _think(p, s, ev.at_s, do) if s.phase is Phase.THINKING else s


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
    if s.ending not in YIELDING:
        return s
    # The goodbye was talked away before it began.
    return _yield_word(p, _stay(s, do), ev.at_s, do)


def lasted_held(p: Policy, s: State, ev: e.BargeInLasted, do: Do) -> State:
    if not s.caller_speaking:
        return s
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_LOCALLY, do)


def lasted_over_agent(p: Policy, s: State, ev: e.BargeInLasted, do: Do) -> State:
    """The caller was speaking when the agent began, and goes on: the agent yields."""
    if not s.caller_speaking or not _may_interrupt(p, s):
        return s
    s = _stop_playback(s, ev.at_s, do)
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_LOCALLY, do)


def verdict_timeout(p: Policy, s: State, ev: e.VerdictTimeout, do: Do) -> State:
    """Dismissed: play on from the first unheard sample."""
    if s.caller_speaking:
        return s
    sent = _was_sent(s)
    tail = sum(r.received - r.heard for r in s.ledger.replies)
    if sent and s.ending is None and _all_complete(s) and tail <= LAST_WORDS:
        # "... at eight?" - "Yes." Nothing worth playing on is left, and the answer must not be lost. It stops
        # nothing else: "okay" cancels no tool that the agent has just said it would use.
        do(c.BargeIn(s.ledger.replies[0].generation, s.onset_s, c.Verdict.CONFIRMED_LOCALLY))
        s = _drop_replies(p, s, ev.at_s, do, tell=False)
        return _quiet(p, _open_turn(p, s._replace(answered=False), ev.at_s, do), ev.at_s, do)
    if sent:
        do(c.BargeIn(s.ledger.replies[0].generation, s.onset_s, c.Verdict.DISMISSED))
    ledger = _send(s.ledger, ev.at_s, do, resumed=sent)
    s = s._replace(phase=Phase.SPEAKING if s.ending is None else Phase.CLOSING, ledger=ledger)
    do(c.SetTimer(e.PlayoutTimeout, max(ev.at_s, _overdue_s(s))))
    if s.ending is not None:
        do(c.SetTimer(e.GoodbyeTimeout, ev.at_s + _goodbye_s(ledger, ev.at_s)))
    return _settle(p, s, ev.at_s, do)  # when nothing was left


# --- the model's replies


def _is_dead(s: State, ev: e.ReplyAudio, do: Do) -> bool:
    if ev.generation > s.dead:
        return False
    do(c.Drop(ev.generation))
    return True


def _received(s: State, ev: e.ReplyAudio) -> lg.Ledger:
    return lg.receive(s.ledger, ev.generation, ev.samples, ev.audible_sample, ev.protected)


def _taken(s: State, ev: e.ReplyAudio, ledger: lg.Ledger, do: Do) -> State:
    """The reply has grown by this audio."""
    if ev.protected and not s.muted:
        do(c.MuteCaller(True))
        s = s._replace(muted=True)
    if ev.generation > s.newest:
        return s._replace(ledger=ledger, newest=ev.generation, owed=False)
    return s.with_ledger(ledger)


def _begin(p: Policy, s: State, at_s: float, do: Do) -> State:
    """The agent has the word. Who has just begun to speak is let finish; who goes on speaking is yielded to."""
    for timer in (e.ModelSilent, e.IdleTimeout, e.FillerDue):
        do(c.StopTimer(timer))
    s = s._replace(answered=True, strikes=0, owed=False)
    if s.caller_speaking and _may_interrupt(p, s):
        if at_s - s.onset_s < p.min_barge_in_s or s.activity:
            return _barge_in(p, s, at_s, do)
        do(c.SetTimer(e.BargeInLasted, at_s + _watch_s(p)))
    ledger = _send(s.ledger, at_s, do)
    s = s._replace(phase=Phase.SPEAKING if s.ending is None else Phase.CLOSING, ledger=ledger)
    # Early while more comes: it is moved when it fires, and need not be for every chunk.
    do(c.SetTimer(e.PlayoutTimeout, min(_overdue_s(s), lg.ends_at_s(ledger) + PLAYOUT_GRACE_S)))
    return s


def reply_begins(p: Policy, s: State, ev: e.ReplyAudio, do: Do) -> State:
    """From silence. In STOPPING, too: the carrier's queue was emptied before this can reach it."""
    if _is_dead(s, ev, do):
        return s
    return _begin(p, _taken(s, ev, _received(s, ev), do), ev.at_s, do)


def reply_goes_on(p: Policy, s: State, ev: e.ReplyAudio, do: Do) -> State:
    if _is_dead(s, ev, do):
        return s
    return _taken(s, ev, _send(_received(s, ev), ev.at_s, do), do)


def reply_while_held(p: Policy, s: State, ev: e.ReplyAudio, do: Do) -> State:
    """Kept, not played: the verdict decides."""
    if _is_dead(s, ev, do):
        return s
    return _taken(s, ev, _received(s, ev), do)


def reply_while_closing(p: Policy, s: State, ev: e.ReplyAudio, do: Do) -> State:
    """The goodbye begins, or goes on."""
    if lg.is_audible(s.ledger, ev.at_s):
        return reply_goes_on(p, s, ev, do)
    if _is_dead(s, ev, do):
        return s
    do(c.SetTimer(e.GoodbyeTimeout, ev.at_s + GOODBYE_MAX_S))
    return _begin(p, _taken(s, ev, _received(s, ev), do), ev.at_s, do)


def reply_before_stream(p: Policy, s: State, ev: e.ReplyAudio, do: Do) -> State:
    """There is nobody to hear it, and later it would come out of place."""
    do(c.Drop(ev.generation))
    return s._replace(newest=max(s.newest, ev.generation), dead=max(s.dead, ev.generation))


def reply_complete(p: Policy, s: State, ev: e.ReplyComplete, do: Do) -> State:
    return _complete(p, s, ev.generation, ev.at_s, do)


def _complete(p: Policy, s: State, generation: int, at_s: float, do: Do) -> State:
    """No more of this reply will come: a mark behind its end tells when it was heard."""
    reply = lg.find(s.ledger, generation)
    if reply is None or reply.complete:
        return s
    ledger = lg.complete(s.ledger, generation, only=True)
    if reply.marked < reply.placed:
        do(c.SendMark(generation, reply.placed, ledger.epoch))
        ledger = lg.mark_sent(ledger, generation, reply.placed)
    return _settle(p, s._replace(ledger=ledger), at_s, do)


def complete_while_held(p: Policy, s: State, ev: e.ReplyComplete, do: Do) -> State:
    return s._replace(ledger=lg.complete(s.ledger, ev.generation, only=True))


def complete_after_stall(p: Policy, s: State, ev: e.ReplyComplete, do: Do) -> State:
    return _over_after_stall(p, s, lg.complete(s.ledger, ev.generation, only=True), ev.at_s, do)


def _over_after_stall(p: Policy, s: State, ledger: lg.Ledger, at_s: float, do: Do) -> State:
    """The reply that broke off was at its end after all, and has been heard."""
    if not s.ledger.replies:
        return s
    s = _take_off(p, s, *lg.settle(ledger, at_s), at_s, do)
    if s.phase is Phase.THINKING and s.answered and not s.ledger.replies and not _awaited(s):
        return _listen(p, s, at_s, do)
    return s


def turn_complete(p: Policy, s: State, ev: e.TurnComplete, do: Do) -> State:
    """A turn's end, without `generationComplete` too, completes its replies."""
    s = s._replace(asked_tool=False)
    for reply in s.ledger.replies:
        if reply.generation <= ev.generation:
            s = _complete(p, s, reply.generation, ev.at_s, do)
    return _ask_on(p, s, ev, do)


def _ask_on(p: Policy, s: State, ev: e.TurnComplete, do: Do) -> State:
    """A reply that broke off in mid-sentence: ask for the rest, once; it comes behind what is being heard."""
    if not ev.cut:
        return s._replace(asked_on=False) if s.asked_on else s
    nobody_else = not (s.caller_speaking or s.activity or s.tools) and ev.generation == s.newest > s.dead
    if s.asked_on or not nobody_else or s.link is not Link.UP or s.phase not in (Phase.LISTENING, Phase.SPEAKING):
        return s
    do(c.AskModel(c.Prompt.GO_ON))
    s = s._replace(asked_on=True)
    return _think(p, s, ev.at_s, do) if s.phase is Phase.LISTENING else s._replace(owed=True)


def turn_complete_held(p: Policy, s: State, ev: e.TurnComplete, do: Do) -> State:
    return s._replace(asked_tool=False, ledger=lg.complete(s.ledger, ev.generation))


def turn_complete_listening(p: Policy, s: State, ev: e.TurnComplete, do: Do) -> State:
    s = _over_after_stall(p, s._replace(asked_tool=False), lg.complete(s.ledger, ev.generation), ev.at_s, do)
    return _ask_on(p, s, ev, do)


def turn_complete_thinking(p: Policy, s: State, ev: e.TurnComplete, do: Do) -> State:
    """A turn without audio where one was due: ask once, at once."""
    empty = ev.generation > max(s.dead, s.newest) and not s.asked_tool and not _awaited(s)
    s = turn_complete_listening(p, s, ev, do)
    if not empty or s.phase is not Phase.THINKING:
        return s
    s = s._replace(newest=ev.generation)
    return s if s.strikes else _strike(p, s, ev.at_s, do)


def model_silent(p: Policy, s: State, ev: e.ModelSilent, do: Do) -> State:
    for tool in _awaited(s):  # one that has not ended by now never will
        do(c.CancelTool(tool.call_id))
    return _strike(p, s._replace(tools=tuple(t for t in s.tools if t.withdrawn)), ev.at_s, do)


def _strike(p: Policy, s: State, at_s: float, do: Do) -> State:
    """The model owes the caller a word: ask, then get a new connection, then give up."""
    if s.link is not Link.UP:
        return s  # it hears of it when the link is back, or the call ends
    s = s._replace(strikes=s.strikes + 1)
    if s.strikes > 2:
        return _end(s, Ending.MODEL_LOST, at_s, do)
    if s.strikes == 2:
        do(c.ReconnectModel())
        return _lose_link(s, at_s, do)
    do(c.AskModel(c.Prompt.NUDGE))
    return _think(p, s, at_s, do)


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
    elif s.phase is Phase.THINKING and not _awaited(s):
        if s.strikes or s.answered:
            do(c.AskModel(c.Prompt.NUDGE))
            return _think(p, s, ev.at_s, do)
        do(c.SetTimer(e.ModelSilent, ev.at_s + RETURN_S))
    return s


def model_down(p: Policy, s: State, ev: e.ModelDown, do: Do) -> State:
    """No more of the present reply will come; what there is of it is heard to its end, and the rest is owed."""
    do(c.StopTimer(e.GoAwayDeadline))
    return _cut(p, _lose_link(s, ev.at_s, do), ev.at_s, do)


def _cut(p: Policy, s: State, at_s: float, do: Do) -> State:
    s = s._replace(asked_tool=False, owed=s.owed or not _all_complete(s))
    if s.phase in (Phase.SPEAKING, Phase.CLOSING):
        for reply in s.ledger.replies:
            s = _complete(p, s, reply.generation, at_s, do)
        return s
    ledger = lg.complete(s.ledger, s.newest)
    if s.phase is Phase.HELD:
        return s._replace(ledger=ledger)
    return _take_off(p, s, *lg.settle(ledger, at_s), at_s, do)


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
    return _close(p, s, s.ending or ending, ev.at_s, do)  # a goodbye under way keeps its reason


def connect_timeout(p: Policy, s: State, ev: e.ConnectTimeout, do: Do) -> State:
    return s if s.link is Link.UP else model_failed(p, s, ev, do)


def go_away(p: Policy, s: State, ev: e.GoAway, do: Do) -> State:
    if s.link is not Link.UP:
        return s
    if s.phase is Phase.LISTENING and _may_rotate(s):
        return _rotate(s, ev.at_s, do)
    do(c.SetTimer(e.GoAwayDeadline, ev.at_s + max(0.0, ev.time_left_s - GO_AWAY_MARGIN_S)))
    return s._replace(rotation_due=True)


def go_away_deadline(p: Policy, s: State, ev: e.GoAwayDeadline, do: Do) -> State:
    """Quiet or not. A reply that is being heard was received long before, or is lost with the connection."""
    return _rotate(s, ev.at_s, do) if s.rotation_due and s.link is Link.UP else s


# --- tools


def tool_requested(p: Policy, s: State, ev: e.ToolRequested, do: Do) -> State:
    if any(t.call_id == ev.call_id for t in s.tools):
        return s  # the same request again: one run
    tool = RunningTool(ev.call_id, ev.policy, ev.silent, ev.filler_after_s, ev.limit_s)
    s = s._replace(tools=(*s.tools, tool), asked_tool=True)
    do(c.RunTool(ev.call_id))
    if s.phase is Phase.SPEAKING and not _all_complete(s):  # the filler's time counts from the end of playback
        do(c.SetTimer(e.PlayoutTimeout, max(ev.at_s, _overdue_s(s))))
    if s.phase is Phase.THINKING or (s.phase is Phase.LISTENING and not s.caller_speaking and not s.activity):
        return _think(p, s, ev.at_s, do)
    return s


def tool_before_stream(p: Policy, s: State, ev: e.ToolRequested, do: Do) -> State:
    """Nothing is done for a caller who is not there."""
    do(c.CancelTool(ev.call_id))
    return s


def _find_tool(s: State, call_id: str) -> RunningTool | None:
    return next((t for t in s.tools if t.call_id == call_id), None)


def tool_finished(p: Policy, s: State, ev: e.ToolFinished, do: Do) -> State:
    tool = _find_tool(s, ev.call_id)
    if tool is None:
        return s  # cancelled before: its result is dropped
    s = s._replace(tools=tuple(t for t in s.tools if t is not tool))
    scheduling = _scheduling(s, tool)
    do(c.AnswerTool(ev.call_id, ev.outcome, scheduling))
    return _after_tool(p, s, ev.at_s, do, spoken_of=scheduling not in (None, c.Scheduling.SILENT))


def _after_tool(p: Policy, s: State, at_s: float, do: Do, *, spoken_of: bool) -> State:
    if s.phase is not Phase.THINKING or _awaited(s):
        return s
    do(c.StopTimer(e.FillerDue))
    # A tool that is not spoken of changes nothing: either the caller was answered, or still waits for it.
    return _think(p, s, at_s, do) if spoken_of or not s.answered else _listen(p, s, at_s, do)


def _scheduling(s: State, tool: RunningTool) -> c.Scheduling | None:
    """When the model speaks of a result: at once if nobody speaks, else when there is room; withdrawn: never."""
    if tool.withdrawn:
        return None
    if tool.silent or (s.ending is not None and s.answered):  # the goodbye is said, or being said
        return c.Scheduling.SILENT
    if s.phase in (Phase.THINKING, Phase.CLOSING):
        return c.Scheduling.INTERRUPT
    if s.phase is Phase.LISTENING and not s.caller_speaking and not s.activity:
        return c.Scheduling.INTERRUPT
    return c.Scheduling.WHEN_IDLE


def tool_withdrawn(p: Policy, s: State, ev: e.ToolWithdrawn, do: Do) -> State:
    """The model does not want the result: a run that yields is cancelled, one that must finish is not told of."""
    tool = _find_tool(s, ev.call_id)
    if tool is None or tool.withdrawn:
        return s
    if tool.policy is e.ToolPolicy.FINISH:
        s = s._replace(tools=tuple(t._replace(withdrawn=True) if t is tool else t for t in s.tools))
    else:
        do(c.CancelTool(tool.call_id))
        s = s._replace(tools=tuple(t for t in s.tools if t is not tool))
    return _after_tool(p, s, ev.at_s, do, spoken_of=False)


def filler_due(p: Policy, s: State, ev: e.FillerDue, do: Do) -> State:
    """For the tool that asked for it first; again after as much silence as an idle caller gets."""
    tool = next((t for t in _awaited(s) if t.filler_after_s is not None), None)
    if tool is None:
        return s
    do(c.PlayFiller(tool.call_id))
    filled = tool._replace(filler_after_s=p.idle_prompt_s or None)
    return s._replace(tools=tuple(filled if t is tool else t for t in s.tools))


# --- the end of the call


def idle(p: Policy, s: State, ev: e.IdleTimeout, do: Do) -> State:
    if s.caller_speaking or s.activity:
        return s
    if s.link is not Link.UP:
        return _listen(p, s, ev.at_s, do)
    if p.idle_prompt_s and not s.idle_prompted:
        do(c.AskModel(c.Prompt.IDLE))
        return _think(p, s._replace(idle_prompted=True), ev.at_s, do)
    do(c.AskModel(c.Prompt.IDLE_GOODBYE))
    do(c.SetTimer(e.GoodbyeTimeout, ev.at_s + GOODBYE_START_S))
    return s._replace(phase=Phase.CLOSING, ending=Ending.CALLER_IDLE)


def end_requested_connecting(p: Policy, s: State, ev: e.EndRequested, do: Do) -> State:
    return _end(s, ev.ending, ev.at_s, do)


def end_requested(p: Policy, s: State, ev: e.EndRequested, do: Do) -> State:
    """The first reason stands, unless the gateway has one of its own: that cannot be talked away.

    A tool that was called off has no say: its thread may not have noticed yet.
    """
    if s.ending is not None and ev.ending in YIELDING:
        return s
    if ev.call_id and _find_tool(s, ev.call_id) is None:
        return s
    return _close(p, s, ev.ending, ev.at_s, do)


def _close(p: Policy, s: State, ending: Ending, at_s: float, do: Do) -> State:
    """End once what is being said has been heard; where a goodbye is due and unsaid, give it time to begin."""
    if s.phase is Phase.HELD:
        return s._replace(ending=ending)  # the verdict comes first
    if s.ledger.replies and s.phase in (Phase.SPEAKING, Phase.CLOSING):
        wait_s = _goodbye_s(s.ledger, at_s)
    elif ending in YIELDING and s.link is Link.UP:
        wait_s = GOODBYE_PAUSE_S if s.answered and not s.caller_speaking else GOODBYE_START_S
    else:
        return _end(s, ending, at_s, do)
    for timer in (e.ModelSilent, e.IdleTimeout, e.FillerDue):
        do(c.StopTimer(timer))
    s = s._replace(phase=Phase.CLOSING, ending=ending)
    if s.caller_speaking and not s.ledger.replies:
        return _linger(p, s, at_s, do)
    do(c.SetTimer(e.GoodbyeTimeout, at_s + wait_s))
    return s


def _goodbye_s(ledger: lg.Ledger, at_s: float) -> float:
    """How long what is being said may take."""
    return max(GOODBYE_MAX_S, lg.ends_at_s(ledger) - at_s + PLAYOUT_GRACE_S)


def _linger(p: Policy, s: State, at_s: float, do: Do) -> State:
    """The caller speaks before the line is dropped. A word of thanks ends nothing; who goes on has the word."""
    do(c.SetTimer(e.BargeInLasted, max(at_s, _lasted_s(p, s))))
    do(c.SetTimer(e.GoodbyeTimeout, max(at_s, _lasted_s(p, s)) + GOODBYE_START_S))
    return s._replace(phase=Phase.CLOSING)


def _stay(s: State, do: Do) -> State:
    """The call goes on after all."""
    do(c.StopTimer(e.GoodbyeTimeout))
    return s._replace(ending=None, answered=False, owed=True)


def lasted_closing(p: Policy, s: State, ev: e.BargeInLasted, do: Do) -> State:
    if s.ledger.replies:
        return lasted_over_agent(p, s, ev, do)
    if not s.caller_speaking or s.ending not in YIELDING:
        return s
    return _callers_word(p, _stay(s, do), ev.at_s, do)


def speech_ended_closing(p: Policy, s: State, ev: e.CallerSpeechEnded, do: Do) -> State:
    lasted = ev.offset_s - s.onset_s >= p.min_barge_in_s
    s = speech_ended_over_agent(p, s, ev, do)
    if s.ledger.replies or s.ending not in YIELDING:
        return s
    if not lasted:
        do(c.SetTimer(e.GoodbyeTimeout, ev.at_s + (GOODBYE_PAUSE_S if s.answered else GOODBYE_START_S)))
        return s
    return _yield_word(p, _open_turn(p, _stay(s, do), ev.at_s, do), ev.at_s, do)


def goodbye_timeout(p: Policy, s: State, ev: e.GoodbyeTimeout, do: Do) -> State:
    return _end(s, s.ending or Ending.AGENT_HUNG_UP, ev.at_s, do)


def time_warning(p: Policy, s: State, ev: e.TimeWarning, do: Do) -> State:
    """In a quiet moment, or behind a reply that is all there: a text in mid-reply would cut it short."""
    if s.phase not in (Phase.LISTENING, Phase.SPEAKING) or not _may_rotate(s) or not _all_complete(s):
        do(c.SetTimer(e.TimeWarning, ev.at_s + WARN_AGAIN_S))
        return s
    do(c.AskModel(c.Prompt.TIME_WARNING))
    return _think(p, s, ev.at_s, do) if s.phase is Phase.LISTENING else s._replace(owed=True)


def time_limit(p: Policy, s: State, ev: e.TimeLimit, do: Do) -> State:
    return _close(p, s, Ending.TIME_LIMIT, ev.at_s, do)


# --- the table

# What means the same wherever the stream is up.
_COMMON: dict[type[e.Event], Handler] = {
    e.StreamStarted: ignore,  # a second start: the stream is up already
    e.StreamStopped: stream_stopped,
    e.StreamLost: stream_lost,
    e.ClearAcknowledged: clear_acknowledged,
    e.ClearTimeout: clear_timeout,
    e.ModelReady: model_ready,
    e.ModelDown: model_down,
    e.ModelFailed: model_failed,
    e.ConnectTimeout: connect_timeout,
    e.GoAway: go_away,
    e.GoAwayDeadline: go_away_deadline,
    e.ToolRequested: tool_requested,
    e.ToolFinished: tool_finished,
    e.ToolWithdrawn: tool_withdrawn,
    e.EndRequested: end_requested,
    e.EndpointTimeout: endpoint,
    e.TimeWarning: time_warning,
    e.TimeLimit: time_limit,
    e.TurnComplete: turn_complete,
    # While the agent is heard, the words it answers may still be written down.
    e.CallerTranscribed: ignore,
    # Timers of other phases may fire once more while they are being stopped.
    e.VerdictTimeout: ignore,
    e.BargeInLasted: ignore,
    e.ModelSilent: ignore,
    e.FillerDue: ignore,
    e.IdleTimeout: ignore,
    e.GoodbyeTimeout: ignore,
    e.PlayoutTimeout: ignore,
}

_AGENT_SILENT: dict[type[e.Event], Handler] = {
    **_COMMON,
    e.CallerSpeechStarted: speech_started,
    e.CallerSpeechEnded: speech_ended,
    e.CallerTranscribed: caller_transcribed,
    e.ModelInterrupted: interrupted,
    e.ReplyAudio: reply_begins,
    e.ReplyComplete: complete_after_stall,
    e.MarkReturned: ignore,  # all that was sent has been heard
}

TABLE: dict[Phase, dict[type[e.Event], Handler]] = {
    Phase.CONNECTING: {
        **dict.fromkeys((*_COMMON, e.CallerSpeechStarted, e.CallerSpeechEnded), ignore),
        **dict.fromkeys((e.ModelInterrupted, e.ReplyComplete, e.MarkReturned, e.DigitPressed), ignore),
        e.StreamStarted: stream_started,
        e.StreamStopped: stream_stopped,
        e.StreamLost: stream_never_started,
        e.ModelReady: model_ready_connecting,
        e.ModelDown: model_down_connecting,
        e.ModelFailed: model_failed_connecting,
        e.ReplyAudio: reply_before_stream,
        e.ToolRequested: tool_before_stream,
        e.GoAway: go_away,
        e.GoAwayDeadline: go_away_deadline,
        e.EndRequested: end_requested_connecting,
    },
    Phase.LISTENING: {
        **_AGENT_SILENT,
        e.TurnComplete: turn_complete_listening,
        e.IdleTimeout: idle,
        e.DigitPressed: digit_listening,
    },
    Phase.THINKING: {
        **_AGENT_SILENT,
        e.CallerSpeechEnded: ignore,  # whoever speaks has the word: LISTENING
        e.EndpointTimeout: ignore,
        e.TurnComplete: turn_complete_thinking,
        e.ModelSilent: model_silent,
        e.FillerDue: filler_due,
        e.DigitPressed: digit_thinking,
    },
    Phase.SPEAKING: {
        **_COMMON,
        e.CallerSpeechStarted: speech_over_agent,
        e.CallerSpeechEnded: speech_ended_over_agent,
        e.ModelInterrupted: interrupted_over_agent,
        e.BargeInLasted: lasted_over_agent,
        e.ReplyAudio: reply_goes_on,
        e.ReplyComplete: reply_complete,
        e.MarkReturned: mark_returned,
        e.PlayoutTimeout: playout_timeout,
        e.DigitPressed: digit_over_agent,
    },
    Phase.HELD: {
        **_COMMON,
        e.CallerSpeechStarted: speech_while_held,
        e.CallerSpeechEnded: speech_ended_held,
        e.ModelInterrupted: interrupted_held,
        e.BargeInLasted: lasted_held,
        e.VerdictTimeout: verdict_timeout,
        e.ReplyAudio: reply_while_held,
        e.ReplyComplete: complete_while_held,
        e.TurnComplete: turn_complete_held,
        e.MarkReturned: ignore,  # an echo from before the clear proves nothing; there are no others
        e.DigitPressed: digit_over_agent,
    },
    Phase.STOPPING: {
        **_COMMON,
        e.CallerSpeechStarted: speech_while_stopping,
        e.CallerSpeechEnded: speech_ended_stopping,
        e.ModelInterrupted: interrupted,
        e.ReplyAudio: reply_begins,
        e.ReplyComplete: ignore,
        e.MarkReturned: ignore,
        e.ClearAcknowledged: stopping_acknowledged,
        e.ClearTimeout: stopping_timeout,
        e.DigitPressed: ignore,
    },
    Phase.CLOSING: {
        **_COMMON,
        e.CallerSpeechStarted: speech_while_closing,
        e.CallerSpeechEnded: speech_ended_closing,
        e.ModelInterrupted: interrupted_closing,
        e.BargeInLasted: lasted_closing,
        e.ReplyAudio: reply_while_closing,
        e.ReplyComplete: reply_complete,
        e.MarkReturned: mark_returned,
        e.PlayoutTimeout: playout_timeout,
        e.DigitPressed: digit_over_agent,
        e.GoodbyeTimeout: goodbye_timeout,
    },
    Phase.ENDED: dict.fromkeys((*_COMMON, *_AGENT_SILENT, e.DigitPressed), ignore),
}

EVENTS: tuple[type[e.Event], ...] = tuple(TABLE[Phase.LISTENING])
