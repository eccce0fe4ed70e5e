"""A tool with an effect runs while its gateway loses the call: two gateways and a service, on the quick clock."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from yarl import URL

from offhook.gateway.app import Gateway
from offhook.gateway.live import LiveStore
from offhook.gateway.rehearsal.model.record import SessionRecord
from offhook.gateway.rehearsal.model.script import CallTool, Reply, Say, Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.quick_clock import run_quickly
from offhook.gateway.store.record import CallRecord
from tests.rig.front import Front
from tests.rig.gateway import node_environ, numbered_agents, serving
from tests.rig.model import id_after

TOOL = """
greeting: {{text: Greet the caller.}}
tools:
  - name: book
    description: Books a table.
    outside_effects: true
    http: {{method: {method}, url: "{url}/{name}", allow_private: true}}
"""
METHODS = {"ended": "POST", "runs": "POST", "repeats": "PUT"}
GREETING = Reply("text:Greet", (Say("Hello.", length_ms=200), CallTool("book", {})))
SCRIPT = Script((GREETING,), default=Reply("any", (Say("Yes.", length_ms=200),)))
WITHIN_S = 20.0


class Service:
    """Acts on each request at once, and answers when it may. Each call has a path of its own."""

    def __init__(self) -> None:
        self.keys: dict[str, list[str]] = defaultdict(list)
        self.answers: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def _book(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.keys[name].append(request.headers["Idempotency-Key"])
        await self.answers[name].wait()
        return web.json_response({"table": 4})

    async def open(self, stack: AsyncExitStack) -> str:
        app = web.Application()
        app.router.add_route("*", "/{name}", self._book)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"


@dataclass
class Moved:
    """`keys`: of the service's requests. `old`, `new`: the model's sessions at both owners. `records`: by gateway."""

    keys: list[str]
    old: list[SessionRecord]
    new: list[SessionRecord]
    records: dict[str, CallRecord | None]


async def until(ready: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not ready():
            await asyncio.sleep(0.01)


async def stops_beating(gateway: Gateway) -> LiveStore:
    """To the others it is dead: no beat, no checkpoint. What it runs goes on."""
    for call_id in gateway.calls:
        assert await gateway.fleet.checkpoints.written(call_id, 5.0)
    for task in gateway.fleet._tasks:
        task.cancel()
    store = gateway.fleet._store
    assert store is not None
    await store.leave(gateway.node)
    return store


async def three_calls(folder: Path) -> dict[str, Moved]:
    """Their tools run when the first gateway loses them: "ended" ends just before its call is claimed, "runs" after it
    and before the first gateway finds out, "repeats" after that.
    """
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(ModelServer(lambda _: SCRIPT))
        service, gateways, ports = Service(), dict[str, Gateway](), list[int]()
        at = await service.open(stack)
        fields = {name: TOOL.format(method=method, name=name, url=at) for name, method in METHODS.items()}
        numbers, agents = numbered_agents(fields)
        for name in ("a", "b"):
            environ = node_environ(name, f"sqlite:{folder}/live.db") | {"OFFHOOK_SIMULATED_EFFECTS": "*"}
            gateways[name], url = await stack.enter_async_context(serving(agents, environ, model=model))
            ports.append(URL(url).port or 0)
        a, b = gateways.values()
        front = await stack.enter_async_context(Front(lambda _: ports[:1]))
        calls = {name: SimulatedCall(front.url, dialled=number) for name, number in numbers.items()}
        running = [asyncio.ensure_future(call.run()) for call in calls.values()]
        await until(lambda: len(service.keys) == len(calls))
        store = await stops_beating(a)
        await b.fleet._beat()
        service.answers["ended"].set()
        while not ((run := await store.tool_run(calls["ended"].call_sid, service.keys["ended"][0])) and run.done):
            pass
        old = list(model.sessions)
        del ports[0]  # the balancer has found it gone, with every connection
        front.abort()
        await until(lambda: all(call.call_sid in b.calls and call.streaming for call in calls.values()))
        await until(lambda: len(service.keys["repeats"]) == 2)
        await until(lambda: {id_after("plan", s.setup) for s in model.sessions[len(old) :] if s.texts} == set(calls))
        service.answers["runs"].set()
        await until(lambda: any(s.tool_answers for s in old if id_after("plan", s.setup) == "runs"))
        await a.fleet.join()  # it comes back, and its first checkpoint is refused
        await until(lambda: not a.calls)
        service.answers["repeats"].set()
        await until(lambda: b.calls[calls["repeats"].call_sid].record.tool_calls[0].finished_ms)
        for call in calls.values():
            call.hang_up()
        assert {truth.ended_by for truth in await asyncio.gather(*running)} == {"caller"}
        await until(lambda: not b.calls and len(b.records) == len(calls))
        return {
            name: Moved(
                service.keys[name],
                [s for s in old if id_after("plan", s.setup) == name],
                [s for s in model.sessions[len(old) :] if id_after("plan", s.setup) == name],
                {node: await gateway.records.get(call.call_sid) for node, gateway in gateways.items()},
            )
            for name, call in calls.items()
        }


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Moved]:
    return run_quickly(lambda _: three_calls(tmp_path_factory.mktemp("live")))


@pytest.mark.parametrize(
    ("name", "requests", "told", "outcome"),
    [
        ("ended", 1, 'ran to its end.*"table": ?4', "done"),
        ("runs", 1, "Whether it was carried out is not known", "failed"),
        ("repeats", 2, 'has ended.*"table": ?4', "done"),  # with the same key
    ],
)
def test_a_tool_takes_effect_once_in_two_processes(
    moved: dict[str, Moved], name: str, requests: int, told: str, outcome: str
) -> None:
    seen = moved[name]
    assert len(seen.keys) == requests
    assert len(set(seen.keys)) == 1
    texts = [text.text for session in seen.new for text in session.texts]
    assert any(re.search(told, text) for text in texts), texts
    record = seen.records["b"]
    assert record is not None
    assert [tool.outcome for tool in record.tool_calls] == [outcome]


@pytest.mark.parametrize(("name", "old_results"), [("ended", 1), ("runs", 1), ("repeats", 0)])
def test_a_late_result_reaches_no_caller_or_record(moved: dict[str, Moved], name: str, old_results: int) -> None:
    seen = moved[name]
    assert sum(len(session.tool_answers) for session in seen.old) == old_results
    assert not any(session.tool_answers for session in seen.new)
    assert seen.records["a"] is None
