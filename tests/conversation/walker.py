"""Walks every reachable state of the conversation machine.

Reachable states are infinite (times, samples, numbers), so they are put into classes: quantities of the ledger
as none, some or all; the caller's speech as young or old; numbers as distances to the newest; timers as those
that mean something in the phase. Of each class the first state found is walked on from, with every event that
can happen there: only timers that are set, only marks that make sense or are known nonsense, speech that begins
and ends. Timers fire late as well: whatever else happens first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

from offhook.gateway.conversation import events as e
from offhook.gateway.conversation import ledger as lg
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.handlers.floor import INTERRUPTIBLE_ENDINGS, ignore
from offhook.gateway.conversation.machine import TABLE
from offhook.gateway.conversation.state import Due, LineState, Link, Phase, Policy
from tests.conversation.reference_shell import Shell, Violated, check_silence, feed

__all__ = ["Walk", "alone", "fingerprint", "walk"]

CHUNK = 4_000  # half a second
SOON_S = 0.02
LONG_S = 2.0  # of the model's silence
HANGOVER_S = 0.4


class Walk(NamedTuple):
    """What was seen: a state for each class, how many steps it took, and the steps from phase to phase."""

    shells: list[Shell]
    steps: int
    edges: frozenset[tuple[Phase, type[e.Event], Phase]]


def _meant() -> dict[Phase, frozenset[type[e.Event]]]:
    """The timers that mean something in each phase."""
    return {
        phase: frozenset(event for event, handler in row.items() if handler is not ignore and event is not e.TimeLimit)
        for phase, row in TABLE.items()
    }


def _class_of(shell: Shell, meant: dict[Phase, frozenset[type[e.Event]]]) -> tuple[object, ...]:
    s = shell.state
    if s.phase is Phase.ENDED:
        return (s.phase,)
    ledger, caller = s.ledger, s.caller
    newest = ledger.newest
    replies = [
        (
            0 if r.heard == 0 else 1 if r.heard < r.placed else 2,
            r.placed == r.received,
            r.sent > 0,
            r.complete,
            r.protected,
            r.generation == newest,
        )
        for r in ledger.replies
    ]
    return (
        s.phase,
        s.line,
        s.link,
        tuple(replies),
        lg.is_audible(ledger, shell.now_s),
        s.tools and tuple([(t.call_id, t.withdrawn, t.filler_after_s is None) for t in s.tools]),
        caller.speaking and (1 if shell.now_s - caller.onset_s < 0.6 else 2),
        caller.turn_open,
        newest > ledger.dead,
        s.agent_replied,
        s.greeted,
        None if s.ending else _due_class(s.due),
        caller.idle_prompted,
        s.owed,
        s.rotation_due,
        ledger.clear_pending,
        s.ending and s.ending in INTERRUPTIBLE_ENDINGS,
        s.last_words and s.last_words.after < newest,
        meant[s.phase].intersection(dict(shell.timers)),
    )


def _due_class(due: Due) -> tuple[object, ...]:
    waits = due.since_s is not None
    return (waits, due.unanswered > 0, due.alive and waits, due.failed_prompts, due.reply, *due[6:])


def _events(shell: Shell, kinds: frozenset[str]) -> Iterator[e.Event]:
    """Everything that can happen now."""
    s, now_s = shell.state, shell.now_s + SOON_S
    ledger, replies, newest = s.ledger, s.ledger.replies, s.ledger.newest
    for timer, due_s in shell.timers:
        yield timer(max(shell.now_s, due_s))
    yield e.StreamStopped(now_s)
    if s.phase is Phase.CONNECTING:
        yield e.StreamStarted(now_s)
        if "moved" in kinds:
            for owed in e.Owed:
                for ending in (None, Ending.AGENT_HUNG_UP):
                    yield e.Resumed(now_s, 3, owed, 0.0, ending)
            yield e.Resumed(now_s, 0, e.Owed.GREETING, 0.0)
            yield e.Resumed(now_s, 1, e.Owed.REST, 0.0, sound=CHUNK, sound_heard=800)
    # the carrier
    if s.ledger.clear_pending:
        yield e.ClearAcknowledged(now_s, ledger.epoch)
        yield e.ClearAcknowledged(now_s, ledger.epoch - 1)
    for reply in replies:
        if reply.marked > reply.heard and s.line is LineState.UP:
            heard_s = ledger.anchor_s + (reply.base + reply.marked - ledger.anchor) / ledger.rate_hz
            yield e.MarkReturned(max(now_s, heard_s + 0.05), reply.generation, reply.marked, ledger.epoch)
            yield e.MarkReturned(now_s, reply.generation, reply.marked, ledger.epoch - 1)
    if "line" in kinds and s.phase is not Phase.CONNECTING:
        yield e.LineBack(now_s) if s.line is LineState.AWAY else e.LineAway(now_s)
    # the caller
    if s.caller.speaking:
        for lasts_s in (0.2, 1.0):
            offset_s = s.caller.onset_s + lasts_s
            yield e.CallerSpeechEnded(max(now_s, offset_s + HANGOVER_S), offset_s)
    else:
        yield e.CallerSpeechStarted(now_s, now_s - 0.06)
        if replies and lg.is_audible(ledger, now_s):
            late_s = lg.ends_at_s(ledger) + SOON_S
            yield e.CallerSpeechStarted(late_s, late_s - 0.06)
    # the model
    numbers = (newest, ledger.dead, *(r.generation for r in replies))
    covered = "filler" in kinds and "link" not in kinds and s.due.reply
    if len(replies) < (1 if "one" in kinds and not covered else 2):
        yield e.ReplyAudio(now_s, max(numbers) + 1, CHUNK, 160)
    if s.ledger.dead:
        yield e.ReplyAudio(now_s, s.ledger.dead, CHUNK)
    if "filler" in kinds and s.phase is Phase.THINKING and not replies:
        yield e.ReplyAudio(now_s, max(newest, ledger.dead) + 1, CHUNK, 160, filler=True)
    for reply in replies:
        if not reply.complete:
            if reply.received <= CHUNK:
                yield e.ReplyAudio(now_s, reply.generation, CHUNK)
            yield e.ReplyComplete(now_s, reply.generation)
    yield e.TurnComplete(now_s, newest)
    if "cut" in kinds:
        yield e.TurnComplete(now_s, newest, cut=True)
    yield e.TurnComplete(now_s, newest + 1)
    yield e.ModelInterrupted(now_s, newest)
    yield e.ModelInterrupted(now_s, newest + 1)
    if "link" not in kinds:  # it only shows that the model hears; the walks without a link have it
        yield e.CallerTranscribed(now_s)
    if "loud" in kinds and not s.caller.speaking:
        yield e.LoudWithoutSpeech(now_s)
        yield e.CallerSpeechStarted(now_s + LONG_S, now_s + LONG_S - 0.06)
    if "digits" in kinds:
        yield e.DigitPressed(now_s)
    # tools
    if "tools" in kinds:
        running = {t.call_id for t in s.tools}
        yield e.ToolRequested(now_s, "a", e.ToolPolicy.CANCEL, filler_after_s=1.5)
        yield e.ToolRequested(now_s, "b", e.ToolPolicy.FINISH)
        yield e.ToolFinished(now_s, "unknown", e.Outcome.DONE)
        for call_id in sorted(running):
            yield e.ToolFinished(now_s, call_id, e.Outcome.DONE)
            yield e.ToolWithdrawn(now_s, call_id)
    # the link
    if "moved" in kinds and s.link is Link.DIALLING:
        yield e.ModelReady(now_s, resumed=True)
        yield e.ModelFailed(now_s)
    if "link" in kinds:
        if s.link is Link.UP:
            yield e.ModelDown(now_s)
            yield e.GoAway(now_s, 10.0)
        elif s.link is not Link.FAILED:
            yield e.ModelReady(now_s)
            yield e.ModelDown(now_s)
        yield e.ModelFailed(now_s)
    # the shell
    if "line" in kinds:
        yield e.CancelReply(now_s, newest + 1)
    if "words" in kinds and s.last_words is None:
        yield e.SayAndEnd(now_s, Ending.AGENT_HUNG_UP, newest + 1)
    # the end
    if "ends" in kinds:
        yield e.EndRequested(now_s, Ending.AGENT_HUNG_UP)
        yield e.EndRequested(now_s, Ending.SERVER_STOPPED)


def walk(policy: Policy, *kinds: str, most: int = 1_000_000) -> Walk:
    """From a new call to every class of states. Raises `Violated` with the way there."""
    wanted = frozenset(kinds)
    start = Shell()
    if "link" not in wanted and "moved" not in wanted:
        start, _ = feed(policy, start, e.ModelReady(SOON_S))
    meant = _meant()
    first = _class_of(start, meant)
    came: dict[tuple[object, ...], tuple[tuple[object, ...] | None, e.Event | None]] = {first: (None, None)}
    shells = [start]
    todo = deque([(start, first)])
    steps = 0
    edges = set()
    while todo and len(shells) < most:
        shell, here = todo.popleft()
        for event in _events(shell, wanted):
            steps += 1
            try:
                there, _ = feed(policy, shell, event)
                check_silence(policy, there)
            except Violated as violated:
                raise Violated(f"{violated}\n  on the way {_way(came, here)}, {event}") from None
            edges.add((shell.state.phase, type(event), there.state.phase))
            name = _class_of(there, meant)
            if name not in came:
                came[name] = (here, event)
                shells.append(there)
                todo.append((there, name))
    return Walk(shells, steps, frozenset(edges))


def _way(came: dict, here: tuple[object, ...]) -> str:
    way = []
    at: tuple[object, ...] | None = here
    while at is not None:
        at, event = came[at]
        if event is not None:
            way.append(str(event))
    return ", ".join(reversed(way))


def fingerprint() -> str:
    """Of the table: which handler stands where."""
    rows = [f"{phase.value} {event.__name__} {h.__name__}" for phase, row in TABLE.items() for event, h in row.items()]
    return sha256("\n".join(sorted(rows)).encode()).hexdigest()[:16]


def alone(policy: Policy, shell: Shell, within_s: float, ends: dict[Shell, Shell]) -> Shell:
    """Leave the call to itself: the line is back, timers fire when they are due, a caller who speaks falls silent.

    `ends`: how the calls ended that were left to themselves before, from each of their steps on; it grows.
    """
    until_s = shell.now_s + within_s
    way = []
    if shell.state.line is LineState.AWAY:
        shell, _ = feed(policy, shell, e.LineBack(shell.now_s + 1.0))
    while shell.state.phase is not Phase.ENDED and shell.now_s < until_s:
        if shell in ends:  # another call came to exactly this, and the same follows
            shell = ends[shell]
            break
        way.append(shell)
        timer = shell.next_timer()
        s = shell.state
        if s.caller.speaking and (timer is None or (shell.due_s(timer) or 0) > shell.now_s + 5):
            event: e.Event = e.CallerSpeechEnded(shell.now_s + 1.0, shell.now_s + 0.6)
        elif timer is None:
            break
        else:
            event = shell.fire(timer)
        shell, _ = feed(policy, shell, event)
    ends.update(dict.fromkeys(way, shell))
    return shell
