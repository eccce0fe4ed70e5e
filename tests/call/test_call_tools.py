"""What a model that has gone wrong may ask of a call's tools."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from prometheus_client import CollectorRegistry

from offhook.gateway.agent.spec import Agent
from offhook.gateway.call import tools as module
from offhook.gateway.call.facts import CallFacts
from offhook.gateway.call.timeline import Timeline
from offhook.gateway.call.tools import CallTools
from offhook.gateway.conversation import commands as c
from offhook.gateway.conversation.events import Outcome, ToolRequested
from offhook.gateway.labels import LABELS
from offhook.gateway.store.record import CallRecord
from offhook.gateway.tools import ToolResult
from offhook.metrics.catalogue import Metrics


async def test_pending_tool_calls_are_bounded() -> None:
    fed: list[Any] = []
    registry = CollectorRegistry()
    metrics = Metrics(registry, LABELS)
    wiring = SimpleNamespace(
        facts=CallFacts(call_sid="CA1"),
        agent=Agent(name="a"),
        timeline=Timeline(CallRecord(call_sid="CA1"), metrics),
        metrics=metrics,
        clock=lambda: 1.0,
        feed=fed.append,
        changed=lambda: None,
        faults=SimpleNamespace(safely=lambda part, function, *arguments: function(*arguments)),
    )
    model = mock.Mock(session=1)
    remembered: dict[str, str] = {}
    tools = CallTools(
        cast(Any, wiring), {}, remembered, hearing=mock.Mock(), model=model, say_and_end=mock.Mock(), redactor=None
    )
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
    assert len(remembered) == module.REMEMBERED_MAX
    assert max(map(len, remembered.values())) == module.SHOWN_BYTES
