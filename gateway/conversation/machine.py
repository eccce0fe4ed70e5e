"""The conversation machine: `step(policy, state, event) -> (state, commands)`.

It decides everything about turns and does nothing itself. Time comes in with the event; a timer is a command,
its firing an event. The shell carries commands out at once and in order.

The theory in short. A **reply** is numbered (its generation) where it is made: a turn of the model, a greeting
from a file, a filler. Its audio is sent ahead; the ledger knows what was heard. When the caller speaks over the
agent (mode `hold`) the carrier's queue is emptied at once and the unheard tail kept (HELD) until a **verdict**:
the model says `interrupted`, or the caller goes on speaking: the reply is dead, and everything up to its number
is dropped wherever it turns up; or the caller falls silent and the model says nothing: the tail is played on.
Tool calls live beside the phases; each gets exactly one outcome. There is one way out: `End`, the last command.

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
GOODBYE_START_S: Final = 3.0  # a model that ends the call before its goodbye gets this long to begin it
GOODBYE_MAX_S: Final = 20.0  # and this long to finish
GO_AWAY_MARGIN_S: Final = 3.0  # changing connections takes part of the notice
GOODBYE_EXPECTED: Final = frozenset({Ending.AGENT_HUNG_UP, Ending.TRANSFERRED, Ending.CALLER_IDLE})

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


def _end(s: State, ending: Ending, do: Do) -> State:
    """The one way out: every tool call cancelled, every open reply accounted for, `End` last."""
    for tool in s.tools:
        do(c.CancelTool(tool.call_id))
    for reply in s.ledger.replies:
        cut = reply.heard < reply.received
        do(c.ReplyEnded(reply.generation, reply.received, reply.heard, cut))
    do(c.End(ending))
    return s._replace(
        phase=Phase.ENDED, ledger=s.ledger._replace(replies=()), tools=(), ending=ending, rotation_due=False
    )


def _end_heard(s: State, ending: Ending, at_s: float, do: Do) -> State:
    """As `_end`, with what the clock says was heard by now."""
    heard = tuple(r._replace(heard=lg.heard(s.ledger, r, at_s)) for r in s.ledger.replies)
    return _end(s._replace(ledger=s.ledger._replace(replies=heard)), ending, do)


def _send(s: State, at_s: float, do: Do, *, replay: bool = False) -> State:
    """Send everything at hand, with a mark every 300 ms and one behind the first voice of a reply."""
    ledger, spans = lg.place(s.ledger, at_s)
    for generation, start, end in spans:
        reply = lg.find(ledger, generation)
        assert reply is not None  # place() only names open replies
        marked = reply.marked
        first_voice = reply.audible if reply.audible is not None and start < reply.audible <= end else 0
        while start < end:
            if start < first_voice:
                stop = first_voice
            else:
                stop = min(end, start + MARK_EVERY)
            play = c.Replay if replay else c.Play
            do(play(generation, start, stop))
            replay = False  # only the seam is faded in
            if stop - marked >= MARK_EVERY or stop == first_voice:
                do(c.SendMark(generation, stop, ledger.epoch))
                marked = stop
            start = stop
        if reply.complete and marked < end:
            do(c.SendMark(generation, end, ledger.epoch))
            marked = end
        ledger = lg.replace_reply(ledger, reply._replace(marked=marked))
    if spans:
        do(c.SetTimer(e.PlayoutTimeout, _overdue_s(ledger)))
    return s._replace(ledger=ledger)


def _overdue_s(ledger: lg.Ledger) -> float:
    """When the end of playback, or more of the reply, is overdue."""
    grace = PLAYOUT_GRACE_S if all(r.complete for r in ledger.replies) else STALL_S
    return lg.ends_at_s(ledger) + grace


def _over(s: State, replies: list[lg.Reply], do: Do) -> None:
    for reply in replies:
        do(c.ReplyEnded(reply.generation, reply.received, reply.heard, False))


def _quiet(p: Policy, s: State, at_s: float, do: Do) -> State:
    """Nothing is to be heard of the agent any more: whose word is it now?"""
    do(c.StopTimer(e.PlayoutTimeout))
    if s.muted:
        do(c.MuteCaller(False))
        s = s._replace(muted=False)
    if s.ending is not None:
        return _end(s, s.ending, do)
    if s.caller_speaking:
        return s._replace(phase=Phase.LISTENING)
    if s.tools:
        return _think(p, s, at_s, do)
    return _listen(p, s, at_s, do)


def _listen(p: Policy, s: State, at_s: float, do: Do) -> State:
    """The caller's word, from now: the idle clock starts; a due change of connection happens now."""
    do(c.StopTimer(e.ModelSilent))
    if s.idle_prompted or not p.idle_prompt_s:
        if p.idle_goodbye_s:
            do(c.SetTimer(e.IdleTimeout, at_s + p.idle_goodbye_s))
    else:
        do(c.SetTimer(e.IdleTimeout, at_s + p.idle_prompt_s))
    s = s._replace(phase=Phase.LISTENING, strikes=0)
    return _rotate(s, do) if s.rotation_due and not s.activity else s


