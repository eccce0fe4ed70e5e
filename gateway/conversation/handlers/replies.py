"""The agent's replies: audio received, sent, heard."""

from __future__ import annotations

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation import ledger as lg
from offhook.gateway.conversation.handlers.barge_in import suspect_barge_in
from offhook.gateway.conversation.handlers.floor import (
    GOODBYE_MAX_S,
    PLAYOUT_GRACE_S,
    Do,
    after_barge_in,
    awaited_tools,
    caller_has_floor,
    close_heard_replies,
    complete,
    listen,
    may_interrupt,
    playback_finished,
    playback_overdue_s,
    send_audio,
    settle,
    think,
    watch_s,
)
from offhook.gateway.conversation.handlers.link import strike
from offhook.gateway.conversation.state import Link, Phase, Policy, State

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


def mark_returned(p: Policy, s: State, ev: e.MarkReturned, do: Do) -> State:
    ledger = lg.mark_returned(s.ledger, ev.generation, ev.sample, ev.epoch, ev.at_s)
    if ledger is s.ledger:
        return s
    return settle(p, s.with_ledger(ledger), ev.at_s, do)


def playout_timeout(p: Policy, s: State, ev: e.PlayoutTimeout, do: Do) -> State:
    """The marks or the rest of the reply did not come: by the clock the caller has heard what there was."""
    overdue_s = playback_overdue_s(s)
    if ev.at_s < overdue_s:  # more has come since
        do(c.SetTimer(e.PlayoutTimeout, overdue_s))
        return s
    s = close_heard_replies(p, s, *lg.settle(s.ledger, ev.at_s), ev.at_s, do)
    if not s.ledger.replies or s.ending is not None:
        return playback_finished(p, s, ev.at_s, do)
    # The model stopped in mid-reply. What it still brings is played; until then it counts as silent.
    if s.muted:
        do(c.MuteCaller(False))
        s = s._replace(muted=False)
    if s.caller_speaking or s.activity:
        return caller_has_floor(p, s, ev.at_s, do)
    return think(p, s, ev.at_s, do)


def clear_acknowledged(p: Policy, s: State, ev: e.ClearAcknowledged, do: Do) -> State:
    if ev.epoch != s.ledger.epoch:
        return s
    do(c.StopTimer(e.ClearTimeout))
    return s._replace(ledger=lg.acknowledge_clear(s.ledger, ev.epoch, ev.at_s), acknowledged=True)


def stopping_acknowledged(p: Policy, s: State, ev: e.ClearAcknowledged, do: Do) -> State:
    s = clear_acknowledged(p, s, ev, do)
    return after_barge_in(p, s, ev.at_s, do) if s.acknowledged else s


def clear_timeout(p: Policy, s: State, ev: e.ClearTimeout, do: Do) -> State:
    """The carrier did not answer; its queue was emptied all the same, or the stream is dead."""
    return s._replace(acknowledged=True)


def stopping_timeout(p: Policy, s: State, ev: e.ClearTimeout, do: Do) -> State:
    return after_barge_in(p, s._replace(acknowledged=True), ev.at_s, do)


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
    if s.caller_speaking and may_interrupt(p, s):
        if at_s - s.onset_s < p.min_barge_in_s or s.activity:
            return suspect_barge_in(p, s, at_s, do)
        do(c.SetTimer(e.BargeInLasted, at_s + watch_s(p)))
    ledger = send_audio(s.ledger, at_s, do)
    s = s._replace(phase=Phase.SPEAKING if s.ending is None else Phase.CLOSING, ledger=ledger)
    # Early while more comes: it is moved when it fires, and need not be for every chunk.
    do(c.SetTimer(e.PlayoutTimeout, min(playback_overdue_s(s), lg.ends_at_s(ledger) + PLAYOUT_GRACE_S)))
    return s


def reply_begins(p: Policy, s: State, ev: e.ReplyAudio, do: Do) -> State:
    """From silence. In STOPPING, too: the carrier's queue was emptied before this can reach it."""
    if _is_dead(s, ev, do):
        return s
    return _begin(p, _taken(s, ev, _received(s, ev), do), ev.at_s, do)


def reply_goes_on(p: Policy, s: State, ev: e.ReplyAudio, do: Do) -> State:
    if _is_dead(s, ev, do):
        return s
    return _taken(s, ev, send_audio(_received(s, ev), ev.at_s, do), do)


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
    return complete(p, s, ev.generation, ev.at_s, do)


def complete_while_held(p: Policy, s: State, ev: e.ReplyComplete, do: Do) -> State:
    return s._replace(ledger=lg.complete(s.ledger, ev.generation, only=True))


def complete_after_stall(p: Policy, s: State, ev: e.ReplyComplete, do: Do) -> State:
    return _over_after_stall(p, s, lg.complete(s.ledger, ev.generation, only=True), ev.at_s, do)


def _over_after_stall(p: Policy, s: State, ledger: lg.Ledger, at_s: float, do: Do) -> State:
    """The reply that broke off was at its end after all, and has been heard."""
    if not s.ledger.replies:
        return s
    s = close_heard_replies(p, s, *lg.settle(ledger, at_s), at_s, do)
    if s.phase is Phase.THINKING and s.answered and not s.ledger.replies and not awaited_tools(s):
        return listen(p, s, at_s, do)
    return s


def turn_complete(p: Policy, s: State, ev: e.TurnComplete, do: Do) -> State:
    """A turn's end, without `generationComplete` too, completes its replies."""
    s = s._replace(asked_tool=False)
    for reply in s.ledger.replies:
        if reply.generation <= ev.generation:
            s = complete(p, s, reply.generation, ev.at_s, do)
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
    return think(p, s, ev.at_s, do) if s.phase is Phase.LISTENING else s._replace(owed=True)


def turn_complete_held(p: Policy, s: State, ev: e.TurnComplete, do: Do) -> State:
    return s._replace(asked_tool=False, ledger=lg.complete(s.ledger, ev.generation))


def turn_complete_listening(p: Policy, s: State, ev: e.TurnComplete, do: Do) -> State:
    s = _over_after_stall(p, s._replace(asked_tool=False), lg.complete(s.ledger, ev.generation), ev.at_s, do)
    return _ask_on(p, s, ev, do)


def turn_complete_thinking(p: Policy, s: State, ev: e.TurnComplete, do: Do) -> State:
    """A turn without audio where one was due: ask once, at once."""
    empty = ev.generation > max(s.dead, s.newest) and not s.asked_tool and not awaited_tools(s)
    s = turn_complete_listening(p, s, ev, do)
    if not empty or s.phase is not Phase.THINKING:
        return s
    s = s._replace(newest=ev.generation)
    return s if s.strikes else strike(p, s, ev.at_s, do)
