"""How a mutation gets into a gateway: in the process that plays one on the quick clock, and nowhere else.

All that happens in a call passes through its attributes: the methods of `LineSink` and `ModelSink`, and the table of
its commands. A mutation wraps some of them in a call that has just been made, or changes the agent that was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from offhook.gateway.agent.spec import Agent
from offhook.gateway.call.call import Call
from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation import events as e

__all__ = ["Mutation", "Planted", "Seams", "planted"]

Change = Callable[..., Any]  # (original, *arguments): what is done instead
When = Callable[..., bool]  # (*arguments): whether the mutation concerns this


def _any(*_: Any) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Mutation:
    """One fault. `named_by`: the kinds of expectation that name the property it breaks; a scenario that fails by
    another kind alone has noticed it by chance.

    `call` wraps what it changes of a call; `agent` returns the changed agent, or the same one.
    """

    name: str
    about: str
    named_by: frozenset[str]
    call: Callable[[Call, Seams], None] | None = None
    agent: Callable[[Agent], Agent] | None = None


class Seams:
    """Wraps parts of calls. `reached` counts how often the mutation was or, where it only listens, would have been at
    work.
    """

    def __init__(self, *, listens: bool) -> None:
        self._listens = listens
        self.reached = 0

    def method(self, owner: Any, name: str, change: Change, when: When = _any) -> None:
        """Wrap a method of one object."""
        setattr(owner, name, self._wrapped(getattr(owner, name), change, when))

    def command(self, call: Call, kind: type[c.Command], change: Change, when: When = _any) -> None:
        """Wrap what is done for a command of the machine's."""
        self._entry(call._do, kind, change, when)

    def timed(self, call: Call, kind: type[e.Event] | type[c.Command], change: Change) -> None:
        """Wrap what the timeline makes of an event or a command."""
        table: dict[Any, Any] = {**call.timeline._on_event, **call.timeline._on_command}
        wrapped = self._wrapped(table[kind], change, _any)
        for handlers in (call.timeline._on_event, call.timeline._on_command):
            if kind in handlers:
                handlers[kind] = wrapped  # type: ignore[index]

    def changed(self, agent: Agent, mutation: Callable[[Agent], Agent]) -> Agent:
        """The agent, changed unless the mutation only listens."""
        other = mutation(agent)
        self.reached += other != agent
        return agent if self._listens else other

    def _entry(self, table: dict[Any, Any], key: Any, change: Change, when: When) -> None:
        table[key] = self._wrapped(table[key], change, when)

    def _wrapped(self, original: Callable[..., Any], change: Change, when: When) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            if not when(*arguments):
                return original(*arguments, **named)
            self.reached += 1
            if self._listens:
                return original(*arguments, **named)
            return change(original, *arguments, **named)

        return wrapped


@dataclass(frozen=True, slots=True)
class Planted:
    """Mutations that are planted, or listen: what they make of an agent, and how often each was at work."""

    mutations: Sequence[Mutation]
    seams: Mapping[str, Seams]

    def agent(self, agent: Agent) -> Agent:
        for mutation in self.mutations:
            if mutation.agent is not None:
                agent = self.seams[mutation.name].changed(agent, mutation.agent)
        return agent

    def reached(self) -> dict[str, int]:
        return {name: seams.reached for name, seams in self.seams.items() if seams.reached}


@contextmanager
def planted(mutations: Sequence[Mutation], *, listen: bool = False) -> Iterator[Planted]:
    """Plant these in all calls that this process makes meanwhile. `listen`: nothing is changed, only counted."""
    there = Planted(mutations, {mutation.name: Seams(listens=listen) for mutation in mutations})
    init = Call.__init__

    def mutated_init(call: Call, *arguments: Any, **named: Any) -> None:
        init(call, *arguments, **named)
        for mutation in mutations:
            if mutation.call is not None:
                mutation.call(call, there.seams[mutation.name])

    with mock.patch.object(Call, "__init__", mutated_init):
        yield there
