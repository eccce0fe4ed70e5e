"""The live store: the same cases over memory, SQLite and a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import pytest_asyncio

from offhook.gateway.live import Begin, CallStage, LiveStore, Node, StoreAway, ToolRun, Write, Written
from offhook.gateway.live.memory import MemoryLive
from offhook.gateway.live.redis import CONNECTIONS, RedisLive
from offhook.gateway.live.sqlite import SqliteLive
from offhook.gateway.rehearsal.cluster.servers import redis_server
from tests.needs import require

pytestmark = pytest.mark.wall_clock  # threads and another process

CALL, OTHER = "CA" + "1" * 32, "CA" + "2" * 32


@pytest_asyncio.fixture(params=["memory", "sqlite", "redis"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[[], LiveStore]]:
    """A function that gives a store of another node, over the same data."""
    async with AsyncExitStack() as stack:
        made: list[LiveStore] = []
        if request.param == "memory":
            made += [MemoryLive(time.monotonic)] * 10
        elif request.param == "sqlite":
            made += [SqliteLive(str(tmp_path / "live.db"), time.time) for _ in range(10)]
        else:
            require("redis-server", "redis")
            server = stack.enter_context(redis_server(tmp_path))
            made += [RedisLive(server.url, time.monotonic) for _ in range(10)]
        for store in made:
            await store.open()
            stack.push_async_callback(store.close)
        yield made.pop


def write(epoch: int, head: bytes, *log: bytes, at: int = 0, owner: str = "a", stage: CallStage = CallStage.LIVE):
    return Write(CALL, owner, epoch, stage, head, log, at)


async def test_first_node_to_ring_has_the_call(stores: Callable[[], LiveStore]) -> None:
    a, b = stores(), stores()
    assert await a.holder(CALL) is None
    assert await a.ring(CALL, "a") == ("a", 1, CallStage.RINGING)
    assert await b.ring(CALL, "b") == ("a", 1, CallStage.RINGING)
    assert await b.holder(CALL) == await a.ring(CALL, "a")


async def test_a_claim_brings_head_and_log(stores: Callable[[], LiveStore]) -> None:
    a, b = stores(), stores()
    await a.ring(CALL, "a")
    assert await a.write([write(1, b"one", b"t1", b"t2"), write(1, b"\x00two", b"t3", at=2)]) == [Written.KEPT] * 2
    claim = await b.claim(CALL, "b")
    assert claim is not None
    assert claim == ("a", 2, CallStage.LIVE, b"\x00two", (b"t1", b"t2", b"t3"), 1)
    assert await a.write([write(1, b"late")]) == [Written.FENCED]
    assert await b.write([write(2, b"new", b"t4", at=3, owner="b")]) == [Written.KEPT]
    again = await a.claim(CALL, "a")
    assert again is not None
    assert (again.owner, again.epoch, again.log[-1], again.moves) == ("b", 3, b"t4", 2)


async def test_the_old_owner_ends_nothing(stores: Callable[[], LiveStore]) -> None:
    a, b = stores(), stores()
    await a.ring(CALL, "a")
    await b.claim(CALL, "b")
    assert not await a.end(CALL, "a", 1)
    assert await b.end(CALL, "b", 2)
    assert await b.end(CALL, "b", 2)  # its answer may have been lost
    assert not await a.end(CALL, "a", 2)
    assert await a.claim(CALL, "a") is None
    assert await b.write([write(2, b"late", owner="b")]) == [Written.FENCED]
    assert (await a.ring(CALL, "a")).stage is CallStage.ENDED


async def test_a_store_that_was_emptied_is_filled(stores: Callable[[], LiveStore]) -> None:
    a = stores()
    assert await a.write([write(3, b"head", b"t9", at=8)]) == [Written.BEHIND]
    assert await a.write([write(3, b"head", *[b"t"] * 9)]) == [Written.KEPT]
    assert (await a.claim(CALL, "a") or write(0, b"")).epoch == 4
    assert await a.end(OTHER, "a", 1)  # of a call that it does not know


async def test_of_many_that_expect_an_epoch_one_wins(stores: Callable[[], LiveStore]) -> None:
    nodes = [stores() for _ in range(8)]
    await nodes[0].ring(CALL, "dead")
    for epoch in range(1, 6):
        claims = await asyncio.gather(*(s.claim(CALL, str(n), expect_epoch=epoch) for n, s in enumerate(nodes)))
        assert [c.epoch for c in claims if c is not None] == [epoch + 1]


async def test_a_token_is_burnt_once(stores: Callable[[], LiveStore]) -> None:
    nodes = [stores() for _ in range(4)]
    assert sorted(await asyncio.gather(*(s.burn("jti", 60.0) for s in nodes))) == [False, False, False, True]
    assert await nodes[0].burn("another", 60.0)


async def test_a_full_scope_takes_no_call(stores: Callable[[], LiveStore]) -> None:
    a, b = stores(), stores()
    caps = {"cap:fleet": 3, "cap:number:x": 1}
    for call_id in (CALL, OTHER):
        await a.ring(call_id, "a")
    assert await a.admit(CALL, caps) == ""
    assert await a.admit(CALL, caps) == ""  # repeated, it has its place
    assert await b.admit(OTHER, caps) == "cap:number:x"
    assert await b.admit(OTHER, {"cap:fleet": 1}) == "cap:fleet"
    await a.end(CALL, "a", 1)
    assert await b.admit(OTHER, {"cap:fleet": 1}) == ""


async def test_a_moved_call_keeps_its_place(stores: Callable[[], LiveStore]) -> None:
    a, b = stores(), stores()
    caps = {"cap:fleet": 1}
    await a.ring(CALL, "a")
    await b.claim(CALL, "b")  # it was admitted by `a`, or by a store that has been emptied since
    await b.beat(Node(name="b"), [CALL], list(caps))
    assert await a.admit(OTHER, caps) == "cap:fleet"
    await b.end(CALL, "b", 2)
    assert await a.admit(OTHER, caps) == ""


async def test_a_call_handed_over_is_not_suspected(stores: Callable[[], LiveStore]) -> None:
    a, b = stores(), stores()
    await a.ring(CALL, "a")
    moves = []
    for epoch in range(1, 5):
        await a.write([write(epoch, b"head", stage=CallStage.HANDOVER)])
        claim = await b.claim(CALL, "b")
        assert claim is not None
        moves.append(claim.moves)
    assert moves == [0, 0, 0, 0]
    claim = await a.claim(CALL, "a")  # this time its owner died
    assert claim is not None
    assert claim.moves == 1


async def test_tool_runs_are_found_by_their_keys(stores: Callable[[], LiveStore]) -> None:
    a, b = stores(), stores()
    await a.ring(CALL, "a")
    assert await b.tool_run(CALL, "k:1") is None
    await a.note_tool(CALL, "k:1", ToolRun())
    assert await b.tool_run(CALL, "k:1") == ToolRun()
    await a.note_tool(CALL, "k:1", ToolRun(done=True, result='{"a": 1}'))
    assert await b.tool_run(CALL, "k:1") == ToolRun(done=True, result='{"a": 1}')


async def test_a_tool_begins_once_and_for_the_owner(stores: Callable[[], LiveStore]) -> None:
    a, b = stores(), stores()
    await a.ring(CALL, "a")
    assert await a.begin_tool(CALL, 1, "k:1") == Begin(fenced=False)
    assert await a.begin_tool(CALL, 1, "k:1") == Begin(fenced=False, before=ToolRun())
    await b.claim(CALL, "b")
    assert await a.begin_tool(CALL, 1, "k:2") == Begin(fenced=True)
    assert await b.tool_run(CALL, "k:2") is None  # and is not noted
    await a.note_tool(CALL, "k:1", ToolRun(done=True, result="r"))  # it was running: what it did is true
    assert await b.begin_tool(CALL, 2, "k:1") == Begin(fenced=False, before=ToolRun(done=True, result="r"))
    await b.end(CALL, "b", 2)
    assert await b.begin_tool(CALL, 2, "k:3") == Begin(fenced=True)
    assert await b.begin_tool(OTHER, 1, "k:1") == Begin(fenced=False)


async def test_nodes_see_each_other(stores: Callable[[], LiveStore]) -> None:
    a, b = stores(), stores()
    await a.beat(Node(name="a", address="http://a"), [])
    seen = {node.name: node for node in await b.beat(Node(name="b", calls=2), [])}
    assert (seen["a"].address, seen["b"].calls) == ("http://a", 2)
    assert 0 <= seen["a"].age_s < 5.0
    await a.leave("a")
    assert [node.name for node in await b.beat(Node(name="b"), [])] == ["b"]


async def test_a_dead_node_has_calls_until_they_are_claimed(stores: Callable[[], LiveStore]) -> None:
    a, b = stores(), stores()
    for call_id in (CALL, OTHER):
        await a.ring(call_id, "a")
    await a.end(OTHER, "a", 1)
    assert await b.calls_of("a") == [(CALL, 1)]
    await b.claim(CALL, "b", expect_epoch=1)
    assert (await b.calls_of("a"), await b.calls_of("b")) == ([], [(CALL, 2)])


async def test_redis_that_is_away_fails_at_once(tmp_path: Path) -> None:
    require("redis-server", "redis")
    with redis_server(tmp_path) as server:
        store = RedisLive(server.url, time.monotonic)
        await store.open()
        await store.ring(CALL, "a")
        server.kill()
        for _ in range(3):
            with pytest.raises(StoreAway):
                await store.holder(CALL)
        began_s = time.monotonic()
        for _ in range(100):
            with pytest.raises(StoreAway):
                await store.holder(CALL)
        assert time.monotonic() - began_s < 0.25  # 100 attempts to connect would be as quick, silent ones would not
        server.start()
        ends_s = time.monotonic() + 5.0
        while True:
            try:
                assert await store.holder(CALL) is None  # it has forgotten everything
                break
            except StoreAway:
                assert time.monotonic() < ends_s
                await asyncio.sleep(0.05)
        await store.close()


async def test_redis_that_is_back_answers_every_request(tmp_path: Path) -> None:
    require("redis-server", "redis")
    calls = [f"CA{n:032x}" for n in range(4)]
    with redis_server(tmp_path) as server:
        store = RedisLive(server.url, time.monotonic)
        await store.open()
        await asyncio.gather(*(store.ring(call_id, "a") for call_id in calls))  # as many connections
        server.kill()
        server.start()
        assert [held.epoch for held in await asyncio.gather(*(store.ring(call_id, "a") for call_id in calls))] == [
            1
        ] * 4
        server.kill()
        for _ in range(5):
            with pytest.raises(StoreAway):
                await store.beat(Node(name="a"), calls, ["cap:fleet"])
        server.start()
        await asyncio.sleep(1.1)  # until it is tried again
        await store.write([Write(call_id, "a", 1, CallStage.LIVE, b"head") for call_id in calls])
        assert await asyncio.gather(*(store.end(call_id, "a", 1) for call_id in calls)) == [True] * 4
        assert server.left() == []
        await store.close()


async def test_redis_connections_are_opened_ahead(tmp_path: Path) -> None:
    require("redis-server", "redis")
    with redis_server(tmp_path) as server:
        store = RedisLive(server.url, time.monotonic)
        await store.open()
        await store.beat(Node(name="a"), [])
        await store.calls_of("a")  # waits for what is done behind
        opened = server.ask("CLIENT", "LIST").count("id=")
        await store.close()
    assert opened >= CONNECTIONS


async def test_redis_an_index_written_late_is_right(tmp_path: Path) -> None:
    """Two nodes claim a call, and it ends, before the first one's index is written."""
    require("redis-server", "redis")
    with redis_server(tmp_path) as server:
        a, b = RedisLive(server.url, time.monotonic), RedisLive(server.url, time.monotonic)
        for store in (a, b):
            await store.open()
        late: list[Coroutine[Any, Any, Any]] = []
        with mock.patch.object(a, "_later", late.append):
            for call_id in (CALL, OTHER):
                await a.ring(call_id, "a")
                await b.claim(call_id, "b")
                await a.claim(call_id, "a")
                await b.claim(call_id, "b")
        assert await b.end(CALL, "b", 4)
        for work in late:
            await work
        assert [await a.calls_of(name) for name in "ab"] == [[], [(OTHER, 4)]]
        assert set(server.left()) == {f"offhook:call:{{{OTHER}}} is live b 4", f"offhook:calls:b has {OTHER}"}
        for store in (a, b):
            await store.close()
