"""A shell that carries nothing out: it keeps timers, sent samples, tools, and checks at each step what always holds.

I1  After a confirmed barge-in, not one sample of the old generation is sent.
I2  From every phase in which the agent can be heard, the caller's speech stops playback in one step.
I3  Every tool call gets exactly one outcome; none outlives the call.
I4  heard <= placed <= sent <= received, growing while the reply is open; what is sent follows what was sent,
    and a resume begins at the first unheard sample.
I5  After ENDED there are no commands; `StreamStopped` ends the call in one step; `End` is said once, last.
I6  Every clear is acknowledged or bounded by a timer; every phase has a timer that leads on.
I7  Nothing is sent while the line is away, and nothing timed that needs one.
I8  When the line is back every unheard sample is sent once; with a line, none is left behind except in HELD.
I9  A caller who waits, with a line, hears nothing for `silent_after_s` at most: `check_silence`.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any, NamedTuple

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation import ledger as lg
from offhook.gateway.conversation.handlers.floor import INTERRUPTIBLE_ENDINGS
from offhook.gateway.conversation.machine import step
from offhook.gateway.conversation.state import LineState, Link, Mode, Phase, Policy, State
from offhook.gateway.conversation.units import PLAYOUT_GRACE_S

__all__ = ["STOPPED_WHILE_AWAY", "Shell", "Violated", "check_silence", "feed"]

STOPPED_WHILE_AWAY = (e.PlayoutTimeout, e.IdleTimeout, e.FillerDue, e.ClearTimeout)
TO_THE_LINE = (c.Play, c.Replay, c.SendMark, c.Clear)
CONFIRMED = (c.Verdict.CONFIRMED_BY_MODEL, c.Verdict.CONFIRMED_LOCALLY)


class Violated(AssertionError):
    """What always holds does not."""


class Shell(NamedTuple):
    """What the real shell keeps, as far as the promises speak of it."""

    state: State = State()
    now_s: float = 0.0
    timers: tuple[tuple[type[e.Event], float], ...] = ()
    old: int = 0  # a confirmed barge-in killed everything up to here
    tools: frozenset[str] = frozenset()
    turn_open: bool = False

    def due_s(self, timer: type[e.Event]) -> float | None:
        return dict(self.timers).get(timer)

    def next_timer(self) -> type[e.Event] | None:
        return min(self.timers, key=itemgetter(1))[0] if self.timers else None

    def fire(self, timer: type[e.Event]) -> e.Event:
        """The timer's event, as it fires now or when it is due."""
        due_s = self.due_s(timer)
        assert due_s is not None
        return timer(max(self.now_s, due_s))


def _broken(promise: str, *facts: object) -> Violated:
    return Violated(f"{promise}: {' '.join(map(str, facts))}")


def feed(policy: Policy, shell: Shell, event: e.Event) -> tuple[Shell, tuple[c.Command, ...]]:
    """One step, its commands carried out on paper. Raises `Violated`.

    Every reachable state comes through here, a million times: each promise is a plain `if`.
    """
    before, kind = shell.state, type(event)
    after, commands = step(policy, before, event)
    timers = dict(shell.timers)
    timers.pop(kind, None)
    old, tools, turn_open = shell.old, shell.tools, shell.turn_open
    away = after.line is LineState.AWAY
    ended = False
    cleared = False
    spans: dict[int, int] = {}
    command: Any
    for command in commands:
        what = type(command)
        if ended:
            raise _broken("I5 nothing follows End", command)
        if away and what in TO_THE_LINE:
            raise _broken("I7 sent while the line is away", command)
        if what is c.SetTimer:
            if not command.at_s >= event.at_s - 60:
                raise _broken("I6 a timer is set for a time to come", command)
            timers[command.event] = command.at_s
        elif what is c.StopTimer:
            timers.pop(command.event, None)
        elif what is c.Play or what is c.Replay:
            if not command.generation > old:
                raise _broken("I1 a dead reply is played", command, old)
            if not 0 <= command.from_sample < command.to_sample:
                raise _broken("I4 an empty span", command)
            _check_contiguous(before, command, spans)
            spans[command.generation] = command.to_sample
        elif what is c.SendMark:
            if not command.generation > old:
                raise _broken("I1 a dead reply is marked", command)
            if command.epoch != after.ledger.epoch:
                raise _broken("I4 a mark of another epoch", command)
        elif what is c.Clear:
            if command.epoch != before.ledger.epoch + 1:
                raise _broken("I6 clears are numbered", command)
            cleared = True
            spans = {}
        elif what is c.Drop:
            if not command.generation <= after.ledger.dead:
                raise _broken("I1 dropped and alive", command, after.ledger.dead)
        elif what is c.BargeIn:
            if command.verdict in CONFIRMED:
                if policy.local_turns and not turn_open and command.verdict is c.Verdict.CONFIRMED_BY_MODEL:
                    raise _broken("I2 local turns: confirmed by a model that was told of no turn")
                old = max(old, before.ledger.newest, *(r.generation for r in before.ledger.replies))
                if after.ledger.replies:
                    raise _broken("I1 a confirmed barge-in leaves a reply open")
                if spans:
                    raise _broken("I1 something was sent in the step that confirms")
        elif what is c.RunTool:
            if command.call_id in tools:
                raise _broken("I3 started twice", command.call_id)
            tools |= {command.call_id}
        elif what is c.CancelTool or what is c.AnswerTool:
            if command.call_id not in tools and before.phase is not Phase.CONNECTING:
                raise _broken("I3 a second outcome", command)
            tools -= {command.call_id}
        elif what is c.OpenTurn:
            if turn_open or not policy.local_turns:
                raise _broken("a turn is opened twice")
            turn_open = True
        elif what is c.CloseTurn:
            if not turn_open:
                raise _broken("a turn is closed that is not open")
            turn_open = False
        elif what is c.SendPrompt:
            if after.link is not Link.UP:
                raise _broken("a model that is not there is prompted", command)
        elif what is c.RotateModel:
            if before.link is not Link.UP:
                raise _broken("a link that is not up is rotated")
            if after.tools and kind is not e.GoAwayDeadline:
                raise _broken("rotated during a tool call", after.tools)
        elif what is c.End:
            ended = True
    if ended:
        timers.clear()  # the real shell stops them all
    shell = Shell(after, event.at_s, tuple(timers.items()), old, tools, turn_open)
    _check_step(policy, before, event, after, commands, ended=ended, cleared=cleared)
    _check_state(policy, shell, timers)
    if kind is e.LineBack and before.line is LineState.AWAY and after.phase in (Phase.SPEAKING, Phase.CLOSING):
        _check_resent(before, after, spans)
    return shell, commands


