"""The agent's replies: audio received, sent, heard."""

from __future__ import annotations

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation import ledger as lg
from offhook.gateway.conversation.handlers.barge_in import suspect_barge_in
from offhook.gateway.conversation.handlers.closing import last_words_heard
from offhook.gateway.conversation.handlers.floor import (
    GOODBYE_MAX_S,
    Emit,
    after_barge_in,
    awaited_tools,
    caller_has_floor,
    close_heard_replies,
    complete,
    listen,
    may_interrupt,
    model_replied,
    playback_finished,
    playback_overdue_s,
    send_audio,
    settle,
    silent_since_s,
    think,
    watch_playout,
    watch_s,
)
from offhook.gateway.conversation.handlers.link import strike
from offhook.gateway.conversation.state import LineState, Link, Phase, Policy, State
from offhook.gateway.conversation.units import PLAYOUT_GRACE_S

__all__ = [
    "clear_acknowledged",
    "clear_timeout",
    "complete_after_stall",
    "complete_while_held",
    "mark_returned",
    "playout_timeout",
    "reply_before_stream",
    "reply_begins",
    "reply_complete",
    "reply_goes_on",
    "reply_while_closing",
    "reply_while_held",
    "stopping_acknowledged",
    "stopping_timeout",
    "turn_complete",
    "turn_complete_held",
    "turn_complete_listening",
    "turn_complete_thinking",
]


def mark_returned(p: Policy, s: State, ev: e.MarkReturned, emit: Emit) -> State:
    ledger = lg.mark_returned(s.ledger, ev.generation, ev.sample, ev.epoch, ev.at_s - ev.late_s)
    if ledger is s.ledger:
        return s
    return settle(p, s.with_ledger(ledger), ev.at_s, emit)


def playout_timeout(p: Policy, s: State, ev: e.PlayoutTimeout, emit: Emit) -> State:
    """The marks or the rest of the reply did not come: by the clock the caller has heard what there was."""
    if s.line is LineState.AWAY:
        return s  # nothing plays
    overdue_s = playback_overdue_s(p, s)
    if ev.at_s < overdue_s:  # more has come since
        emit(c.SetTimer(e.PlayoutTimeout, overdue_s))
        return s
    s = close_heard_replies(p, s, *lg.settle(s.ledger, ev.at_s), ev.at_s, emit)
    if not s.ledger.replies or s.ending is not None:
        return playback_finished(p, s, ev.at_s, emit)
    # The model stopped in mid-reply. What it still brings is played; until then it counts as silent.
    if s.caller.speaking or s.caller.turn_open:
        return caller_has_floor(p, s, ev.at_s, emit)
    quiet_s = silent_since_s(s, ev.at_s)
    if s.due.since_s is None and not awaited_tools(s):
        s = s.with_due(since_s=quiet_s)
    return think(p, s, ev.at_s, emit, quiet_s=quiet_s)


def clear_acknowledged(p: Policy, s: State, ev: e.ClearAcknowledged, emit: Emit) -> State:
    if ev.epoch != s.ledger.epoch:
        return s
    emit(c.StopTimer(e.ClearTimeout))
    return s.with_ledger(lg.acknowledge_clear(s.ledger, ev.epoch, ev.at_s))


def stopping_acknowledged(p: Policy, s: State, ev: e.ClearAcknowledged, emit: Emit) -> State:
    s = clear_acknowledged(p, s, ev, emit)
    return after_barge_in(p, s, ev.at_s, emit) if not s.ledger.clear_pending else s


def clear_timeout(p: Policy, s: State, ev: e.ClearTimeout, emit: Emit) -> State:
    """The line did not confirm; its queue was emptied all the same, or the stream is dead."""
    return s.with_ledger(s.ledger._replace(clear_pending=False))


def stopping_timeout(p: Policy, s: State, ev: e.ClearTimeout, emit: Emit) -> State:
    return after_barge_in(p, clear_timeout(p, s, ev, emit), ev.at_s, emit)


# --- the model's replies