def _think(p: Policy, s: State, at_s: float, do: Do) -> State:
    """The model's word. While a tool runs, the tool's own limit bounds the wait; a filler may cover it."""
    do(c.StopTimer(e.IdleTimeout))
    if s.tools:
        do(c.StopTimer(e.ModelSilent))
        delays = [t.filler_after_s for t in s.tools if t.filler_after_s is not None]
        if delays:
            do(c.SetTimer(e.FillerDue, at_s + min(delays)))
    else:
        do(c.SetTimer(e.ModelSilent, at_s + p.silent_after_s))
    return s._replace(phase=Phase.THINKING)


def _rotate(s: State, do: Do) -> State:
    do(c.StopTimer(e.GoAwayDeadline))
    do(c.RotateModel())
    return s._replace(link=Link.DOWN, rotation_due=False)


def _stop_playback(s: State, at_s: float, do: Do) -> State:
    """Empty the carrier's queue; the clear is answered or bounded by a timer."""
    ledger = lg.clear(s.ledger, at_s)
    do(c.Clear(ledger.epoch))
    do(c.SetTimer(e.ClearTimeout, at_s + CLEAR_TIMEOUT_S))
    do(c.StopTimer(e.PlayoutTimeout))
    return s._replace(ledger=ledger, acknowledged=False)


def _confirm(p: Policy, s: State, at_s: float, verdict: c.Verdict, do: Do) -> State:
    """The caller has the word: everything up to the newest reply is dead, and tools that yield are cancelled."""
    for timer in (e.VerdictTimeout, e.BargeInLasted, e.GoodbyeTimeout, e.FillerDue):
        do(c.StopTimer(timer))
    first = s.ledger.replies[0].generation if s.ledger.replies else s.newest
    do(c.BargeIn(first, s.onset_s, verdict))
    for reply in s.ledger.replies:
        do(c.Drop(reply.generation))
        do(c.ReplyEnded(reply.generation, reply.received, reply.heard, reply.heard < reply.received))
    for reply in s.ledger.replies[:1]:
        if p.tell_heard and s.link is Link.UP and reply.heard < reply.received:
            do(c.TellHeard(reply.generation, reply.heard))
    kept = tuple(t for t in s.tools if t.policy is e.ToolPolicy.FINISH)
    for tool in s.tools:
        if tool not in kept:
            do(c.CancelTool(tool.call_id))
    s = s._replace(ledger=s.ledger._replace(replies=()), tools=kept, dead=max(s.dead, s.newest), answered=False)
    if s.ending is not None and s.ending not in GOODBYE_EXPECTED:
        return _end(s, s.ending, do)  # the gateway's own reason: the caller cannot talk it away
    s = s._replace(ending=None)
    if p.local_turns and not s.activity:
        do(c.ActivityStart())
        s = s._replace(activity=True)
    if not s.acknowledged:
        return s._replace(phase=Phase.STOPPING)
    return _yield_word(p, s, at_s, do)


def _yield_word(p: Policy, s: State, at_s: float, do: Do) -> State:
    """After a barge-in: the caller is still speaking, or has just stopped and wants an answer."""
    if s.caller_speaking or s.activity:
        if s.activity and not s.caller_speaking:
            do(c.SetTimer(e.EndpointTimeout, at_s + p.end_silence_s))
        return s._replace(phase=Phase.LISTENING)
    return _think(p, s, at_s, do)


def _may_interrupt(p: Policy, s: State) -> bool:
    """Whether the detector's word stops the agent now."""
    return p.mode in (Mode.HOLD, Mode.STOP) and not any(r.protected for r in s.ledger.replies)


def _barge_in(p: Policy, s: State, at_s: float, do: Do) -> State:
    """The caller's voice over the agent's: stop playback at once, then wait for the verdict (or not)."""
    s = _stop_playback(s, at_s, do)
    if p.mode is Mode.STOP:
        return _confirm(p, s, at_s, c.Verdict.CONFIRMED_LOCALLY, do)
    first = s.ledger.replies[0].generation if s.ledger.replies else s.newest
    do(c.BargeIn(first, s.onset_s, c.Verdict.SUSPECTED))
    do(c.SetTimer(e.BargeInLasted, max(at_s, s.onset_s + p.min_barge_in_s)))
    return s._replace(phase=Phase.HELD)


# --- the carrier


