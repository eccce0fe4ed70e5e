"""Who may speak: what the handlers of every kind of event share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation import ledger as lg
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.state import Link, Mode, Phase, Policy, RunningTool, State

__all__ = [
    "CLEAR_TIMEOUT_S",
    "GOODBYE_MAX_S",
    "GOODBYE_PAUSE_S",
    "GOODBYE_START_S",
    "INTERRUPTIBLE_ENDINGS",
    "LINK_LOST_S",
    "MARK_EVERY",
    "PLAYOUT_GRACE_S",
    "SILENT_LEAST_S",
    "STALL_S",
    "Do",
    "Handler",
    "after_barge_in",
    "all_complete",
    "awaited_tools",
    "caller_has_floor",
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
    "open_turn",
    "playback_finished",
    "playback_overdue_s",
    "rotate",
    "send_audio",
    "settle",
    "think",
    "unmute",
    "wait_for_last_words",
    "was_sent",
    "watch_s",
]

MARK_EVERY: Final = 2_400  # samples, 300 ms: a mark is always outstanding, and few enough to cost nothing
CLEAR_TIMEOUT_S: Final = 1.0  # an answer takes a round trip; without one playback has long stopped
PLAYOUT_GRACE_S: Final = 2.0  # marks later than this behind the clock will not come
STALL_S: Final = 5.0  # a reply that was begun and brings nothing for this long is over for the caller
SILENT_LEAST_S: Final = 1.0  # the model's silence always has an end, whatever the policy says
LINK_LOST_S: Final = 40.0  # the link gives up by itself after half a minute; if even its word does not come
GOODBYE_START_S: Final = 3.0  # a model that ends the call before its goodbye gets this long to begin it
GOODBYE_PAUSE_S: Final = 1.0  # all was said and heard, it seems: nobody hangs up on the last syllable
GOODBYE_MAX_S: Final = 20.0  # and this long to finish
INTERRUPTIBLE_ENDINGS: Final = frozenset({Ending.AGENT_HUNG_UP, Ending.TRANSFERRED, Ending.CALLER_IDLE})
"""Endings with a goodbye, which the caller can talk away. The gateway's own reasons cannot be."""

Do = Callable[[c.Command], None]
Handler = Callable[[Policy, State, Any, Do], State]  # each takes the one event type it stands under


# --- small words the handlers share


def ignore(p: Policy, s: State, ev: e.Event, do: Do) -> State:
    """This event means nothing in this phase."""
    return s


def end_call(s: State, ending: Ending, at_s: float, do: Do) -> State:
    """The one way out: every tool call cancelled, every open reply accounted for, `End` last."""
    for tool in s.tools:
        do(c.CancelTool(tool.call_id))
    for reply in s.ledger.replies:
        heard = lg.heard(s.ledger, reply, at_s)
        do(c.ReplyEnded(reply.generation, reply.received, heard, heard < reply.received))
    do(c.End(ending))
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


def send_audio(ledger: lg.Ledger, at_s: float, do: Do, *, resumed: bool = False) -> lg.Ledger:
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


def playback_overdue_s(s: State) -> float:
    """When the end of playback, or more of the reply, is overdue."""
    grace_s = PLAYOUT_GRACE_S
    if not all_complete(s):
        # A turn that waits for its tool says no more until it has the result.
        grace_s = 0.0 if s.ending is None and awaited_tools(s) else STALL_S
    return lg.ends_at_s(s.ledger) + grace_s


def close_heard_replies(
    p: Policy, s: State, ledger: lg.Ledger, over: tuple[lg.Reply, ...], at_s: float, do: Do
) -> State:
    """These replies were heard to their end."""
    for reply in over:
        do(c.ReplyEnded(reply.generation, reply.received, reply.heard, False))
    return unmute(p, s._replace(ledger=ledger), at_s, do)


def unmute(p: Policy, s: State, at_s: float, do: Do) -> State:
    """Behind the last protected reply the model hears the caller again, and so does the agent."""
    if not s.muted or has_protected(s):
        return s
    do(c.MuteCaller(False))
    s = s._replace(muted=False)
    if s.ledger.replies and s.caller_speaking and may_interrupt(p, s):
        do(c.SetTimer(e.BargeInLasted, at_s + watch_s(p)))
    return s


def playback_finished(p: Policy, s: State, at_s: float, do: Do) -> State:
    """Nothing is to be heard of the agent any more: whose word is it now?"""
    do(c.StopTimer(e.PlayoutTimeout))
    if s.ending is not None:
        if (
            s.caller_speaking and s.ending in INTERRUPTIBLE_ENDINGS and s.link is not Link.FAILED
        ):  # thanks, or more to say?
            return wait_for_last_words(p, s, at_s, do)
        return end_call(s, s.ending, at_s, do)
    if s.caller_speaking:
        return caller_has_floor(p, s._replace(answered=False), at_s, do)
    if s.activity:
        return s._replace(phase=Phase.LISTENING)
    if s.owed or awaited_tools(s):
        return think(p, s, at_s, do)
    return listen(p, s, at_s, do)


def caller_has_floor(p: Policy, s: State, at_s: float, do: Do) -> State:
    """The caller is speaking, or about to say more; the agent is not."""
    return open_turn(p, s, at_s, do)._replace(phase=Phase.LISTENING)


def open_turn(p: Policy, s: State, at_s: float, do: Do) -> State:
    """Local turns: the model is told that the caller's turn has begun. One without a voice is soon over."""
    if not p.local_turns or s.activity:
        return s
    do(c.ActivityStart())
    if not s.caller_speaking:
        do(c.SetTimer(e.EndpointTimeout, at_s + p.end_silence_s))
    return s._replace(activity=True)