def _is_dead(s: State, ev: e.ReplyAudio, emit: Emit) -> bool:
    if ev.generation > s.ledger.dead:
        return False
    emit(c.Drop(ev.generation))
    return True


def _received(p: Policy, s: State, ev: e.ReplyAudio) -> lg.Ledger:
    """The ledger with this audio. The call's first reply is its greeting. A filler is none: the newest reply stays what
    it was.
    """
    protected = p.greeting_protected and not s.greeted and not ev.filler
    ledger = lg.receive(s.ledger, ev.generation, ev.samples, ev.audible_sample, protected)
    return ledger._replace(newest=s.ledger.newest) if ev.filler else ledger


def _grown(p: Policy, s: State, ledger: lg.Ledger) -> State:
    """The state with this ledger, in which a reply has grown or begun; a filler leaves due what is due."""
    if ledger.newest > s.ledger.newest:
        greeted = s.greeted or p.greeting_protected
        return s._replace(ledger=ledger, due=s.due._replace(reply=False), greeted=greeted, agent_replied=True)
    return s.with_ledger(ledger)


def _begin(p: Policy, s: State, ev: e.ReplyAudio, emit: Emit) -> State:
    """The agent takes the floor. A caller who has just begun to speak may finish; to one who goes on it yields.

    Audio without a voice is no reply, nor is a filler: the model's silence goes on counting.
    """
    at_s = ev.at_s
    for timer in (e.IdleTimeout, e.FillerDue):
        emit(c.StopTimer(timer))
    if not ev.filler:
        emit(c.StopTimer(e.ModelSilent))
        s = s.with_due_anew(reply=False) if ev.audible_sample is not None else s.with_due(reply=False)
        s = s._replace(agent_replied=True)
    if s.caller.speaking and may_interrupt(p, s):
        if at_s - s.caller.onset_s < p.min_barge_in_s or s.caller.turn_open:
            return suspect_barge_in(p, s, at_s, emit)
        emit(c.SetTimer(e.BargeInLasted, at_s + watch_s(p)))
    ledger = send_audio(s, s.ledger, at_s, emit)
    s = s._replace(phase=Phase.SPEAKING if s.ending is None else Phase.CLOSING, ledger=ledger)
    # Early while more comes: it is moved when it fires, and need not be for every chunk.
    watch_playout(s, min(playback_overdue_s(p, s), lg.ends_at_s(ledger) + PLAYOUT_GRACE_S), emit)
    return s


def reply_begins(p: Policy, s: State, ev: e.ReplyAudio, emit: Emit) -> State:
    """From silence. In STOPPING, too: the line's queue was emptied before this can reach it."""
    if _is_dead(s, ev, emit):
        return s
    return _begin(p, _grown(p, s, _received(p, s, ev)), ev, emit)


def reply_goes_on(p: Policy, s: State, ev: e.ReplyAudio, emit: Emit) -> State:
    if _is_dead(s, ev, emit):
        return s
    if ev.audible_sample is not None and not ev.filler and s.due.since_s is not None:
        s = model_replied(s, emit)
    return _grown(p, s, send_audio(s, _received(p, s, ev), ev.at_s, emit))


def reply_while_held(p: Policy, s: State, ev: e.ReplyAudio, emit: Emit) -> State:
    """Kept, not played: the verdict decides."""
    if _is_dead(s, ev, emit):
        return s
    if ev.audible_sample is not None and not ev.filler and s.due.since_s is not None:
        s = model_replied(s, emit)
    return _grown(p, s, _received(p, s, ev))


def reply_while_closing(p: Policy, s: State, ev: e.ReplyAudio, emit: Emit) -> State:
    """The goodbye begins, or goes on."""
    if lg.is_audible(s.ledger, ev.at_s) or (s.line is LineState.AWAY and s.ledger.replies):
        return reply_goes_on(p, s, ev, emit)
    if _is_dead(s, ev, emit):
        return s
    emit(c.SetTimer(e.GoodbyeTimeout, ev.at_s + GOODBYE_MAX_S))
    return _begin(p, _grown(p, s, _received(p, s, ev)), ev, emit)