def stream_started(p: Policy, s: State, ev: e.StreamStarted, do: Do) -> State:
    if s.link is Link.FAILED:
        return _end(s, Ending.MODEL_UNREACHABLE, do)
    if p.call_limit_s:
        do(c.SetTimer(e.TimeLimit, ev.at_s + p.call_limit_s))
        if p.warning_s:
            do(c.SetTimer(e.TimeWarning, ev.at_s + p.call_limit_s - p.warning_s))
    if s.link is Link.DIALLING:
        do(c.SetTimer(e.ConnectTimeout, ev.at_s + p.connect_timeout_s))
    if p.greets is Greets.SOUND:
        do(c.PlayGreeting())
        return _think(p, s._replace(greeted=True), ev.at_s, do)
    return _greet(p, s, ev.at_s, do)


def _greet(p: Policy, s: State, at_s: float, do: Do) -> State:
    """Once stream and model are both there, the model greets, if it is to."""
    if p.greets is not Greets.MODEL or s.greeted:
        return _listen(p, s, at_s, do)
    if s.link is Link.UP:
        do(c.AskModel(c.Prompt.GREETING))
        s = s._replace(greeted=True)
    return _think(p, s, at_s, do)


def stream_stopped(p: Policy, s: State, ev: e.StreamStopped, do: Do) -> State:
    return _end_heard(s, Ending.CALLER_HUNG_UP, ev.at_s, do)


def stream_lost(p: Policy, s: State, ev: e.StreamLost, do: Do) -> State:
    ending = Ending.STREAM_NEVER_STARTED if s.phase is Phase.CONNECTING else Ending.STREAM_LOST
    return _end_heard(s, ending, ev.at_s, do)


def mark_returned(p: Policy, s: State, ev: e.MarkReturned, do: Do) -> State:
    s = s._replace(ledger=lg.mark_returned(s.ledger, ev.generation, ev.sample, ev.epoch, ev.at_s))
    return _settle(p, s, ev.at_s, do)


def _settle(p: Policy, s: State, at_s: float, do: Do) -> State:
    ledger, over = lg.settle(s.ledger)
    if not over:
        return s
    _over(s, over, do)
    s = s._replace(ledger=ledger)
    return s if ledger.replies else _quiet(p, s, at_s, do)


def mark_while_held(p: Policy, s: State, ev: e.MarkReturned, do: Do) -> State:
    """An echo from before the clear proves nothing; there are no others while playback is stopped."""
    return s


def playout_timeout(p: Policy, s: State, ev: e.PlayoutTimeout, do: Do) -> State:
    """The marks or the rest of the reply did not come: by the clock the caller has heard what there was."""
    ledger, over = lg.settle(s.ledger, ev.at_s)
    _over(s, over, do)
    s = s._replace(ledger=ledger)
    if not ledger.replies:
        return _quiet(p, s, ev.at_s, do)
    if lg.is_audible(ledger, ev.at_s):  # an early timer: the line was held up
        do(c.SetTimer(e.PlayoutTimeout, _overdue_s(ledger)))
        return s
    if s.ending is not None:
        return _quiet(p, s, ev.at_s, do)
    # The model stopped in mid-reply. What it still brings is played; until then it counts as silent.
    return s._replace(phase=Phase.LISTENING) if s.caller_speaking else _think(p, s, ev.at_s, do)


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
    return _listen(p, s._replace(idle_prompted=False), ev.at_s, do) if not s.caller_speaking else s


def digit_over_agent(p: Policy, s: State, ev: e.DigitPressed, do: Do) -> State:
    s = s._replace(idle_prompted=False)
    if not p.dtmf_barge_in or p.mode is Mode.OFF or any(r.protected for r in s.ledger.replies):
        return s
    if s.phase is not Phase.HELD:
        s = _stop_playback(s._replace(onset_s=ev.at_s), ev.at_s, do)
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_LOCALLY, do)


# --- the caller's voice