def _check_resent(before: State, after: State, spans: dict[int, int]) -> None:
    """`_check_contiguous` has seen to where each begins, and that it has no hole."""
    for reply in after.ledger.replies:
        earlier = lg.find(before.ledger, reply.generation)
        unheard = earlier is not None and earlier.heard < earlier.received
        if unheard and spans.get(reply.generation) != reply.received:
            raise _broken("I8 not sent again", reply, spans)


def check_silence(policy: Policy, shell: Shell) -> None:
    """I9, of a call that was followed from its beginning: its timers are all there."""
    s = shell.state
    phase, now_s = s.phase, shell.now_s
    if s.line is LineState.AWAY:
        return
    if phase is Phase.THINKING:
        due_s = shell.due_s(e.FillerDue)
        if due_s is None:
            raise _broken("I9 a caller waits, and nothing will be heard", s)
        last_s = max(lg.ends_at_s(s.ledger), s.caller.offset_s)
        if not s.quiet_s >= min(last_s, now_s) - 1e-6:
            raise _broken("I9 the silence began later", s.quiet_s, last_s)
        if not due_s <= max(now_s, s.quiet_s + max(1.0, policy.silent_after_s)) + 1e-6:
            raise _broken("I9 a silence that is too long", s, due_s)
    elif phase is Phase.SPEAKING and s.ledger.replies:
        due_s = shell.due_s(e.PlayoutTimeout)
        over_s = lg.ends_at_s(s.ledger) + max(1.0, policy.silent_after_s, PLAYOUT_GRACE_S)
        if due_s is not None and not due_s <= max(now_s, over_s) + 1e-6:
            raise _broken("I9 a reply that broke off is waited for too long", due_s, over_s)


def _check_contiguous(before: State, command: c.Play, spans: dict[int, int]) -> None:
    generation, start = command.generation, command.from_sample
    if generation in spans:
        if start != spans[generation]:
            raise _broken("I4 a hole or a repetition", command, spans)
        return
    reply = lg.find(before.ledger, generation)
    if start != (reply.placed if reply else 0):
        raise _broken("I4 not the first sample that is not queued", command, reply)


def _check_step(
    policy: Policy,
    before: State,
    event: e.Event,
    after: State,
    commands: tuple[c.Command, ...],
    *,
    ended: bool,
    cleared: bool,
) -> None:
    kind = type(event)
    if ended != (after.phase is Phase.ENDED and before.phase is not Phase.ENDED):
        raise _broken("I5 End and ENDED go together")
    if before.phase is Phase.ENDED:
        if commands or after != before:
            raise _broken("I5 something after the end", commands)
        return
    if (kind is e.StreamStopped or kind is e.StreamLost) and after.phase is not Phase.ENDED:
        raise _broken("I5 the caller is gone and the call is not")
    if type(event) is e.ToolFinished and event.call_id in {t.call_id for t in before.tools}:
        answered = any(type(x) is c.AnswerTool for x in commands)
        if not answered:
            raise _broken("I3 a finished tool without its outcome")
    if (
        kind is e.CallerSpeechStarted
        and policy.mode in (Mode.HOLD, Mode.STOP)
        and lg.is_audible(before.ledger, event.at_s)
        and not any(r.protected for r in before.ledger.replies)
    ):
        if not cleared:
            raise _broken("I2 the agent talks on", before.phase)
        if after.phase not in (Phase.HELD, Phase.STOPPING, Phase.ENDED):
            raise _broken("I2 not yielding", after.phase)
    new, known = after.ledger, before.ledger
    if new is known:
        return  # nothing of it shrank
    if not (new.dead >= known.dead and new.newest >= known.newest):
        raise _broken("I4 numbers only grow")
    for reply in new.replies:
        earlier = lg.find(known, reply.generation)
        if earlier is not None:
            if not (reply.received >= earlier.received and reply.sent >= earlier.sent and reply.heard >= earlier.heard):
                raise _broken("I4 only growing", earlier, reply)
            if not (cleared or kind is e.LineAway or reply.placed >= earlier.placed):
                raise _broken("I4 taken off the queue without a clear", earlier, reply)