def reply_before_stream(p: Policy, s: State, ev: e.ReplyAudio, emit: Emit) -> State:
    """There is no caller yet, and later it would be out of place."""
    emit(c.Drop(ev.generation))
    return s.with_ledger(lg.kill(lg.saw(s.ledger, ev.generation), ev.generation))


def reply_complete(p: Policy, s: State, ev: e.ReplyComplete, emit: Emit) -> State:
    return complete(p, s, ev.generation, ev.at_s, emit)


def complete_while_held(p: Policy, s: State, ev: e.ReplyComplete, emit: Emit) -> State:
    return s._replace(ledger=lg.complete(s.ledger, ev.generation, only=True))


def complete_after_stall(p: Policy, s: State, ev: e.ReplyComplete, emit: Emit) -> State:
    return _over_after_stall(p, s, lg.complete(s.ledger, ev.generation, only=True), ev.at_s, emit)


def _over_after_stall(p: Policy, s: State, ledger: lg.Ledger, at_s: float, emit: Emit) -> State:
    """The reply that broke off was at its end after all, and has been heard."""
    if not s.ledger.replies:
        return s
    s = close_heard_replies(p, s, *lg.settle(ledger, at_s), at_s, emit)
    if s.phase is Phase.THINKING and s.agent_replied and not s.ledger.replies and not awaited_tools(s):
        return listen(p, s, at_s, emit)
    return s


def turn_complete(p: Policy, s: State, ev: e.TurnComplete, emit: Emit) -> State:
    """A turn's end, without `generationComplete` too, completes its replies."""
    s = s.with_due(tool_asked=False)
    for reply in s.ledger.replies:
        if reply.generation <= ev.generation:
            s = complete(p, s, reply.generation, ev.at_s, emit)
    return _turn_over(p, s, ev, emit)


def _turn_over(p: Policy, s: State, ev: e.TurnComplete, emit: Emit) -> State:
    """A reply that broke off in mid-sentence: ask for the rest, once; it comes after what is being heard."""
    if not ev.cut:
        if s.due.continuation_asked:
            s = s.with_due(continuation_asked=False)
        return last_words_heard(p, s, ev, emit)
    taken = s.caller.speaking or s.caller.turn_open or s.tools or not ev.generation == s.ledger.newest > s.ledger.dead
    quiet = s.phase in (Phase.LISTENING, Phase.SPEAKING) and s.link is Link.UP and not taken
    if s.due.continuation_asked or not quiet:
        return last_words_heard(p, s, ev, emit)
    emit(c.SendPrompt(c.Prompt.GO_ON))
    s = s.with_due(continuation_asked=True)
    return think(p, s, ev.at_s, emit) if s.phase is Phase.LISTENING else s.with_due(reply=True)


def turn_complete_held(p: Policy, s: State, ev: e.TurnComplete, emit: Emit) -> State:
    s = s._replace(ledger=lg.complete(s.ledger, ev.generation), due=s.due._replace(tool_asked=False))
    return last_words_heard(p, s, ev, emit)


def turn_complete_listening(p: Policy, s: State, ev: e.TurnComplete, emit: Emit) -> State:
    s = _over_after_stall(p, s.with_due(tool_asked=False), lg.complete(s.ledger, ev.generation), ev.at_s, emit)
    return _turn_over(p, s, ev, emit)


def turn_complete_thinking(p: Policy, s: State, ev: e.TurnComplete, emit: Emit) -> State:
    """A turn without audio where one was due: prompt once, at once."""
    empty = ev.generation > max(s.ledger.dead, s.ledger.newest) and not s.due.tool_asked and not awaited_tools(s)
    s = turn_complete_listening(p, s, ev, emit)
    if not empty or s.phase is not Phase.THINKING:
        return s
    s = s.with_ledger(lg.saw(s.ledger, ev.generation))
    return s if s.due.failed_prompts else strike(p, s, ev.at_s, emit)
