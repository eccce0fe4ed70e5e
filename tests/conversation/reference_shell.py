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

from typing import NamedTuple

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
        return min(self.timers, key=lambda t: t[1])[0] if self.timers else None

    def fire(self, timer: type[e.Event]) -> e.Event:
        """The timer's event, as it fires now or when it is due."""
        due_s = self.due_s(timer)
        assert due_s is not None
        return timer(max(self.now_s, due_s))


def _check(holds: object, promise: str, *facts: object) -> None:
    if not holds:
        raise Violated(f"{promise}: {' '.join(map(str, facts))}")


def feed(policy: Policy, shell: Shell, event: e.Event) -> tuple[Shell, tuple[c.Command, ...]]:
    """One step, its commands carried out on paper. Raises `Violated`."""
    before = shell.state
    after, commands = step(policy, before, event)
    timers = dict(shell.timers)
    timers.pop(type(event), None)
    old, tools, turn_open = shell.old, shell.tools, shell.turn_open
    away = after.line is LineState.AWAY
    ended = False
    cleared = False
    spans: dict[int, int] = {}
    for command in commands:
        _check(not ended, "I5 nothing follows End", command)
        if away:
            _check(type(command) not in TO_THE_LINE, "I7 sent while the line is away", command)
        match command:
            case c.SetTimer(timer, at_s):
                _check(at_s >= event.at_s - 60, "I6 a timer is set for a time to come", command)
                timers[timer] = at_s
            case c.StopTimer(timer):
                timers.pop(timer, None)
            case c.Play(generation, start, stop) | c.Replay(generation, start, stop):
                _check(generation > old, "I1 a dead reply is played", command, old)
                _check(0 <= start < stop, "I4 an empty span", command)
                _check_contiguous(before, after, command, spans)
                spans[generation] = stop
            case c.SendMark(generation, _, epoch):
                _check(generation > old, "I1 a dead reply is marked", command)
                _check(epoch == after.ledger.epoch, "I4 a mark of another epoch", command)
            case c.Clear(epoch):
                _check(epoch == before.ledger.epoch + 1, "I6 clears are numbered", command)
                cleared = True
                spans = {}
            case c.Drop(generation):
                _check(generation <= after.ledger.dead, "I1 dropped and alive", command, after.ledger.dead)
            case c.BargeIn(_, _, verdict) if verdict in CONFIRMED:
                asked = turn_open or not policy.local_turns or verdict is not c.Verdict.CONFIRMED_BY_MODEL
                _check(asked, "I2 local turns: confirmed by a model that was told of no turn")
                old = max(old, before.ledger.newest, *(r.generation for r in before.ledger.replies))
                _check(not after.ledger.replies, "I1 a confirmed barge-in leaves a reply open")
                _check(not spans, "I1 something was sent in the step that confirms")
            case c.RunTool(call_id):
                _check(call_id not in tools, "I3 started twice", call_id)
                tools |= {call_id}
            case c.CancelTool(call_id) | c.AnswerTool(call_id, _, _):
                if before.phase is not Phase.CONNECTING:
                    _check(call_id in tools, "I3 a second outcome", command)
                tools -= {call_id}
            case c.OpenTurn():
                _check(not turn_open and policy.local_turns, "a turn is opened twice")
                turn_open = True
            case c.CloseTurn():
                _check(turn_open, "a turn is closed that is not open")
                turn_open = False
            case c.SendPrompt():
                _check(after.link is Link.UP, "a model that is not there is prompted", command)
            case c.RotateModel():
                _check(before.link is Link.UP, "a link that is not up is rotated")
                _check(not after.tools or type(event) is e.GoAwayDeadline, "rotated during a tool call", after.tools)
            case c.End():
                ended = True
    if ended:
        timers.clear()  # the real shell stops them all
    shell = Shell(after, event.at_s, tuple(timers.items()), old, tools, turn_open)
    _check_step(policy, before, event, after, commands, ended=ended, cleared=cleared)
    _check_state(policy, shell, timers)
    if type(event) is e.LineBack and before.line is LineState.AWAY and after.phase in (Phase.SPEAKING, Phase.CLOSING):
        _check_resent(before, after, spans)
    return shell, commands