# What leads on from each phase, if nothing else happens.
def _leads_on(policy: Policy, s: State, timers: dict[type[e.Event], float]) -> bool:
    phase = s.phase
    if phase is Phase.LISTENING:
        if s.caller.speaking or s.line is LineState.AWAY:
            return True  # the detector says when that is over; bounded by the shell
        if s.caller.turn_open:
            return e.EndpointTimeout in timers
        off = not (
            policy.idle_goodbye_s if s.caller.idle_prompted or not policy.idle_prompt_s else policy.idle_prompt_s
        )
        return e.IdleTimeout in timers or off
    if phase is Phase.THINKING:
        return e.ModelSilent in timers or (s.link is not Link.UP and e.ConnectTimeout in timers)
    if phase is Phase.SPEAKING:
        return e.PlayoutTimeout in timers or s.line is LineState.AWAY  # bounded by the shell
    if phase is Phase.HELD:
        return (e.BargeInLasted if s.caller.speaking else e.VerdictTimeout) in timers
    if phase is Phase.STOPPING:
        return e.ClearTimeout in timers
    if phase is Phase.CLOSING:
        return e.GoodbyeTimeout in timers
    return phase is Phase.CONNECTING  # bounded by the server


def _check_state(policy: Policy, shell: Shell, timers: dict[type[e.Event], float]) -> None:
    s = shell.state
    phase, ledger, caller = s.phase, s.ledger, s.caller
    replies = ledger.replies
    for r in replies:
        if not 0 <= r.heard <= r.placed <= r.sent <= r.received:
            raise _broken("I4 heard <= placed <= sent <= received", r)
        if not r.generation > ledger.dead:
            raise _broken("I1 a dead reply is open", r)
    if not shell.old <= ledger.dead:
        raise _broken("I1 the machine forgot what it killed", shell.old, ledger.dead)
    if shell.tools != {t.call_id for t in s.tools}:
        raise _broken("I3 tools", shell.tools, s.tools)
    if shell.turn_open != caller.turn_open:
        raise _broken("the turn that is open is the one that was opened")
    if phase is Phase.ENDED:
        if s.tools or replies:
            raise _broken("I3 something outlives the call")
        return
    if ledger.clear_pending and e.ClearTimeout not in timers:
        raise _broken("I6 a pending clear without a timer")
    if s.line is LineState.AWAY:
        if not timers.keys().isdisjoint(STOPPED_WHILE_AWAY):
            raise _broken("I7 timed while the line is away", timers)
        if any(r.placed != r.heard for r in replies):
            raise _broken("I7 queued on a line that is away", replies)
        if phase is Phase.STOPPING:
            raise _broken("I7 waits for a clear that is not acknowledged any more")
    if (
        replies
        and phase is not Phase.HELD
        and (s.line is LineState.UP or phase is Phase.LISTENING or phase is Phase.THINKING)
    ):
        for r in replies:
            if r.placed != r.received:
                raise _broken("I8 left behind", phase, r)
    if not _leads_on(policy, s, timers):
        raise _broken("I6 no way out of", phase, s, timers)
    if phase is not Phase.CONNECTING and s.link not in (Link.UP, Link.FAILED) and e.ConnectTimeout not in timers:
        raise _broken("I6 a link that nobody waits for")
    if phase is Phase.SPEAKING or phase is Phase.HELD:
        if not replies:
            raise _broken("a reply that is not there is in", phase)
    elif phase is Phase.STOPPING:
        if replies or not ledger.clear_pending:
            raise _broken("STOPPING waits for nothing")
    elif phase is Phase.THINKING:
        if caller.speaking or caller.turn_open:
            raise _broken("THINKING while the caller has the word")
    elif phase is Phase.CLOSING and s.ending is None:
        raise _broken("CLOSING without a reason")
    if phase is not Phase.SPEAKING and phase is not Phase.CLOSING and lg.is_audible(ledger, shell.now_s):
        raise _broken("the agent is heard in", phase)
    if s.ending is not None:
        if s.ending not in INTERRUPTIBLE_ENDINGS and phase is Phase.LISTENING:
            raise _broken("the gateway's reason was talked away")
        if phase is not Phase.CLOSING and phase is not Phase.HELD:
            raise _broken("a reason to end in", phase)
    if phase is Phase.LISTENING and caller.speaking and policy.local_turns and not caller.turn_open:
        raise _broken("the model is not told that the caller speaks")
    if s.link is Link.FAILED and phase not in (Phase.CONNECTING, Phase.CLOSING, Phase.HELD):
        raise _broken("a call without a model goes on in", phase)
