"""The line away and back: a stream is lost in mid-call, and another takes its place.

While the line is away the conversation goes on as far as the model is concerned. Nothing is sent to the line, and
no clock runs that counts playback or the caller's silence; the shell bounds the wait. A line that is back gets the
unheard part of each open reply, from where it was heard when the stream was lost.
"""

from __future__ import annotations

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation import ledger as lg
from offhook.gateway.conversation.handlers.floor import (
    Emit,
    after_barge_in,
    close_heard_replies,
    goodbye_s,
    listen,
    playback_finished,
    playback_overdue_s,
    send_audio,
    watch_playout,
    watch_silence,
)
from offhook.gateway.conversation.state import LineState, Phase, Policy, State

__all__ = ["away", "away_playing", "away_stopping", "back", "back_listening", "back_playing"]


def away(p: Policy, s: State, ev: e.LineAway, emit: Emit) -> State:
    """The far end's queue is lost, and with it the marks and the clear that it had not confirmed."""
    if s.line is LineState.AWAY:
        return s
    for timer in (e.PlayoutTimeout, e.IdleTimeout, e.FillerDue, e.ClearTimeout):
        emit(c.StopTimer(timer))
    return s._replace(line=LineState.AWAY, ledger=lg.lose_queue(s.ledger, ev.at_s))


def away_playing(p: Policy, s: State, ev: e.LineAway, emit: Emit) -> State:
    """A reply that was heard to its end, by the clock, is over: its last mark does not come any more."""
    s = away(p, s, ev, emit)
    ledger, over = lg.settle(s.ledger)
    if not over:
        return s
    s = close_heard_replies(p, s, ledger, over, ev.at_s, emit)
    return s if ledger.replies else playback_finished(p, s, ev.at_s, emit)


def away_stopping(p: Policy, s: State, ev: e.LineAway, emit: Emit) -> State:
    """Playback has stopped, with the stream."""
    return after_barge_in(p, away(p, s, ev, emit), ev.at_s, emit)


def back(p: Policy, s: State, ev: e.LineBack, emit: Emit) -> State:
    """Nothing is to be sent: the agent is silent, or the verdict on a barge-in decides."""
    if s.line is LineState.UP:
        return s
    s = s._replace(line=LineState.UP, quiet_s=ev.at_s)
    if s.phase is Phase.THINKING:
        watch_silence(p, s, ev.at_s, emit)
    return s


def back_listening(p: Policy, s: State, ev: e.LineBack, emit: Emit) -> State:
    """The caller can speak again: the idle clock starts anew."""
    if s.line is LineState.UP:
        return s
    s = s._replace(line=LineState.UP)
    return s if s.caller.speaking or s.caller.turn_open else listen(p, s, ev.at_s, emit)


def back_playing(p: Policy, s: State, ev: e.LineBack, emit: Emit) -> State:
    """Send what was not heard, with new marks: they resynchronise the ledger. The seam is faded in."""
    if s.line is LineState.UP:
        return s
    s = s._replace(line=LineState.UP)
    if not s.ledger.replies:
        return s
    s = s.with_ledger(send_audio(s, s.ledger, ev.at_s, emit, resumed=True))
    watch_playout(s, max(ev.at_s, playback_overdue_s(p, s)), emit)
    if s.phase is Phase.CLOSING:
        emit(c.SetTimer(e.GoodbyeTimeout, ev.at_s + goodbye_s(s.ledger, ev.at_s)))
    return s