def _heard_speaking(s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    do(c.StopTimer(e.IdleTimeout))
    do(c.StopTimer(e.EndpointTimeout))
    return s._replace(caller_speaking=True, onset_s=ev.onset_s, idle_prompted=False)


def speech_started(p: Policy, s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    """The agent is silent: the caller's word."""
    s = _heard_speaking(s, ev, do)
    do(c.StopTimer(e.ModelSilent))
    do(c.StopTimer(e.FillerDue))
    if p.local_turns and not s.activity:
        do(c.ActivityStart())
        s = s._replace(activity=True)
    return s._replace(phase=Phase.LISTENING, answered=False)


def speech_over_agent(p: Policy, s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    s = _heard_speaking(s, ev, do)
    return _barge_in(p, s, ev.at_s, do) if _may_interrupt(p, s) else s


def speech_while_held(p: Policy, s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    """More of it before the verdict: count from this onset."""
    s = _heard_speaking(s, ev, do)
    do(c.StopTimer(e.VerdictTimeout))
    do(c.SetTimer(e.BargeInLasted, max(ev.at_s, ev.onset_s + p.min_barge_in_s)))
    return s


def speech_while_stopping(p: Policy, s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    return _heard_speaking(s, ev, do)


def speech_while_closing(p: Policy, s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    if s.ledger.replies:
        return speech_over_agent(p, s, ev, do)
    if s.ending not in GOODBYE_EXPECTED:
        return _heard_speaking(s, ev, do)
    # The goodbye has not begun: the caller has something to add.
    do(c.StopTimer(e.GoodbyeTimeout))
    return speech_started(p, s._replace(ending=None), ev, do)


def speech_ended(p: Policy, s: State, ev: e.CallerSpeechEnded, do: Do) -> State:
    """The caller's turn may be over: the model decides that, or the silence that follows."""
    spoke_s = ev.offset_s - s.onset_s
    s = s._replace(caller_speaking=False)
    if s.activity:
        do(c.SetTimer(e.EndpointTimeout, max(ev.at_s, ev.offset_s + p.end_silence_s)))
        return s
    # A cough is not a turn; for one the model may rightly stay silent.
    if spoke_s >= p.min_barge_in_s or s.tools:
        return _think(p, s, ev.at_s, do)
    return _listen(p, s, ev.at_s, do)


def speech_ended_elsewhere(p: Policy, s: State, ev: e.CallerSpeechEnded, do: Do) -> State:
    if s.activity:
        do(c.SetTimer(e.EndpointTimeout, max(ev.at_s, ev.offset_s + p.end_silence_s)))
    if s.phase is Phase.SPEAKING or s.phase is Phase.CLOSING:
        do(c.StopTimer(e.BargeInLasted))
    return s._replace(caller_speaking=False)


def speech_ended_held(p: Policy, s: State, ev: e.CallerSpeechEnded, do: Do) -> State:
    """Short: perhaps only an "uh-huh". The model gets a moment to say otherwise."""
    do(c.StopTimer(e.BargeInLasted))
    do(c.SetTimer(e.VerdictTimeout, max(ev.at_s, ev.offset_s + p.verdict_timeout_s)))
    return s._replace(caller_speaking=False)


def endpoint(p: Policy, s: State, ev: e.EndpointTimeout, do: Do) -> State:
    """Local turns: the caller's turn is over, the model is told so."""
    if not s.activity or s.caller_speaking:
        return s
    do(c.ActivityEnd())
    s = s._replace(activity=False)
    return _think(p, s, ev.at_s, do) if s.phase is Phase.LISTENING else s


def caller_transcribed(p: Policy, s: State, ev: e.CallerTranscribed, do: Do) -> State:
    """The model heard a turn that the detector missed or took for a cough."""
    if s.caller_speaking or s.answered or s.activity:
        return s
    return _think(p, s._replace(idle_prompted=False), ev.at_s, do)


# --- barge-in: the verdict


def interrupted_over_agent(p: Policy, s: State, ev: e.ModelInterrupted, do: Do) -> State:
    """The model heard the caller first (or, with mode `model`, alone)."""
    if ev.generation <= s.dead:
        return s
    s = s._replace(newest=max(s.newest, ev.generation))
    if p.mode is Mode.OFF or any(r.protected for r in s.ledger.replies):
        # It will bring no more of this reply; what there is of it is heard to its end.
        return _finish_reply(p, s, ev.generation, ev.at_s, do)
    if not s.ledger.replies:
        return interrupted(p, s, ev, do)
    onset_s = s.onset_s if s.caller_speaking else ev.at_s
    s = _stop_playback(s._replace(onset_s=onset_s), ev.at_s, do)
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_BY_MODEL, do)


def interrupted(p: Policy, s: State, ev: e.ModelInterrupted, do: Do) -> State:
    """Nothing of that turn is being heard: it is dead all the same, and so are the tools that yield."""
    if ev.generation <= s.dead:
        return s
    newest = max(s.newest, ev.generation)
    kept = tuple(t for t in s.tools if t.policy is e.ToolPolicy.FINISH)
    for tool in s.tools:
        if tool not in kept:
            do(c.CancelTool(tool.call_id))
    for reply in s.ledger.replies:  # stalled ones
        do(c.Drop(reply.generation))
        do(c.ReplyEnded(reply.generation, reply.received, reply.heard, reply.heard < reply.received))
    s = s._replace(ledger=s.ledger._replace(replies=()), newest=newest, dead=newest, tools=kept)
    return _think(p, s, ev.at_s, do) if s.phase is Phase.THINKING else s


def interrupted_held(p: Policy, s: State, ev: e.ModelInterrupted, do: Do) -> State:
    if ev.generation <= s.dead:
        return s
    s = s._replace(newest=max(s.newest, ev.generation))
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_BY_MODEL, do)


def interrupted_stopping(p: Policy, s: State, ev: e.ModelInterrupted, do: Do) -> State:
    newest = max(s.newest, ev.generation)
    return s._replace(newest=newest, dead=max(s.dead, ev.generation))


def lasted_held(p: Policy, s: State, ev: e.BargeInLasted, do: Do) -> State:
    if not s.caller_speaking:
        return s
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_LOCALLY, do)


def lasted_over_agent(p: Policy, s: State, ev: e.BargeInLasted, do: Do) -> State:
    """The caller was speaking when the agent began, and goes on: the agent yields."""
    if not s.caller_speaking or not _may_interrupt(p, s) or not s.ledger.replies:
        return s
    s = _stop_playback(s, ev.at_s, do)
    return _confirm(p, s, ev.at_s, c.Verdict.CONFIRMED_LOCALLY, do)


def verdict_timeout(p: Policy, s: State, ev: e.VerdictTimeout, do: Do) -> State:
    """Dismissed: play on from the first unheard sample."""
    if s.caller_speaking:
        return s
    first = s.ledger.replies[0].generation if s.ledger.replies else s.newest
    do(c.BargeIn(first, s.onset_s, c.Verdict.DISMISSED))
    s = s._replace(phase=Phase.CLOSING if s.ending is not None else Phase.SPEAKING)
    s = _send(s, ev.at_s, do, replay=True)
    s = _settle(p, s, ev.at_s, do)
    if s.phase is Phase.ENDED or s.phase is Phase.LISTENING or s.phase is Phase.THINKING:
        return s
    if not s.ledger.replies:
        return _quiet(p, s, ev.at_s, do)
    do(c.SetTimer(e.PlayoutTimeout, _overdue_s(s.ledger)))
    return s


# --- the model's replies


def _take(p: Policy, s: State, ev: e.ReplyAudio, do: Do) -> State | None:
    """The reply's ledger grows; None when it is dead."""
    if ev.generation <= s.dead:
        do(c.Drop(ev.generation))
        return None
    ledger = lg.receive(s.ledger, ev.generation, ev.samples, audible=ev.audible_sample, protected=ev.protected)
    s = s._replace(ledger=ledger, newest=max(s.newest, ev.generation))
    if ev.protected and not s.muted:
        do(c.MuteCaller(True))
        s = s._replace(muted=True)
    return s


def reply_begins(p: Policy, s: State, ev: e.ReplyAudio, do: Do) -> State:
    """The agent has the word."""
    taken = _take(p, s, ev, do)
    if taken is None:
        return s
    for timer in (e.ModelSilent, e.IdleTimeout, e.FillerDue):
        do(c.StopTimer(timer))
    s = taken._replace(phase=Phase.SPEAKING, answered=True, strikes=0)
    if s.caller_speaking and _may_interrupt(p, s):
        do(c.SetTimer(e.BargeInLasted, ev.at_s + p.min_barge_in_s))
    return _send(s, ev.at_s, do)


def reply_goes_on(p: Policy, s: State, ev: e.ReplyAudio, do: Do) -> State:
    taken = _take(p, s, ev, do)
    return s if taken is None else _send(taken, ev.at_s, do)


def reply_while_held(p: Policy, s: State, ev: e.ReplyAudio, do: Do) -> State:
    """Kept, not played: the verdict decides."""
    taken = _take(p, s, ev, do)
    return s if taken is None else taken


def reply_while_stopping(p: Policy, s: State, ev: e.ReplyAudio, do: Do) -> State:
    """A new reply before the carrier's word: its queue was emptied before this can reach it."""
    return reply_begins(p, s, ev, do)


def goodbye_begins(p: Policy, s: State, ev: e.ReplyAudio, do: Do) -> State:
    taken = _take(p, s, ev, do)
    if taken is None:
        return s
    do(c.StopTimer(e.ModelSilent))
    if not s.ledger.replies:
        do(c.SetTimer(e.GoodbyeTimeout, ev.at_s + GOODBYE_MAX_S))
    return _send(taken._replace(answered=True), ev.at_s, do)


def reply_complete(p: Policy, s: State, ev: e.ReplyComplete, do: Do) -> State:
    return _finish_reply(p, s, ev.generation, ev.at_s, do)


def _finish_reply(p: Policy, s: State, generation: int, at_s: float, do: Do) -> State:
    reply = lg.find(s.ledger, generation)
    if reply is None or reply.complete:
        return s
    ledger = lg.complete(s.ledger, generation)
    if reply.marked < reply.placed:
        do(c.SendMark(generation, reply.placed, ledger.epoch))
        ledger = lg.replace_reply(ledger, reply._replace(complete=True, marked=reply.placed))
    do(c.SetTimer(e.PlayoutTimeout, _overdue_s(ledger)))
    return _settle(p, s._replace(ledger=ledger), at_s, do)


def complete_while_held(p: Policy, s: State, ev: e.ReplyComplete, do: Do) -> State:
    return s._replace(ledger=lg.complete(s.ledger, ev.generation))


def turn_complete(p: Policy, s: State, ev: e.TurnComplete, do: Do) -> State:
    """A turn's end without `generationComplete` still completes its reply."""
    return _finish_reply(p, s, ev.generation, ev.at_s, do)


def turn_complete_held(p: Policy, s: State, ev: e.TurnComplete, do: Do) -> State:
    return s._replace(ledger=lg.complete(s.ledger, ev.generation))


def turn_complete_thinking(p: Policy, s: State, ev: e.TurnComplete, do: Do) -> State:
    """A turn without audio where one was due: ask once, at once."""
    if ev.generation <= max(s.dead, s.newest) or s.tools:
        return _finish_reply(p, s, ev.generation, ev.at_s, do)
    s = s._replace(newest=ev.generation)
    return s if s.strikes else _strike(p, s, ev.at_s, do)


def model_silent(p: Policy, s: State, ev: e.ModelSilent, do: Do) -> State:
    if s.tools:
        return s
    return _strike(p, s, ev.at_s, do)


def _strike(p: Policy, s: State, at_s: float, do: Do) -> State:
    """The model owes the caller a word: ask, then get a new connection, then give up."""
    s = s._replace(strikes=s.strikes + 1)
    if s.strikes > 2:
        return _end(s, Ending.MODEL_LOST, do)
    if s.link is Link.UP:
        if s.strikes == 1:
            do(c.AskModel(c.Prompt.NUDGE))
        else:
            do(c.ReconnectModel())
            s = s._replace(link=Link.DOWN)
    do(c.SetTimer(e.ModelSilent, at_s + p.silent_after_s))
    return s


# --- the model's link


def model_ready(p: Policy, s: State, ev: e.ModelReady, do: Do) -> State:
    first = s.link is Link.DIALLING
    do(c.StopTimer(e.ConnectTimeout))
    s = s._replace(link=Link.UP)
    if s.phase is Phase.CONNECTING:
        return s
    if first and not s.greeted and p.greets is Greets.MODEL:
        return _greet(p, s, ev.at_s, do)
    if s.phase is Phase.THINKING and not s.tools:
        do(c.SetTimer(e.ModelSilent, ev.at_s + p.silent_after_s))
    return s


def model_down(p: Policy, s: State, ev: e.ModelDown, do: Do) -> State:
    """No more of the present reply will come; what there is of it is heard to its end."""
    do(c.StopTimer(e.GoAwayDeadline))
    s = s._replace(link=Link.DOWN, rotation_due=False)
    if s.phase is Phase.HELD:
        return s._replace(ledger=lg.complete(s.ledger))
    for reply in s.ledger.replies:
        s = _finish_reply(p, s, reply.generation, ev.at_s, do)
    return s


def model_failed_connecting(p: Policy, s: State, ev: e.ModelFailed, do: Do) -> State:
    return s._replace(link=Link.FAILED)


def model_failed(p: Policy, s: State, ev: e.ModelFailed, do: Do) -> State:
    """The link has given up: what is at hand is heard, then the call ends."""
    ending = Ending.MODEL_UNREACHABLE if s.link is Link.DIALLING else Ending.MODEL_LOST
    s = model_down(p, s, e.ModelDown(ev.at_s), do)
    if s.phase is Phase.ENDED:
        return s
    s = s._replace(link=Link.FAILED)
    return _close(p, s, ending, ev.at_s, do)


def connect_timeout(p: Policy, s: State, ev: e.ConnectTimeout, do: Do) -> State:
    if s.link is not Link.DIALLING:
        return s
    return _end_heard(s, Ending.MODEL_UNREACHABLE, ev.at_s, do)


def go_away(p: Policy, s: State, ev: e.GoAway, do: Do) -> State:
    s = s._replace(rotation_due=True)
    do(c.SetTimer(e.GoAwayDeadline, ev.at_s + max(0.0, ev.time_left_s - GO_AWAY_MARGIN_S)))
    quiet = s.phase is Phase.LISTENING and not (s.caller_speaking or s.activity or s.tools)
    return _rotate(s, do) if quiet and s.link is Link.UP else s


def go_away_deadline(p: Policy, s: State, ev: e.GoAwayDeadline, do: Do) -> State:
    """Quiet or not. A reply that is being heard was received long before, or is lost with the connection."""
    return _rotate(s, do) if s.rotation_due and s.link is Link.UP else s._replace(rotation_due=False)


# --- tools


def tool_requested(p: Policy, s: State, ev: e.ToolRequested, do: Do) -> State:
    if any(t.call_id == ev.call_id for t in s.tools):
        return s  # the same request again: one run
    tool = RunningTool(ev.call_id, ev.policy, ev.silent, ev.filler_after_s)
    s = s._replace(tools=(*s.tools, tool))
    do(c.RunTool(ev.call_id))
    if s.phase is Phase.THINKING or (s.phase is Phase.LISTENING and not s.caller_speaking):
        return _think(p, s, ev.at_s, do)
    return s


def tool_finished(p: Policy, s: State, ev: e.ToolFinished, do: Do) -> State:
    tool = next((t for t in s.tools if t.call_id == ev.call_id), None)
    if tool is None:
        return s  # cancelled before: its result is dropped
    s = s._replace(tools=tuple(t for t in s.tools if t is not tool))
    do(c.AnswerTool(ev.call_id, ev.outcome, _scheduling(s, tool)))
    if s.phase is Phase.THINKING and not s.tools:
        do(c.StopTimer(e.FillerDue))
        if tool.silent or tool.withdrawn:
            return _listen(p, s, ev.at_s, do)
        return _think(p, s, ev.at_s, do)
    return s


def _scheduling(s: State, tool: RunningTool) -> c.Scheduling | None:
    """When the model speaks of a result: at once if nobody speaks, else when there is room; withdrawn: never."""
    if tool.withdrawn:
        return None
    if tool.silent or (s.ending is not None and (s.answered or s.ledger.replies)):
        return c.Scheduling.SILENT
    if s.phase is Phase.THINKING or s.phase is Phase.CLOSING:
        return c.Scheduling.INTERRUPT
    if s.phase is Phase.LISTENING and not s.caller_speaking and not s.activity:
        return c.Scheduling.INTERRUPT
    return c.Scheduling.WHEN_IDLE


def tool_withdrawn(p: Policy, s: State, ev: e.ToolWithdrawn, do: Do) -> State:
    """The model does not want the result: a run that yields is cancelled, one that must finish is not told of."""
    tool = next((t for t in s.tools if t.call_id == ev.call_id), None)
    if tool is None:
        return s
    if tool.policy is e.ToolPolicy.FINISH:
        withdrawn = tool._replace(withdrawn=True)
        return s._replace(tools=tuple(withdrawn if t is tool else t for t in s.tools))
    do(c.CancelTool(tool.call_id))
    s = s._replace(tools=tuple(t for t in s.tools if t is not tool))
    if s.phase is Phase.THINKING and not s.tools:
        do(c.StopTimer(e.FillerDue))
        return _think(p, s, ev.at_s, do)
    return s


def filler_due(p: Policy, s: State, ev: e.FillerDue, do: Do) -> State:
    """Once per tool call."""
    waiting = [t for t in s.tools if t.filler_after_s is not None]
    if not waiting:
        return s
    do(c.PlayFiller(waiting[0].call_id))
    filled = waiting[0]._replace(filler_after_s=None)
    return s._replace(tools=tuple(filled if t is waiting[0] else t for t in s.tools))


# --- the end of the call


def idle(p: Policy, s: State, ev: e.IdleTimeout, do: Do) -> State:
    if s.caller_speaking or s.link is not Link.UP:
        return _listen(p, s, ev.at_s, do) if not s.caller_speaking else s
    if p.idle_prompt_s and not s.idle_prompted:
        do(c.AskModel(c.Prompt.IDLE))
        return _think(p, s._replace(idle_prompted=True), ev.at_s, do)
    do(c.AskModel(c.Prompt.IDLE_GOODBYE))
    do(c.SetTimer(e.GoodbyeTimeout, ev.at_s + GOODBYE_START_S))
    return s._replace(phase=Phase.CLOSING, ending=Ending.CALLER_IDLE)


def end_requested_connecting(p: Policy, s: State, ev: e.EndRequested, do: Do) -> State:
    return _end(s, ev.ending, do)


def end_requested(p: Policy, s: State, ev: e.EndRequested, do: Do) -> State:
    return _close(p, s, ev.ending, ev.at_s, do)


def end_requested_again(p: Policy, s: State, ev: e.EndRequested, do: Do) -> State:
    """The gateway's own reason wins over the agent's."""
    return s._replace(ending=ev.ending) if ev.ending not in GOODBYE_EXPECTED else s


def _close(p: Policy, s: State, ending: Ending, at_s: float, do: Do) -> State:
    """End once what is being said has been heard; where a goodbye is due and unsaid, give it time to begin."""
    if s.phase is Phase.HELD:
        do(c.SetTimer(e.GoodbyeTimeout, at_s + GOODBYE_MAX_S))
        return s._replace(ending=ending)
    if s.ledger.replies and (lg.is_audible(s.ledger, at_s) or not _all_heard(s)):
        wait_s = GOODBYE_MAX_S
    elif ending in GOODBYE_EXPECTED and not s.answered and s.link is Link.UP:
        wait_s = GOODBYE_START_S
    else:
        return _end_heard(s, ending, at_s, do)
    for timer in (e.ModelSilent, e.IdleTimeout, e.FillerDue):
        do(c.StopTimer(timer))
    do(c.SetTimer(e.GoodbyeTimeout, at_s + wait_s))
    return s._replace(phase=Phase.CLOSING, ending=ending)


def _all_heard(s: State) -> bool:
    return all(r.heard >= r.received for r in s.ledger.replies)


def goodbye_timeout(p: Policy, s: State, ev: e.GoodbyeTimeout, do: Do) -> State:
    return _end_heard(s, s.ending or Ending.AGENT_HUNG_UP, ev.at_s, do)


def time_warning(p: Policy, s: State, ev: e.TimeWarning, do: Do) -> State:
    if s.link is Link.UP:
        do(c.AskModel(c.Prompt.TIME_WARNING))
    return s


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
    e.CallerTranscribed: ignore,
    e.TurnComplete: turn_complete,
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
    e.ReplyComplete: reply_complete,
    e.MarkReturned: mark_returned,
    e.DigitPressed: digit_listening,
}

TABLE: dict[Phase, dict[type[e.Event], Handler]] = {
    Phase.CONNECTING: {
        **dict.fromkeys((*_COMMON, e.CallerSpeechStarted, e.CallerSpeechEnded), ignore),
        **dict.fromkeys((e.ModelInterrupted, e.ReplyAudio, e.ReplyComplete, e.MarkReturned), ignore),
        e.DigitPressed: ignore,
        e.StreamStarted: stream_started,
        e.StreamStopped: stream_stopped,
        e.StreamLost: stream_lost,
        e.ModelReady: model_ready,
        e.ModelDown: model_down,
        e.ModelFailed: model_failed_connecting,
        e.GoAway: go_away,
        e.GoAwayDeadline: go_away_deadline,
        e.EndRequested: end_requested_connecting,
    },
    Phase.LISTENING: {
        **_AGENT_SILENT,
        e.IdleTimeout: idle,
    },
    Phase.THINKING: {
        **_AGENT_SILENT,
        e.TurnComplete: turn_complete_thinking,
        e.ModelSilent: model_silent,
        e.FillerDue: filler_due,
        e.DigitPressed: ignore,
    },
    Phase.SPEAKING: {
        **_COMMON,
        e.CallerSpeechStarted: speech_over_agent,
        e.CallerSpeechEnded: speech_ended_elsewhere,
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
        e.MarkReturned: mark_while_held,
        e.DigitPressed: digit_over_agent,
        e.GoodbyeTimeout: goodbye_timeout,
    },
    Phase.STOPPING: {
        **_COMMON,
        e.CallerSpeechStarted: speech_while_stopping,
        e.CallerSpeechEnded: speech_ended_elsewhere,
        e.ModelInterrupted: interrupted_stopping,
        e.ReplyAudio: reply_while_stopping,
        e.ReplyComplete: ignore,
        e.TurnComplete: ignore,
        e.MarkReturned: ignore,
        e.ClearAcknowledged: stopping_acknowledged,
        e.ClearTimeout: stopping_timeout,
        e.DigitPressed: ignore,
    },
    Phase.CLOSING: {
        **_COMMON,
        e.CallerSpeechStarted: speech_while_closing,
        e.CallerSpeechEnded: speech_ended_elsewhere,
        e.ModelInterrupted: interrupted_over_agent,
        e.BargeInLasted: lasted_over_agent,
        e.ReplyAudio: goodbye_begins,
        e.ReplyComplete: reply_complete,
        e.MarkReturned: mark_returned,
        e.PlayoutTimeout: playout_timeout,
        e.DigitPressed: digit_over_agent,
        e.EndRequested: end_requested_again,
        e.GoodbyeTimeout: goodbye_timeout,
        e.TimeWarning: ignore,
    },
    Phase.ENDED: dict.fromkeys((*_COMMON, *_AGENT_SILENT), ignore),
}

EVENTS: tuple[type[e.Event], ...] = tuple(TABLE[Phase.LISTENING])