def _check_resent(before: State, after: State, spans: dict[int, int]) -> None:
    """`_check_contiguous` has seen to where each begins, and that it has no hole."""
    for reply in after.ledger.replies:
        earlier = lg.find(before.ledger, reply.generation)
        unheard = earlier is not None and earlier.heard < earlier.received
        _check(not unheard or spans.get(reply.generation) == reply.received, "I8 not sent again", reply, spans)


def check_silence(policy: Policy, shell: Shell) -> None:
    """I9, of a call that was followed from its beginning: its timers are all there."""
    s, patience_s = shell.state, max(1.0, policy.silent_after_s)
    if s.line is LineState.AWAY:
        return
    timers = dict(shell.timers)
    if s.phase is Phase.THINKING:
        due_s = timers.get(e.FillerDue)
        _check(due_s is not None, "I9 a caller waits, and nothing will be heard", s)
        last_s = max(lg.ends_at_s(s.ledger), s.caller.offset_s)
        _check(s.quiet_s >= min(last_s, shell.now_s) - 1e-6, "I9 the silence began later", s.quiet_s, last_s)
        _check(
            (due_s or 0) <= max(shell.now_s, s.quiet_s + patience_s) + 1e-6, "I9 a silence that is too long", s, due_s
        )
    if s.phase is Phase.SPEAKING and s.ledger.replies:
        due_s = timers.get(e.PlayoutTimeout, shell.now_s)
        over_s = lg.ends_at_s(s.ledger) + max(patience_s, PLAYOUT_GRACE_S)
        _check(
            due_s <= max(shell.now_s, over_s) + 1e-6, "I9 a reply that broke off is waited for too long", due_s, over_s
        )


def _check_contiguous(before: State, after: State, command: c.Play | c.Replay, spans: dict[int, int]) -> None:
    generation, start = command.generation, command.from_sample
    if generation in spans:
        _check(start == spans[generation], "I4 a hole or a repetition", command, spans)
        return
    reply = lg.find(before.ledger, generation)
    _check(start == (reply.placed if reply else 0), "I4 not the first sample that is not queued", command, reply)


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
    _check(ended == (before.phase is not Phase.ENDED and after.phase is Phase.ENDED), "I5 End and ENDED go together")
    if before.phase is Phase.ENDED:
        _check(not commands and after == before, "I5 something after the end", commands)
        return
    if type(event) in (e.StreamStopped, e.StreamLost):
        _check(after.phase is Phase.ENDED, "I5 the caller is gone and the call is not")
    if type(event) is e.ToolFinished and event.call_id in {t.call_id for t in before.tools}:
        _check(any(type(x) is c.AnswerTool for x in commands), "I3 a finished tool without its outcome")
    if (
        type(event) is e.CallerSpeechStarted
        and policy.mode in (Mode.HOLD, Mode.STOP)
        and lg.is_audible(before.ledger, event.at_s)
        and not any(r.protected for r in before.ledger.replies)
    ):
        _check(cleared, "I2 the agent talks on", before.phase)
        _check(after.phase in (Phase.HELD, Phase.STOPPING, Phase.ENDED), "I2 not yielding", after.phase)
    _check(
        after.ledger.dead >= before.ledger.dead and after.ledger.newest >= before.ledger.newest, "I4 numbers only grow"
    )
    for reply in after.ledger.replies:
        earlier = lg.find(before.ledger, reply.generation)
        if earlier is not None:
            _check(
                reply.received >= earlier.received and reply.sent >= earlier.sent and reply.heard >= earlier.heard,
                "I4 only growing",
                earlier,
                reply,
            )
            if not cleared and type(event) is not e.LineAway:
                _check(reply.placed >= earlier.placed, "I4 taken off the queue without a clear", earlier, reply)


