"""A process that ends hands its calls over while the process that is to have them is slow to answer.

On the quick clock: two gateways, and a balancer that prefers the gateway that an address names.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

import pytest
from yarl import URL

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.app import Gateway
from offhook.gateway.live import CallStage, StoreAway, Write, Written
from offhook.gateway.live.memory import MemoryLive
from offhook.gateway.rehearsal.model.script import Reply, Say, Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.quick_clock import Clock, run_quickly
from tests.rig.front import Front
from tests.rig.gateway import node_environ, serving

NODE = re.compile(rb" /twilio/n/([a-z]+)/")
AFTER, PUBLIC = "/twilio/n/a/after", "https://voice.example.com"
AGENT = "name: shop\ngreeting: {text: Greet the caller.}\nfallback: {say: We are closed.}\n"
COUNTS = Script(
    (
        Reply("text:Greet", (Say(" ".join(f"number{n}" for n in range(1, 61)) + "."),)),
        Reply("text:line broke", (Say("and so on to the end."),)),
    ),
    default=Reply("caller", (Say("Yes."),)),
)


class Store(MemoryLive):
    """Refuses the state of calls that are handed over until `away_until_s`."""

    away_until_s = 0.0

    async def write(self, writes: list[Write]) -> list[Written]:  # type: ignore[override]
        if any(write.stage is CallStage.HANDOVER for write in writes) and self._clock() < self.away_until_s:
            raise StoreAway("away")
        return await super().write(writes)


def in_order(ports: Mapping[str, int], head: bytes) -> list[int]:
    """To the gateway that a request names, or to another one where that is gone."""
    named = NODE.search(head)
    first = named[1].decode() if named else ""
    return [ports[name] for name in sorted(ports, key=lambda name: name != first)]


async def until(ready: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not ready():
            await asyncio.sleep(0.01)


async def drained(clock: Clock, late_s: float, away_s: float) -> tuple[list[SimulatedCall], list[str]]:
    """Gateway a has two calls and ends. From then on b has what its peer sends it `late_s` later, and the store keeps
    no hand-over for `away_s`. The calls, hung up once all is over; and the owners of their last streams.
    """
    store, gateways, ports, ends = Store(clock), dict[str, Gateway](), dict[str, int](), asyncio.Event()
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(ModelServer(lambda _: COUNTS))
        front = await stack.enter_async_context(Front(lambda head: in_order(ports, head)))
        between = await stack.enter_async_context(Front(lambda head: [ports["b"]]))

        async def gateway(name: str, node_url: str) -> None:
            more = {"OFFHOOK_PUBLIC_URL": PUBLIC, "OFFHOOK_NODE_URL": node_url, "OFFHOOK_DRAIN_S": "0"}
            environ = node_environ(name) | more
            async with serving([parse_agent(AGENT)], environ, model=model, live=store) as (one, url):
                gateways[name], ports[name] = one, URL(url).port or 0
                if name == "b":
                    await done.wait()
                    return
                await ends.wait()
                await one.drain()
            del ports[name]

        done = asyncio.Event()
        a = asyncio.ensure_future(gateway("a", ""))
        await until(lambda: gateways)
        calls = [SimulatedCall(front.url, public_url=PUBLIC) for _ in range(2)]
        running = [asyncio.ensure_future(call.run()) for call in calls]
        b = asyncio.ensure_future(gateway("b", between.url))
        await until(lambda: len(gateways) == 2 and all(call.truth.agent for call in calls))
        await gateways["a"].fleet._beat()
        store.away_until_s = clock() + away_s
        ends.set()
        between.flows.clear()
        await until(lambda: any(fetched.path == AFTER for call in calls for fetched in call.truth.fetched))
        await asyncio.sleep(late_s)
        between.flows.set()
        await a
        await until(lambda: all(call.over or (call.streaming and len(call.truth.streams) > 1) for call in calls))
        for call in calls:
            call.hang_up()
        await asyncio.gather(*running)
        done.set()
        await b
        return calls, [store._calls[call.call_sid].owner for call in calls]


@pytest.mark.parametrize(
    ("late_s", "away_s", "asked"),
    [
        (0.5, 0.0, 1),  # later than a webhook is passed on to a process that has the call
        (2.5, 0.0, 2),  # later than anything is waited for
        (0.0, 2.5, 1),  # the first state is refused
    ],
)
def test_a_drained_process_keeps_no_call(late_s: float, away_s: float, asked: int) -> None:
    calls, owners = run_quickly(lambda clock: drained(clock, late_s, away_s))
    assert [call.truth.ended_by for call in calls] == ["caller"] * 2
    assert owners == ["b"] * 2
    for call in calls:
        assert [stream.url.split("/")[5] for stream in call.truth.streams] == ["a", "b"]
        assert sum(fetched.path == AFTER for fetched in call.truth.fetched) == asked
