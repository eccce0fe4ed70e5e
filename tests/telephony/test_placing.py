"""Outbound calls from a table that several processes share: each is placed once, whoever asks and whoever dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.errors import PeerError
from offhook.gateway.labels import LABELS
from offhook.gateway.store.database import DatabaseAway, Work
from offhook.gateway.store.migrate import migrate
from offhook.gateway.store.outbound import CLAIM_MS, DIAL_MS, OutboundTable
from offhook.gateway.store.sqlite import SqliteDatabase
from offhook.gateway.telephony.admission import Admission
from offhook.gateway.telephony.carrier import CarrierBusy
from offhook.gateway.telephony.outbound import BUSY_S, KeyReused, OutboundCall, OutboundQueue, key_of
from offhook.gateway.telephony.placing import Placing, StoreUnreachable
from offhook.gateway.telephony.status import CallStatus
from offhook.metrics.catalogue import Metrics
from tests.telephony.paper_carrier import PaperCarrier

pytestmark = pytest.mark.wall_clock  # the database's threads

AGENT = parse_agent("name: desk\nnumbers: ['+15550199']\n")
TO = "+15550100"


class Breakable(SqliteDatabase):
    away = False

    async def write(self, work: Work[Any]) -> Any:
        if self.away:
            raise DatabaseAway("planted")
        return await super().write(work)


class Node:
    """One process: its queue, and its part of the table."""

    def __init__(self, name: str, world: World) -> None:
        self.world, self.carrier, self.tasks = world, world.carrier, set[asyncio.Task[None]]()
        self.placing = Placing(
            OutboundQueue(10.0),
            OutboundTable(world.database, name, b"key", lambda: world.now_s),
            Admission([AGENT], 3),
            Metrics(CollectorRegistry(), LABELS),
            {AGENT.name: AGENT},
            [world.carrier],
            clock=lambda: world.now_s,
            briefing_over=lambda _: None,
            has_lost=lambda _: asyncio.sleep(0, False),
            spawn=self.spawn,
        )

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def ask(self, key: str = "", to: str = TO) -> OutboundCall:
        return await self.placing.submit(to, AGENT, key_of(key, to))

    async def tick(self, times: int = 2) -> None:
        for _ in range(times):
            self.placing.tick(self.world.now_s)
            if self.carrier.hangs:
                await self.carrier.hung.wait()
            else:
                while self.tasks:
                    await asyncio.wait(self.tasks)
            self.world.now_s += 1.01

    def killed(self) -> None:
        for task in self.tasks:
            task.cancel()


class World:
    """What outlives a process: the database, the carrier, the clock."""

    def __init__(self, folder: Path) -> None:
        self.database, self.carrier, self.now_s = Breakable(folder / "offhook.sqlite3"), PaperCarrier(), 1_000.0

    def node(self, name: str) -> Node:
        return Node(name, self)

    @property
    def placed(self) -> list[str]:
        return [what[1] for what in self.carrier.asked if what[0] == "place"]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await migrate(world.database)
    yield world
    await world.database.close()


async def test_asked_twice_on_two_nodes_it_is_placed_once(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    first, second = await asyncio.gather(a.ask("order 17"), b.ask("order 17"))
    assert first.id == second.id
    await asyncio.gather(a.tick(4), b.tick(4))
    assert world.placed == [TO]
    assert (await world.node("c").ask("order 17")).status == "queued"  # after a restart, too
    with pytest.raises(KeyReused):
        await b.ask("order 17", "+15550101")


async def test_a_status_on_another_node_is_entered(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    asked = await a.ask()
    await a.tick()
    a.killed()
    await b.placing.follow(asked.id)
    followed = b.placing.queue.find(asked.id)
    assert followed is not None
    followed.on_status(CallStatus.COMPLETED)
    await b.tick()
    found = await world.node("c").placing.find(asked.id)
    assert found is not None
    assert (found.status, found.call_sid) == ("completed", f"OUT-{asked.id}")


async def test_killed_before_the_request_it_is_placed_later(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    await a.ask()
    assert a.placing._table is not None
    await a.placing._table.claim(100.0, 0.0, 1)
    a.killed()
    await b.tick()
    assert world.placed == []
    world.now_s += CLAIM_MS / 1000
    await b.tick()
    assert world.placed == [TO]


@pytest.mark.parametrize("rang", [True, False])
async def test_killed_in_the_request_the_carrier_decides(world: World, rang: bool) -> None:
    a, b = world.node("a"), world.node("b")
    asked = await a.ask("order 17")
    world.carrier.hangs = True
    await a.tick(1)
    a.killed()
    assert world.placed == [TO]
    if not rang:  # the request was lost on its way
        world.carrier.rings.clear()
    world.carrier.hangs = False
    world.now_s += DIAL_MS / 1000
    world.carrier.refuses.append(PeerError("no answer"))
    await b.tick()
    assert world.placed == [TO]  # it cannot be asked: nothing is done
    world.now_s += DIAL_MS / 1000
    await b.tick(3)
    assert world.placed == [TO] * (1 if rang else 2)
    found = await b.placing.find(asked.id)
    assert found is not None
    assert (found.status, found.call_sid) == ("queued", f"OUT-{asked.id}")


async def test_a_call_waits_for_room_in_the_table(world: World) -> None:
    a, b = world.node("a"), world.node("b")  # 3 places each
    for n in range(8):
        await a.ask(to=f"+1555010{n:04d}")
    await a.tick(6)
    assert len(world.placed) == 3
    await b.tick(6)
    assert len(world.placed) == 6


async def test_a_busy_carrier_gets_it_later(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    asked = await a.ask()
    world.carrier.refuses.append(CarrierBusy("429"))
    await a.tick(1)
    await b.tick(1)
    assert world.placed == []
    world.now_s += BUSY_S
    await b.tick()
    assert world.placed == [TO]
    found = await a.placing.find(asked.id)
    assert found is not None
    assert found.status == "queued"


async def test_a_database_that_is_away_takes_no_call(world: World) -> None:
    node = world.node("a")
    world.database.away = True
    with pytest.raises(StoreUnreachable):
        await node.ask()
    await node.tick()
    world.database.away = False
    asked = await node.ask()
    world.carrier.hangs = True
    await node.tick(1)
    world.database.away = True  # between the request and its answer
    world.carrier.hangs = False
    node.killed()
    world.database.away = False
    assert world.placed == [TO]
    canceled = await node.ask(to="+15550101")
    assert await node.placing.cancel(canceled)
    assert not await node.placing.cancel(asked)
    await node.placing.close()
