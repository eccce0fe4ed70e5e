"""Tools that were running when their process died, and those of a process that is not the call's owner any more."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from offhook.gateway.call.call import Call
from offhook.gateway.call.head import VERSION, Head, RunningHead, taken_from
from offhook.gateway.labels import LABELS
from offhook.gateway.live import Begin, CallStage, Node
from offhook.gateway.live.fleet import Fleet
from offhook.gateway.live.memory import MemoryLive
from offhook.gateway.live.seal import Seal
from offhook.gateway.store.record import CallRecord
from offhook.gateway.telephony.survival import Journal, tools_in_flight
from offhook.gateway.tools import ToolCall, ToolResult, tool
from offhook.gateway.tools.function import function_tool
from offhook.gateway.tools.runner import Known, NotOurs, ToolRunner
from offhook.metrics.catalogue import Metrics

SEAL = Seal(["a key of the fleet"])


class SilentStore(MemoryLive):
    """Does not answer."""

    async def begin_tool(self, *_: Any) -> Begin:
        await asyncio.sleep(60)
        return Begin(fenced=False)


class Checkpointed:
    """A call in the writer; whether another node took it."""

    gone = False

    def checkpoint(self) -> tuple[CallStage, bytes]:
        return CallStage.LIVE, b""

    def log(self, start: int) -> list[bytes]:
        return []

    def superseded(self) -> None:
        self.gone = True


async def owner_over(store: MemoryLive, name: str = "a") -> tuple[Fleet, Checkpointed]:
    """A node that has the call CA1."""
    fleet, kept = Fleet(name, store, Metrics(CollectorRegistry(), LABELS), here=lambda: Node(name=name)), Checkpointed()
    held = await store.ring("CA1", name)
    fleet.checkpoints.begin("CA1", kept, held.epoch)
    return fleet, kept


def call_of(errors: list[str], line: object = "up") -> Call:
    return cast(
        Call,
        SimpleNamespace(
            facts=SimpleNamespace(call_sid="CA1"),
            timeline=SimpleNamespace(error=errors.append),
            tools=SimpleNamespace(unnoted=set()),
            line=line,
        ),
    )


async def test_each_run_in_flight_is_found_by_its_key() -> None:
    store = MemoryLive(asyncio.get_running_loop().time)
    fleet, _ = await owner_over(store)
    journal = Journal(call_of([]), fleet, SEAL)
    assert await journal.begins("k:started") is None
    assert await journal.begins("k:done") is None
    await journal.done("k:done", {"result": "table 4"})
    running = [
        RunningHead("1", "book", "k:done"),
        RunningHead("2", "pay", "k:started"),
        RunningHead("3", "look", "k:3"),
        RunningHead("4", "pay", "k:4", unnoted=True),
    ]
    head = Head(v=VERSION, wall_s=1.0, record=CallRecord(call_sid="CA1"), tools=running)
    found = await tools_in_flight(fleet, SEAL, taken_from(head, [], 1.0, 8000))
    assert [known for _, known in found] == [Known({"result": "table 4"}), Known(), None, Known()]
    assert "table 4" not in str(store._calls)  # what a tool answered is encrypted


class Effects:
    """A service that acts on each request, and its tools; each run's key."""

    def __init__(self) -> None:
        self.keys: list[str] = []

        @tool(outside_effects=True)
        async def pay() -> str:
            """Pay."""
            return self.act("pay")

        @tool(outside_effects=True, idempotent=True)
        async def book() -> str:
            """Book a table."""
            return self.act("book")

        @tool
        async def look() -> str:
            """Look a table up."""
            return self.act("look")

        self.tools = {name: function_tool(f) for name, f in {"pay": pay, "book": book, "look": look}.items()}

    def act(self, key: str) -> str:
        self.keys.append(key)
        return f"{key} done"

    async def run(self, name: str, journal: Journal) -> ToolResult:
        """The model asks `journal`'s process for this tool, with the key `name`."""
        finished: asyncio.Queue[ToolResult] = asyncio.Queue()
        runner = ToolRunner(
            self.tools,
            cast(Any, SimpleNamespace()),
            limit=2,
            on_finished=lambda call, result: finished.put_nowait(result),
            on_fault=lambda error: self.keys.append(repr(error)),
            journal=lambda: journal,
        )
        runner.start(ToolCall(name, name, {}, name, {}))
        return await finished.get()


@pytest.mark.parametrize(
    ("name", "noted", "runs", "says"),
    [
        ("pay", "", 1, "pay done"),  # it had not begun
        ("pay", "begun", 0, "may have been done"),
        ("pay", "done", 0, "paid before"),
        ("book", "begun", 1, "book done"),  # again, with the same key
        ("book", "done", 0, "paid before"),
        ("look", "", 1, "look done"),
    ],
)
async def test_the_new_owner_goes_by_the_key(name: str, noted: str, runs: int, says: str) -> None:
    store, effects = MemoryLive(asyncio.get_running_loop().time), Effects()
    old, _ = await owner_over(store)
    before = Journal(call_of([]), old, SEAL)
    if noted:
        await before.begins(name)
    if noted == "done":
        await before.done(name, {"result": "paid before"})
    claim = await store.claim("CA1", "b")
    assert claim is not None
    new, _ = await owner_over(store, "b")
    result = await effects.run(name, Journal(call_of([]), new, SEAL))
    assert len(effects.keys) == runs
    assert says in str(result.response)


@pytest.mark.parametrize("name", ["pay", "book"])
async def test_an_old_owner_begins_no_tool(name: str) -> None:
    store, effects = MemoryLive(asyncio.get_running_loop().time), Effects()
    old, kept = await owner_over(store)
    await store.claim("CA1", "b")
    result = await effects.run(name, Journal(call_of([]), old, SEAL))
    assert (effects.keys, result.failure) == ([], "not_ours")
    assert kept.gone  # and the whole call is dropped there
    with pytest.raises(NotOurs):
        await Journal(call_of([]), old, SEAL).begins("another")


@pytest.mark.parametrize(("line", "runs"), [("up", 1), (None, 0)])
async def test_a_silent_store_leaves_it_to_the_stream(line: object, runs: int) -> None:
    clock, effects, errors = asyncio.get_running_loop().time, Effects(), list[str]()
    fleet, _ = await owner_over(SilentStore(clock))
    call = call_of(errors, line)
    began_s = clock()
    await effects.run("pay", Journal(call, fleet, SEAL))
    assert 0.04 < clock() - began_s < 0.2
    assert len(effects.keys) == runs
    assert len(call.tools.unnoted) == runs  # a process that takes the call over is not to run it again
    assert errors == ["a tool began without a note of it in the live store"] * runs


async def test_a_run_is_noted_before_it_begins_and_when_done() -> None:
    effects = Effects()

    class Notes:
        async def begins(self, key: str) -> None:
            effects.keys.append(f"begins {key}")

        async def done(self, key: str, response: Mapping[str, Any]) -> None:
            effects.keys.append(f"{response['result']}, noted")

    for name in ("book", "look"):
        await effects.run(name, cast(Any, Notes()))
    assert effects.keys == ["begins book", "book", "book done, noted", "look"]