# What leads on from each phase, if nothing else happens.
def _leads_on(policy: Policy, s: State, timers: dict[type[e.Event], float]) -> bool:
    match s.phase:
        case Phase.CONNECTING | Phase.ENDED:
            return True  # bounded by the server; over
        case Phase.LISTENING | Phase.SPEAKING if s.line is LineState.AWAY:
            return True  # bounded by the shell
        case Phase.LISTENING:
            if s.caller.speaking:
                return True  # the detector says when that is over
            if s.caller.turn_open:
                return e.EndpointTimeout in timers
            off = not (
                policy.idle_goodbye_s if s.caller.idle_prompted or not policy.idle_prompt_s else policy.idle_prompt_s
            )
            return e.IdleTimeout in timers or off
        case Phase.THINKING:
            return e.ModelSilent in timers or (s.link is not Link.UP and e.ConnectTimeout in timers)
        case Phase.SPEAKING:
            return e.PlayoutTimeout in timers
        case Phase.HELD:
            return (e.BargeInLasted if s.caller.speaking else e.VerdictTimeout) in timers
        case Phase.STOPPING:
            return e.ClearTimeout in timers
        case Phase.CLOSING:
            return e.GoodbyeTimeout in timers


def _check_state(policy: Policy, shell: Shell, timers: dict[type[e.Event], float]) -> None:
    s = shell.state
    replies = s.ledger.replies
    for r in replies:
        _check(0 <= r.heard <= r.placed <= r.sent <= r.received, "I4 heard <= placed <= sent <= received", r)
        _check(r.generation > s.ledger.dead, "I1 a dead reply is open", r)
    _check(shell.old <= s.ledger.dead, "I1 the machine forgot what it killed", shell.old, s.ledger.dead)
    _check(shell.tools == {t.call_id for t in s.tools}, "I3 tools", shell.tools, s.tools)
    _check(shell.turn_open == s.caller.turn_open, "the turn that is open is the one that was opened")
    if s.phase is Phase.ENDED:
        _check(not s.tools and not replies, "I3 something outlives the call")
        return
    _check(not s.ledger.clear_pending or e.ClearTimeout in timers, "I6 a pending clear without a timer")
    if s.line is LineState.AWAY:
        _check(timers.keys().isdisjoint(STOPPED_WHILE_AWAY), "I7 timed while the line is away", timers)
        _check(all(r.placed == r.heard for r in replies), "I7 queued on a line that is away", replies)
        _check(s.phase is not Phase.STOPPING, "I7 waits for a clear that is not acknowledged any more")
    if (
        replies
        and s.phase is not Phase.HELD
        and (s.line is LineState.UP or s.phase in (Phase.LISTENING, Phase.THINKING))
    ):
        for r in replies:
            _check(r.placed == r.received, "I8 left behind", s.phase, r)
    _check(_leads_on(policy, s, timers), "I6 no way out of", s.phase, s, timers)
    if s.phase is not Phase.CONNECTING:
        _check(s.link in (Link.UP, Link.FAILED) or e.ConnectTimeout in timers, "I6 a link that nobody waits for")
    audible = lg.is_audible(s.ledger, shell.now_s)
    _check(not audible or s.phase in (Phase.SPEAKING, Phase.CLOSING), "the agent is heard in", s.phase)
    match s.phase:
        case Phase.SPEAKING | Phase.HELD:
            _check(replies, "a reply that is not there is in", s.phase)
        case Phase.STOPPING:
            _check(not replies and s.ledger.clear_pending, "STOPPING waits for nothing")
        case Phase.THINKING:
            _check(not s.caller.speaking and not s.caller.turn_open, "THINKING while the caller has the word")
        case Phase.CLOSING:
            _check(s.ending is not None, "CLOSING without a reason")
    if s.ending is not None:
        _check(s.phase in (Phase.CLOSING, Phase.HELD), "a reason to end in", s.phase)
        _check(
            s.ending in INTERRUPTIBLE_ENDINGS or s.phase is not Phase.LISTENING, "the gateway's reason was talked away"
        )
    if s.phase is Phase.LISTENING and s.caller.speaking and policy.local_turns:
        _check(s.caller.turn_open, "the model is not told that the caller speaks")
    if s.link is Link.FAILED:
        _check(s.phase in (Phase.CONNECTING, Phase.CLOSING, Phase.HELD), "a call without a model goes on in", s.phase)
