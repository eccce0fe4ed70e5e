"""The table itself: nothing missing, nothing without effect, nothing untested."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import ModuleType

import pytest

from offhook.gateway import conversation
from offhook.gateway.conversation import commands, events
from offhook.gateway.conversation.machine import EVENTS, TABLE, ignore, step
from offhook.gateway.conversation.state import Phase, Policy, State
from tests.conversation.walker import fingerprint

Entry = tuple[Phase, type[events.Event]]


def entries() -> Iterator[Entry]:
    for phase, row in TABLE.items():
        for event in row:
            yield phase, event


# --- completeness


def test_every_event_has_a_handler_in_every_phase():
    happens = {getattr(events, name) for name in events.__all__}
    happens = {x for x in happens if isinstance(x, type) and issubclass(x, events.Event)} - {events.Event, events.Timer}
    assert set(EVENTS) == happens
    for phase in Phase:
        assert set(TABLE[phase]) == happens, phase


def test_after_the_end_everything_is_ignored():
    assert set(TABLE[Phase.ENDED].values()) == {ignore}


def test_an_event_from_elsewhere_is_an_error():
    with pytest.raises(KeyError):
        step(Policy(), State(), events.Event(1.0))


@pytest.mark.parametrize("at_s", [-1.0, float("nan")])
def test_time_is_a_time(at_s):
    with pytest.raises(ValueError, match="at_s"):
        events.TimeLimit(at_s)


def test_events_and_commands_are_frozen():
    names = [(module, name) for module in (events, commands) for name in module.__all__]
    kinds = [kind for module, name in names if hasattr(kind := getattr(module, name), "__dataclass_fields__")]
    assert len(kinds) > 50
    for kind in kinds:
        fields = dict.fromkeys(kind.__dataclass_fields__, 1.0)
        value = kind(**fields)
        assert (value == kind(**fields), hash(value)) == (True, hash(kind(**fields)))
        alike = (x for x in kinds if x is not kind and x.__dataclass_fields__.keys() == fields.keys())
        assert all(value != x(**fields) for x in alike), "two kinds are never equal"
        for field in fields:
            with pytest.raises(FrozenInstanceError):
                setattr(value, field, 2.0)


def test_every_module_says_what_it_offers():
    for found in pkgutil.walk_packages(conversation.__path__, "offhook.gateway.conversation."):
        if found.ispkg:
            continue
        module = importlib.import_module(found.name)
        assert module.__doc__
        for name in module.__all__:
            assert hasattr(module, name), f"{found.name}.{name}"
        public = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == found.name and callable(value)
        }
        assert public <= set(module.__all__), found.name


def test_machine_picture_is_of_the_current_table():
    picture = Path(__file__).parents[2] / "docs" / "machine.svg"
    assert fingerprint() in picture.read_text(), "the table has changed since: draw it again with `make figures`"


def test_every_command_is_frozen_and_emitted():
    handlers = importlib.resources.files("offhook.gateway.conversation").joinpath("handlers")
    source = "".join(path.read_text() for path in handlers.iterdir() if path.name.endswith(".py"))
    for name in commands.__all__:
        value = getattr(commands, name)
        if issubclass(value, commands.Command) and value is not commands.Command:
            assert f"c.{name}(" in source, name
            assert value.__dataclass_params__.frozen


# --- mutations: every handler replaced by `ignore`, in turn, must be caught by a dialogue


def dialogue_modules() -> Iterator[ModuleType]:
    """The test modules of this folder whose tests are dialogues with the machine, written with `Playbook`."""
    for found in pkgutil.iter_modules([str(Path(__file__).parent)], "tests.conversation."):
        if "test_machine_" in found.name and found.name != __name__:
            module = importlib.import_module(found.name)
            if hasattr(module, "Playbook"):
                yield module


def dialogues() -> Iterator[tuple[str, Callable[[], object]]]:
    """Every test function of the dialogue modules, for each of its parameters, as pytest would call it."""
    for module in dialogue_modules():
        for name, function in vars(module).items():
            if not name.startswith("test_"):
                continue
            choices = []
            for mark in getattr(function, "pytestmark", []):
                names = mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]
                choices.append(
                    [dict(zip(names, row if len(names) > 1 else (row,), strict=True)) for row in mark.args[1]]
                )
            for rows in itertools.product(*choices):
                arguments = {k: v for row in rows for k, v in row.items()}
                yield f"{module.__name__}.{name}", lambda f=function, a=arguments: f(**a)


@contextmanager
def replaced(entry: Entry, handler: Callable[..., State]) -> Iterator[None]:
    phase, event = entry
    before = TABLE[phase][event]
    TABLE[phase][event] = handler
    try:
        yield
    finally:
        TABLE[phase][event] = before


def visits() -> dict[Entry, list[Callable[[], object]]]:
    """Which dialogues come past which entry of the table."""
    visited: dict[Entry, list[Callable[[], object]]] = defaultdict(list)
    seen: set[Entry] = set()
    originals = {entry: TABLE[entry[0]][entry[1]] for entry in entries()}

    def noting(entry: Entry) -> Callable[..., State]:
        def handler(*args):
            seen.add(entry)
            return originals[entry](*args)

        return handler

    try:
        for phase, event in originals:
            TABLE[phase][event] = noting((phase, event))
        for _, dialogue in dialogues():
            seen.clear()
            dialogue()
            for entry in seen:
                visited[entry].append(dialogue)
    finally:
        for (phase, event), handler in originals.items():
            TABLE[phase][event] = handler
    return visited


def is_caught(entry: Entry, visitors: list[Callable[[], object]]) -> bool:
    with replaced(entry, ignore):
        for dialogue in visitors:
            try:
                dialogue()
            except AssertionError:
                return True
    return False


def test_a_handler_that_did_nothing_would_be_noticed():
    visited = visits()
    mutants = [entry for entry in entries() if TABLE[entry[0]][entry[1]] is not ignore]
    survivors = [
        f"{phase.value}: {event.__name__} ({TABLE[phase][event].__name__})"
        for phase, event in mutants
        if not is_caught((phase, event), visited[phase, event])
    ]
    print(
        f"{len(mutants) - len(survivors)} of {len(mutants)} mutants caught by {sum(1 for _ in dialogues())} dialogues"
    )
    assert not survivors
