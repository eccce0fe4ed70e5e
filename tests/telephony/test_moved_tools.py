"""Tools that were running when their process died: noted before they begin, and never run again by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client import CollectorRegistry

from offhook.gateway.call.call import Call
from offhook.gateway.call.head import VERSION, Head, RunningHead, taken_from
from offhook.gateway.labels import LABELS
from offhook.gateway.live import Node
from offhook.gateway.live.fleet import Fleet
from offhook.gateway.live.memory import MemoryLive
from offhook.gateway.live.seal import Seal
from offhook.gateway.store.record import CallRecord
from offhook.gateway.telephony.survival import Journal, tool_notes
from offhook.gateway.tools import ToolCall, ToolResult, tool
from offhook.gateway.tools.function import function_tool
from offhook.gateway.tools.runner import ToolRunner
from offhook.metrics.catalogue import Metrics


class SilentStore(MemoryLive):
    """Does not answer."""

    async def note_tool(self, *_: Any) -> None:
        await asyncio.sleep(60)


def fleet_over(store: MemoryLive) -> Fleet:
    return Fleet("a", store, Metrics(CollectorRegistry(), LABELS), here=lambda: Node(name="a"))


def call_of(errors: list[str]) -> Call:
    facts, timeline = SimpleNamespace(call_sid="CA1"), SimpleNamespace(error=errors.append)
    return cast(Call, SimpleNamespace(facts=facts, timeline=timeline))


async def test_the_model_is_told_what_is_known() -> None:
    store, seal = MemoryLive(asyncio.get_running_loop().time), Seal(["a key of the fleet"])
    fleet = fleet_over(store)
    await store.ring("CA1", "a")
    journal = Journal(call_of([]), fleet, seal)
    await journal.begins("k:started")
    await journal.begins("k:done")
    await journal.done("k:done", {"result": "table 4"})
    running = [
        RunningHead("1", "book", "k:done"),
        RunningHead("2", "pay", "k:started"),
        RunningHead("3", "look", "k:3"),
    ]
    head = Head(v=VERSION, wall_s=1.0, record=CallRecord(call_sid="CA1"), tools=running)
    done, started = await tool_notes(fleet, seal, taken_from(head, [], 1.0, 8000))
    assert "book ran to its end" in done
    assert "table 4" in done
    assert "pay was running" in started
    assert "is not known" in started
    assert "table 4" not in str(store._calls)  # what a tool answered is encrypted


class Notes:
    """A `ToolJournal` that keeps the order of things."""

    def __init__(self, order: list[str]) -> None:
        self.order = order

    async def begins(self, key: str) -> None:
        self.order.append(f"begins {key}")

    async def done(self, key: str, response: Mapping[str, Any]) -> None:
        self.order.append(f"done {response['result']}")


async def test_a_run_is_noted_before_it_begins_and_when_done() -> None:
    order: list[str] = []

    @tool(outside_effects=True)
    async def book(table: int) -> str:
        """Book a table."""
        order.append(f"books {table}")
        return f"booked {table}"

    @tool
    async def look(table: int) -> str:
        """Look a table up."""
        order.append(f"looks {table}")
        return "free"

    finished: asyncio.Queue[ToolResult] = asyncio.Queue()
    runner = ToolRunner(
        {"book": function_tool(book), "look": function_tool(look)},
        cast(Any, SimpleNamespace()),
        limit=2,
        on_finished=lambda call, result: finished.put_nowait(result),
        on_fault=lambda error: order.append(repr(error)),
        journal=lambda: Notes(order),
    )
    for name in ("book", "look"):
        runner.start(ToolCall(name, name, {"table": 4}, f"key of {name}", {}))
        await finished.get()
    assert order == ["begins key of book", "books 4", "done booked 4", "looks 4"]


async def test_a_silent_store_delays_a_tool_by_50_ms() -> None:
    clock = asyncio.get_running_loop().time
    errors: list[str] = []
    journal = Journal(call_of(errors), fleet_over(SilentStore(clock)), Seal(["a key of the fleet"]))
    began_s = clock()
    await journal.begins("k")
    assert 0.04 < clock() - began_s < 0.2
    assert errors == ["a tool began without a note of it in the live store"]
