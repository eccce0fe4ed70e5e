"""Dialogues with the conversation machine.

    assert Playbook(SPEAKING) >> CallerSpeechStarted(3.0, onset_s=2.9) << Clear(1) << Phase.HELD

`>>` feeds an event; `<<` says what comes of it, in order. Everything that is felt must be said: a command that
the dialogue leaves out fails it. Bookkeeping (timers, marks, the record) may be left out; what is said of it
must be there. `StopTimer` said means that no such timer is left running. A phase said is the phase after the event.
`>> Until(12.0)` lets time pass: timers that are due fire. Every step also keeps the promises of `reference_shell`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields
from typing import Any

from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation.ledger import Ledger, Reply
from offhook.gateway.conversation.state import Caller, Due, LineState, Link, Phase, Policy, State
from tests.conversation.reference_shell import STOPPED_WHILE_AWAY, Shell, feed

__all__ = ["CLOSE", "HELD", "LISTENING", "SPEAKING", "THINKING", "Playbook", "Until", "changed"]

MAY_BE_LEFT_OUT = (c.SetTimer, c.StopTimer, c.SendMark, c.ReplyEnded)
CLOSE = 1e-6  # times and positions in seconds are sums of floats


def changed(value: Any, **changes: Any) -> Any:
    """As `_replace`; of a `State` also the fields of its ledger, its caller and what is due.

    A ledger put in keeps the numbers of the one before, unless it has its own.
    """
    if not isinstance(value, State):
        return value._replace(**changes)
    state = value
    if "ledger" in changes:
        kept = {n: getattr(value.ledger, n) for n in ("newest", "dead", "clear_pending")}
        state = state._replace(ledger=changes.pop("ledger"))
        if not (state.ledger.newest or state.ledger.dead):
            state = state._replace(ledger=state.ledger._replace(**kept))
    for name, part in (("ledger", Ledger), ("caller", Caller), ("due", Due)):
        of_part = {n: changes.pop(n) for n in part._fields if n in changes}
        state = state._replace(**{name: getattr(state, name)._replace(**of_part)})
    return state._replace(**changes)


LISTENING = State(Phase.LISTENING, link=Link.UP, agent_replied=True)
THINKING = State(Phase.THINKING, link=Link.UP, due=Due(reply=True))
# A second of reply 1 was sent at 2.0 s, all of it; more may come.
SPEAKING = State(
    Phase.SPEAKING,
    link=Link.UP,
    ledger=Ledger(
        (Reply(1, 8_000, 8_000, 8_000, marked=7_200),), queued_to=8_000, anchor_s=2.0, round_trip_s=0.1, newest=1
    ),
    agent_replied=True,
)
# The caller began to speak at 2.4 s, was heard to at 2.5 s; half a second of the reply is kept.
HELD = changed(
    SPEAKING,
    phase=Phase.HELD,
    ledger=Ledger((Reply(1, 8_000, 8_000, 4_000, 4_000, marked=4_000),), 4_000, 4_000, 2.5, epoch=1, cleared_s=2.5),
    speaking=True,
    onset_s=2.4,
    clear_pending=True,
)

TIMERS_OF: dict[Phase, tuple[tuple[type[e.Event], float], ...]] = {
    Phase.LISTENING: ((e.IdleTimeout, 100.0),),
    Phase.THINKING: ((e.ModelSilent, 100.0),),
    Phase.SPEAKING: ((e.PlayoutTimeout, 100.0),),
    Phase.HELD: ((e.BargeInLasted, 3.4), (e.ClearTimeout, 3.5)),
    Phase.STOPPING: ((e.ClearTimeout, 100.0),),
    Phase.CLOSING: ((e.GoodbyeTimeout, 100.0),),
}


@dataclass(frozen=True)
class Until:
    """Nothing else happens until then."""

    at_s: float


def _same(said: c.Command, done: c.Command) -> bool:
    if type(said) is not type(done):
        return False
    for field in fields(said):
        a, b = getattr(said, field.name), getattr(done, field.name)
        if isinstance(a, float) and isinstance(b, float):
            if abs(a - b) > CLOSE:
                return False
        elif a != b:
            return False
    return True


class Playbook:
    """One dialogue, from a state."""

    def __init__(self, state: State = State(), policy: Policy = Policy()) -> None:  # noqa: B008  frozen values
        timers = TIMERS_OF.get(state.phase, ())
        if state.line is LineState.AWAY:
            timers = tuple(t for t in timers if t[0] not in STOPPED_WHILE_AWAY)
        if state.link is Link.DOWN:
            timers += ((e.ConnectTimeout, 100.0),)
        if state.ledger.clear_pending and state.phase is not Phase.HELD:
            timers += ((e.ClearTimeout, 100.0),)
        tools = frozenset(t.call_id for t in state.tools)
        self.shell = Shell(state, 0.0, timers, state.ledger.dead, tools, state.caller.turn_open)
        self.policy = policy
        self._felt: deque[c.Command] = deque()
        self._kept: list[c.Command] = []  # bookkeeping, in any order
        self._event: object = "the beginning"

    @property
    def state(self) -> State:
        return self.shell.state

    @property
    def felt(self) -> tuple[c.Command, ...]:
        """What has come of the last event and was not said yet."""
        return tuple(self._felt)

    def __rshift__(self, event: e.Event | Until) -> Playbook:
        self._nothing_left_out()
        self._event = event
        if isinstance(event, Until):
            while (timer := self.shell.next_timer()) and (self.shell.due_s(timer) or 0) <= event.at_s + CLOSE:
                self._feed(self.shell.fire(timer))
        else:
            self._feed(event)
        return self

    def _feed(self, event: e.Event) -> None:
        self.shell, commands = feed(self.policy, self.shell, event)
        for command in commands:
            (self._kept if isinstance(command, MAY_BE_LEFT_OUT) else self._felt).append(command)

    def __lshift__(self, said: c.Command | Phase) -> Playbook:
        if isinstance(said, Phase):
            assert self.state.phase is said, f"after {self._event}: {self.state.phase}, not {said}"
            return self
        if isinstance(said, c.StopTimer):
            assert self.shell.due_s(said.event) is None, f"after {self._event}: {said.event.__name__} still runs"
            return self
        if isinstance(said, MAY_BE_LEFT_OUT):
            done = next((k for k in self._kept if _same(said, k)), None)
            assert done is not None, f"after {self._event}: wanted {said}, got {[str(k) for k in self._kept]}"
            self._kept.remove(done)
            return self
        done = self._felt.popleft() if self._felt else None
        assert done is not None, f"after {self._event}: wanted {said}, got nothing"
        assert _same(said, done), f"after {self._event}: wanted {said}, got {done}"
        return self

    def __bool__(self) -> bool:
        self._nothing_left_out()
        return True

    def _nothing_left_out(self) -> None:
        left = [str(done) for done in self._felt]
        assert not left, f"after {self._event}: nothing was said of {left}"
        self._kept.clear()
