"""A call that goes on in another process: the state is that of a call whose line is away and whose link is connecting.

So all that is known of such calls holds: what the model says is kept until the line is back, and no clock runs that
counts playback or the caller's silence. Who speaks next follows from what is owed. The greeting is not repeated, and
reply numbers go on where they were.
"""

from __future__ import annotations

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation import ledger as lg
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.handlers.floor import GOODBYE_MAX_S, Emit, end_call, listen, think
from offhook.gateway.conversation.handlers.link import call_limits, prompt_for_owed
from offhook.gateway.conversation.state import Greets, LineState, Link, Phase, Policy, State

__all__ = ["resumed"]


def resumed(p: Policy, s: State, ev: e.Resumed, emit: Emit) -> State:
    if s.link is Link.FAILED:
        return end_call(s, ev.ending or Ending.MODEL_UNREACHABLE, ev.at_s, emit)
    call_limits(p, ev.began_s, ev.at_s, emit)
    if s.link is not Link.UP:
        emit(c.SetTimer(e.ConnectTimeout, ev.at_s + p.connect_timeout_s))
    ledger = lg.saw(s.ledger._replace(rate_hz=p.rate_hz), ev.newest)
    s = s._replace(line=LineState.AWAY, greeted=ev.owed is not e.Owed.GREETING)
    if ev.sound > ev.sound_heard:
        return _sound_goes_on(p, s.with_ledger(lg.kill(ledger, ev.newest - 1)), ev, emit)
    s = s.with_ledger(lg.kill(ledger, ev.newest))
    if ev.ending is not None:
        return _goodbye(s, ev, emit)
    if ev.owed is e.Owed.GREETING and p.greets is Greets.SOUND:
        emit(c.PlayGreeting())
    if ev.owed is e.Owed.NOTHING or (ev.owed is e.Owed.GREETING and p.greets is not Greets.MODEL):
        return listen(p, s, ev.at_s, emit)
    return prompt_for_owed(p, think(p, s._replace(owed=ev.owed), ev.at_s, emit), ev.at_s, emit)


def _goodbye(s: State, ev: e.Resumed, emit: Emit) -> State:
    """The call was ending: the rest of what was being said, then the end."""
    assert ev.ending is not None
    if ev.owed is e.Owed.NOTHING:
        return end_call(s, ev.ending, ev.at_s, emit)
    emit(c.SetTimer(e.GoodbyeTimeout, ev.at_s + GOODBYE_MAX_S))
    return s._replace(phase=Phase.CLOSING, ending=ev.ending, owed=ev.owed)


def _sound_goes_on(p: Policy, s: State, ev: e.Resumed, emit: Emit) -> State:
    """The file is here as well: its unheard part is played when the line is back."""
    heard = min(ev.sound, ev.sound_heard)
    reply = lg.Reply(
        ev.newest,
        received=ev.sound,
        sent=heard,
        placed=heard,
        heard=heard,
        marked=heard,
        complete=True,
        protected=p.greeting_protected,
    )
    s = s._replace(phase=Phase.SPEAKING, greeted=True, agent_replied=True)
    return s.with_ledger(s.ledger._replace(replies=(reply,)))