def listen(p: Policy, s: State, at_s: float, do: Do) -> State:
    """Nobody's word, from now: the idle clock starts; a due change of connection happens now."""
    do(c.StopTimer(e.ModelSilent))
    idle_s = p.idle_goodbye_s if s.idle_prompted or not p.idle_prompt_s else p.idle_prompt_s
    if idle_s:
        do(c.SetTimer(e.IdleTimeout, at_s + idle_s))
    s = s._replace(phase=Phase.LISTENING, strikes=0, owed=False)
    return rotate(s, at_s, do) if s.rotation_due and may_rotate(s) else s


def think(p: Policy, s: State, at_s: float, do: Do) -> State:
    """The model's word. While a tool runs, the tool's own limit bounds the wait; a filler may cover it."""
    do(c.StopTimer(e.IdleTimeout))
    tools = awaited_tools(s)
    if tools:
        do(c.SetTimer(e.ModelSilent, at_s + max(t.limit_s for t in tools)))
        delays = [t.filler_after_s for t in tools if t.filler_after_s is not None]
        if delays:
            do(c.SetTimer(e.FillerDue, at_s + min(delays)))
    else:
        do(c.SetTimer(e.ModelSilent, at_s + max(SILENT_LEAST_S, p.silent_after_s)))
    return s._replace(phase=Phase.THINKING, owed=True)


def lose_link(s: State, at_s: float, do: Do) -> State:
    """The link is being changed or got back; that, too, is bounded."""
    do(c.SetTimer(e.ConnectTimeout, at_s + LINK_LOST_S))
    return s._replace(link=Link.DOWN, rotation_due=False)


def may_rotate(s: State) -> bool:
    """A new connection knows nothing of a tool call that this one is waiting for."""
    return s.link is Link.UP and not (s.caller_speaking or s.activity or s.tools)


def rotate(s: State, at_s: float, do: Do) -> State:
    do(c.StopTimer(e.GoAwayDeadline))
    do(c.RotateModel())
    return lose_link(s, at_s, do)


# --- barge-in: the steps


def may_interrupt(p: Policy, s: State) -> bool:
    """Whether the detector's word stops the agent now."""
    return p.mode in (Mode.HOLD, Mode.STOP) and not has_protected(s)


def lasted_s(p: Policy, s: State) -> float:
    """When speech that began at the onset has lasted: a shorter one is known to be over by then."""
    return s.onset_s + p.min_barge_in_s + p.hangover_s


def watch_s(p: Policy) -> float:
    """How long a caller may speak into the agent's beginning; the end of a turn is known within the hangover."""
    return max(p.min_barge_in_s, p.hangover_s)


def after_barge_in(p: Policy, s: State, at_s: float, do: Do) -> State:
    """After a barge-in: the caller is still speaking, or has just stopped and wants an answer."""
    if s.caller_speaking or s.activity:
        return caller_has_floor(p, s, at_s, do)
    return think(p, s, at_s, do)


def settle(p: Policy, s: State, at_s: float, do: Do) -> State:
    ledger, over = lg.settle(s.ledger)
    if not over:
        return s
    s = close_heard_replies(p, s, ledger, over, at_s, do)
    return s if ledger.replies else playback_finished(p, s, at_s, do)


# --- the caller's voice


def heard_speaking(s: State, ev: e.CallerSpeechStarted, do: Do) -> State:
    do(c.StopTimer(e.IdleTimeout))
    do(c.StopTimer(e.EndpointTimeout))
    return s._replace(caller_speaking=True, onset_s=ev.onset_s, idle_prompted=False)


def heard_silence(p: Policy, s: State, ev: e.CallerSpeechEnded, do: Do) -> State:
    """`owed` from here on: a cough is no turn, and for one the model may rightly stay silent."""
    if s.activity:
        do(c.SetTimer(e.EndpointTimeout, max(ev.at_s, ev.offset_s + p.end_silence_s)))
    return s._replace(caller_speaking=False, owed=s.owed or ev.offset_s - s.onset_s >= p.min_barge_in_s)


def complete(p: Policy, s: State, generation: int, at_s: float, do: Do) -> State:
    """No more of this reply will come: a mark behind its end tells when it was heard."""
    reply = lg.find(s.ledger, generation)
    if reply is None or reply.complete:
        return s
    ledger = lg.complete(s.ledger, generation, only=True)
    if reply.marked < reply.placed:
        do(c.SendMark(generation, reply.placed, ledger.epoch))
        ledger = lg.mark_sent(ledger, generation, reply.placed)
    return settle(p, s._replace(ledger=ledger), at_s, do)


def goodbye_s(ledger: lg.Ledger, at_s: float) -> float:
    """How long what is being said may take."""
    return max(GOODBYE_MAX_S, lg.ends_at_s(ledger) - at_s + PLAYOUT_GRACE_S)


def wait_for_last_words(p: Policy, s: State, at_s: float, do: Do) -> State:
    """The caller speaks before the line is dropped. A word of thanks ends nothing; who goes on has the word."""
    do(c.SetTimer(e.BargeInLasted, max(at_s, lasted_s(p, s))))
    do(c.SetTimer(e.GoodbyeTimeout, max(at_s, lasted_s(p, s)) + GOODBYE_START_S))
    return s._replace(phase=Phase.CLOSING)


def cancel_ending(s: State, do: Do) -> State:
    """The call goes on after all."""
    do(c.StopTimer(e.GoodbyeTimeout))
    return s._replace(ending=None, answered=False, owed=True)
