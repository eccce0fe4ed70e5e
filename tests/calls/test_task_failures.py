"""An exception raised on purpose in each task of a call, each callback of its line and link, and each closing part."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any
from unittest import mock

import pytest

from offhook.gateway import ticker
from offhook.gateway.app import Gateway
from offhook.gateway.call.call import Call
from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation.events import CallerSpeechStarted
from offhook.gateway.models.gemini import messages as wire
from offhook.gateway.rehearsal.model.script import CallTool, Reply, Script, Send
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, WaitForAgent
from tests.calls.lines import GREETING, HELLO, SATURDAY, agent
from tests.rig.calls import Outcome, Plan, place_calls

SILENCE_MAX_S = 2.0
THINKING_S = 1.0  # of the rehearsal model, and the caller's hangover, in each answer
STEPS = (WaitForAgent("end"), Say(HELLO), WaitForAgent("end"), Pause(200), HangUp())
ANSWERS = tuple(Reply("any", (SATURDAY,)) for _ in range(9))
SCRIPT = Script((GREETING, *ANSWERS))
WITH_TOOL = Script((GREETING, Reply("caller", (CallTool("quick"),)), *ANSWERS))
TOOLS = agent("function: 'tests.calls.slow_tools:quick', name: quick")


class Planted(Exception):
    """Raised on purpose."""


@dataclass
class Trap:
    """Raises in a call, once the caller has begun to speak. `times`: how often."""

    times: int = 1
    error: Callable[[], BaseException] = Planted
    armed: bool = False
    sprung: int = 0
    at_s: float = 0.0
    call: Call | None = None

    def on(self, owner: Any, name: str) -> None:
        """Replace `owner.name`, a function, by one that raises."""
        setattr(owner, name, self.around(getattr(owner, name)))

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def raising(*args: Any, **kwargs: Any) -> Any:
            if self.armed and self.sprung < self.times:
                self.sprung += 1
                self.at_s = self.at_s or (self.call.clock() if self.call is not None else 0.0)
                raise self.error()
            return function(*args, **kwargs)

        return raising

    def watch(self, call: Call) -> None:
        observe, self.call = call.timeline.observe, call

        def observed(event: Any, commands: Any) -> None:
            self.armed = self.armed or isinstance(event, CallerSpeechStarted)
            observe(event, commands)

        call.timeline.observe = observed  # type: ignore[method-assign]


@dataclass(frozen=True)
class Case:
    """`plant(call, trap)` sets it; `part` is the one counted; `ending` of the call."""

    part: str
    plant: Callable[[Call, Trap], object]
    ending: str = "caller_hung_up"
    times: int = 1
    error: Callable[[], BaseException] = Planted
    script: Script = SCRIPT
    agent: str = "greeting: {text: Greet.}"
    logged: str = "Planted"
    trap: Trap = field(default_factory=Trap)


def sink(name: str) -> Callable[[Call, Trap], None]:
    return lambda call, trap: trap.on(call, name)


def line(name: str) -> Callable[[Call, Trap], None]:
    """In a callback of the line's, which is the call's attribute, too."""
    return lambda call, trap: trap.on(call, name)


def command(kind: type) -> Callable[[Call, Trap], None]:
    return lambda call, trap: call._do.__setitem__(kind, trap.around(call._do[kind]))


def message(kind: type) -> Callable[[Call, Trap], None]:
    return lambda call, trap: call.model.link._act.__setitem__(kind, trap.around(call.model.link._act[kind]))


def connecting(call: Call, trap: Trap) -> None:
    """The reader fails, and so does the connection after it."""
    trap.times = 2
    trap.on(call, "usage")
    trap.on(call.model.link, "_session")


def closing(part: str) -> Callable[[Call, Trap], None]:
    return lambda call, trap: trap.on(attrgetter(part)(call), "close")


def closing_line(call: Call, trap: Trap) -> None:
    attach = call.attach

    def attached(line: Any) -> None:
        attach(line)
        trap.on(line, "close")

    call.attach = attached  # type: ignore[method-assign]


RECORDED = "greeting: {text: Greet.}\nrecording: {enabled: true, directory: '%s'}"
CASES = {
    **{
        f"link's {name}": Case("link_reader", sink(name))
        for name in ("event", "reply_audio", "words", "usage", "next_turn")
    },
    "link's tool_call": Case("link_reader", sink("tool_call"), script=WITH_TOOL, agent=TOOLS),
    "link's segment": Case("link_writer", sink("segment")),
    "link's memory": Case("link_reader", sink("reply_audio"), error=MemoryError, logged="MemoryError"),
    "link's reader cancelled": Case(
        "link_reader", sink("words"), error=asyncio.CancelledError, logged="CancelledError"
    ),
    "link's own code": Case("link_reader", message(wire.Audio)),
    "link's writer": Case(
        "link_writer", lambda call, trap: trap.on(call.model.link._outbox, "_wanted"), script=WITH_TOOL, agent=TOOLS
    ),
    "link's connecting": Case("link", connecting),
    "link's audio": Case("link_writer", lambda call, trap: trap.on(call.model.link._outbox, "audio")),
    "line's sent": Case("line_sender", line("sent")),
    "line's audio": Case("line_reader", line("caller_audio")),
    "line's audio for ever": Case("line_reader", line("caller_audio"), ending="internal_error", times=10_000),
    "line's mark": Case("line_reader", line("mark_heard")),
    "a command": Case("conversation", command(c.SendMark), ending="internal_error"),
    "a timer": Case("timer", lambda call, trap: trap.on(call, "_fire")),
    "tool's request": Case(
        "tool", lambda call, trap: trap.on(call.timeline, "tool_started"), script=WITH_TOOL, agent=TOOLS
    ),
    "tool's end": Case("tool", lambda call, trap: trap.on(call.timeline, "tool_told"), script=WITH_TOOL, agent=TOOLS),
    "tool's callback": Case(
        "tool", lambda call, trap: trap.on(call.tools._runner, "_on_finished"), script=WITH_TOOL, agent=TOOLS
    ),
    "the recording": Case("recording", lambda call, trap: trap.on(call._recorder._recording, "caller"), agent=RECORDED),
    **{f"closing {part}": Case("closing", closing(part)) for part in ("tools", "model.link")},
    **{
        f"closing {part}, cancelled": Case("closing", closing(part), error=asyncio.CancelledError, logged="Cancelled")
        for part in ("tools", "model.link")
    },
    "closing the line": Case("closing", closing_line),
    "closing the recording": Case("closing", closing("_recorder"), agent=RECORDED),
    "the record's end": Case("closing", lambda call, trap: trap.on(call.timeline, "ended")),
    "a negative count": Case(
        "", lambda call, trap: None, script=Script((GREETING, Reply("caller", (
            Send({"usageMetadata": {"promptTokenCount": -5, "responseTokenCount": 2**40}}), SATURDAY)), *ANSWERS)),
    ),
}  # fmt: skip


@dataclass
class Placed:
    outcomes: dict[str, Outcome]
    metrics: str
    log: list[str]
    traps: dict[str, Trap]


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Placed:
    lines: list[str] = []
    handler = logging.Handler()
    handler.setFormatter(formatter := logging.Formatter("%(message)s"))
    handler.emit = lambda record: lines.append(formatter.format(record))  # type: ignore[method-assign]
    folder, metrics = tmp_path_factory.mktemp("recordings"), []
    ids = {f"case{n}": name for n, name in enumerate(CASES)}
    traps = {name: Trap(case.times, case.error) for name, case in CASES.items()}

    def plant(gateway: Gateway, _: object) -> None:
        opened = gateway.switchboard._open_call

        def open_call(facts: Any, agent: Any, rang_s: Any) -> Call:
            call = opened(facts, agent, rang_s)
            name = ids[agent.name]
            traps[name].watch(call)
            CASES[name].plant(call, traps[name])
            return call

        gateway.switchboard._open_call = open_call

    plans = {
        key: Plan(
            STEPS, case.script, agent=case.agent.replace("%s", str(folder)), during=plant if key == "case0" else None
        )
        for key, case in ((key, CASES[name]) for key, name in ids.items())
    }
    logger = logging.getLogger("offhook.gateway")
    logger.addHandler(handler)
    try:
        outcomes = place_calls(plans, metrics=metrics)
    finally:
        logger.removeHandler(handler)
    return Placed({ids[key]: outcome for key, outcome in outcomes.items()}, metrics[0], lines, traps)


RAISING = [name for name, case in CASES.items() if case.part]


@pytest.mark.parametrize("name", RAISING)
def test_failure_is_logged_with_its_call(placed: Placed, name: str) -> None:
    case, sid = CASES[name], placed.outcomes[name].record.call_sid
    assert placed.traps[name].sprung, "the trap was not reached"
    mine = [text for text in placed.log if sid in text and "failed\nTraceback" in text]
    assert mine, "no traceback with the call's id"
    assert [text for text in mine if f"call {sid}: {case.part.replace('_', ' ')} failed" in text]
    assert case.logged in mine[0]
    assert len(mine) <= 10


@pytest.mark.parametrize("part", sorted({case.part for case in CASES.values() if case.part}))
def test_failure_is_counted(placed: Placed, part: str) -> None:
    found = re.search(rf'offhook_task_failures_total{{part="{part}"}} (\S+)', placed.metrics)
    least = sum(1 for case in CASES.values() if case.part == part)
    assert found is not None
    assert float(found[1]) >= least


@pytest.mark.parametrize("name", CASES)
def test_caller_is_answered_or_the_call_ends(placed: Placed, name: str) -> None:
    outcome, case = placed.outcomes[name], CASES[name]
    assert outcome.record.end_reason == case.ending
    if case.ending == "internal_error":
        (stream,) = outcome.truth.streams
        assert stream.closed_s is not None
        assert stream.closed_s - placed.traps[name].at_s < SILENCE_MAX_S  # and the fallback follows
        return
    (said,) = outcome.truth.spoken
    answers = [heard.start_s for heard in outcome.truth.agent if heard.start_s > said.end_s]
    assert answers, "the caller was not answered"
    assert answers[0] - said.end_s < SILENCE_MAX_S + THINKING_S


def test_values_out_of_range_are_bad_fields(placed: Placed) -> None:
    assert 'offhook_input_errors_total{peer="model",reason="bad_field"} 2' in placed.metrics
    assert len(placed.outcomes["a negative count"].sessions) == 1


def test_tool_is_answered_though_its_record_fails(placed: Placed) -> None:
    for name in ("tool's request", "tool's end"):
        (answer,) = [a for s in placed.outcomes[name].sessions for a in s.tool_answers]
        assert answer.response["result"] == "done"
    (answer,) = [a for s in placed.outcomes["tool's callback"].sessions for a in s.tool_answers]
    assert answer.response["status"] == "error"


def test_call_that_does_not_close_is_given_up() -> None:
    def plant(gateway: Gateway, _: object) -> None:
        opened = gateway.switchboard._open_call

        def open_call(*arguments: Any) -> Call:
            call = opened(*arguments)
            call._teardown._close_parts = asyncio.Event().wait  # type: ignore[method-assign, assignment]
            return call

        gateway.switchboard._open_call = open_call

    exposition: list[str] = []
    steps = (WaitForAgent("end"), HangUp())
    with mock.patch.object(ticker, "ENDING_MAX_S", 2.0):
        outcomes = place_calls({"stuck": Plan(steps, SCRIPT, during=plant)}, metrics=exposition)
    record = outcomes["stuck"].record
    assert record.end_reason == "caller_hung_up"
    assert record.errors == ["the call did not close in time and was given up"]
    assert "offhook_stuck_calls_total 1" in exposition[0]
    assert "offhook_calls_active 0" in exposition[0]
