"""What a model that has gone wrong may ask of a call's tools."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest
from prometheus_client import CollectorRegistry

from offhook.gateway.agent.spec import Agent
from offhook.gateway.call import tools as module
from offhook.gateway.call.facts import CallFacts
from offhook.gateway.call.head import RunningHead
from offhook.gateway.call.timeline import Timeline
from offhook.gateway.call.tools import CallTools
from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation.events import Outcome, ToolFinished, ToolRequested
from offhook.gateway.labels import LABELS
from offhook.gateway.store.record import CallRecord, ToolRecord
from offhook.gateway.tools import Repeat, Tool, ToolCall, ToolResult
from offhook.gateway.tools.runner import Known
from offhook.metrics.catalogue import Metrics


def tools_of(
    fed: list[Any], registry: CollectorRegistry, offered: dict[str, Tool], record: CallRecord
) -> tuple[CallTools, Any, Any]:
    """A call's tools, their wiring and their model; what they feed to the machine."""
    metrics = Metrics(registry, LABELS)
    wiring = SimpleNamespace(
        facts=CallFacts(call_sid="CA1"),
        agent=Agent(name="a"),
        timeline=Timeline(record, metrics),
        metrics=metrics,
        clock=lambda: 1.0,
        feed=fed.append,
        changed=lambda: None,
        faults=SimpleNamespace(safely=lambda part, function, *arguments: function(*arguments)),
    )
    model = mock.Mock(session=1)
    tools = CallTools(
        cast(Any, wiring), offered, {}, hearing=mock.Mock(), model=model, say_and_end=mock.Mock(), redactor=None
    )
    return tools, wiring, model


async def test_pending_tool_calls_are_bounded() -> None:
    fed: list[Any] = []
    registry = CollectorRegistry()
    tools, wiring, model = tools_of(fed, registry, {}, CallRecord(call_sid="CA1"))
    for n in range(module.PENDING_MAX + 50):
        tools.requested(f"t{n}", "find", {})
    assert [type(event) for event in fed] == [ToolRequested] * module.PENDING_MAX
    refused = model.link.tool_result.call_args_list
    assert [call.args[0] for call in refused] == [f"t{module.PENDING_MAX + n}" for n in range(50)]
    assert registry.get_sample_value("offhook_tool_failures_total", {"reason": "too_many"}) == 50
    assert len(wiring.timeline.record.errors) <= 50
    tools._results["t0"] = ToolResult(Outcome.DONE, {}, "")
    tools.answer(c.AnswerTool("t0", Outcome.DONE, c.Speak.NOW))  # one is over: there is room again
    tools.requested("later", "find", {})
    assert len(fed) == module.PENDING_MAX + 1
    for n in range(module.REMEMBERED_MAX + 9):
        tools.remember(f"key {n}", "x" * 10_000)
    remembered = tools.remembered
    assert len(remembered) == module.REMEMBERED_MAX
    assert max(map(len, remembered.values())) == module.SHOWN_BYTES


BEGUN, DONE = Known(), Known({"result": "table 4"})


@pytest.mark.parametrize(
    ("repeat", "known", "arguments", "told", "outcome"),
    [
        (Repeat.NEVER, DONE, {}, "ran to its end", "done"),
        (Repeat.NEVER, BEGUN, {}, "is not known", "failed"),
        (Repeat.NEVER, None, {}, "runs again", ""),  # it had not begun
        (Repeat.BY_KEY, BEGUN, {}, "runs again", ""),
        (Repeat.SAFE, None, {}, "runs again", ""),
        (Repeat.SAFE, None, None, "is not known", "failed"),  # its arguments were too large to keep
    ],
)
async def test_a_tool_in_flight_is_decided_by_its_key(
    repeat: Repeat, known: Known | None, arguments: dict[str, Any] | None, told: str, outcome: str
) -> None:
    runs: list[str] = []

    async def book(call: ToolCall, host: Any) -> str:
        runs.append(call.idempotency_key)
        return "booked"

    record = CallRecord(call_sid="CA1", tool_calls=[ToolRecord(call_id="t1", name="book", requested_ms=5.0)])
    offered = {"book": Tool("book", "Book.", {"type": "object"}, book, repeat=repeat)}
    fed: list[Any] = []
    tools, wiring, model = tools_of(fed, CollectorRegistry(), offered, record)
    reported: list[str] = []
    wiring.timeline.on_tool = lambda tool: reported.append(tool.outcome)
    (note,) = tools.take_up([(RunningHead("t1", "book", "CA1:1:t1", arguments), known)], again=True)
    assert reported == ([outcome] if outcome else [])
    tools.run_again()
    assert told in note
    assert (record.tool_calls[0].outcome, len(record.tool_calls)) == (outcome, 1)
    assert [type(event) for event in fed] == ([] if outcome else [ToolRequested])
    if not outcome:
        assert tools.running() == [RunningHead("t1", "book", "CA1:1:t1", {})]  # of a process after this one, too
        tools.run(c.RunTool("t1"))
        while not isinstance(fed[-1], ToolFinished):
            await asyncio.sleep(0)
        tools.answer(c.AnswerTool("t1", Outcome.DONE, c.Speak.NOW))
        assert "booked" in model.link.prompt.call_args.args[0]  # no answer to a call that this session may not have
        assert model.link.tool_result.mock_calls == []
        assert record.tool_calls[0].answer == '{"status":"ok","result":"booked"}'
        wiring.timeline.observe(ToolFinished(2.0, "t1", Outcome.DONE), [c.AnswerTool("t1", Outcome.DONE, None)])
        assert record.tool_calls[0].outcome == "done"
    assert runs == ([] if outcome else ["CA1:1:t1"])
