"""Listening in over real sockets: who may, what is heard, what the record keeps, and that the call notices nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from offhook.gateway.app import Gateway
from offhook.gateway.call.call import Call
from offhook.gateway.store.record import CallRecord
from offhook.gateway.web.console.listen_in import WAITING_SPARE
from tests.rig.page import streaming
from tests.web.console.listeners import READ, Listener, basic, listened, sides

LOUD = 200  # of 32,768
DEEP = '{"more":' + "[" * 1_000


async def record_of(gateway: Gateway, call_id: str) -> CallRecord:
    async with asyncio.timeout(20):
        while (record := await gateway.records.get(call_id)) is None:
            await asyncio.sleep(0.01)
    return record


def counted(gateway: Gateway, series: str) -> float:
    lines = gateway.metrics.render().decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"offhook_{series} ")), 0.0)


def only_call(gateway: Gateway) -> Call:
    (call,) = gateway.calls.values()
    return call


@pytest.mark.parametrize("wide", [False, True])
async def test_listener_hears_what_was_heard_of_the_agent(wide: bool) -> None:
    async with listened() as desk, streaming(desk.page, await desk.page.begin(wide=wide)) as talking:
        (gateway,), listener = desk.gateways, Listener(desk.http, desk.urls[0])
        status, token = await listener.begin(desk.page.call_id)
        assert status == 201
        socket = await listener.connect(token)
        reading = asyncio.create_task(listener.read(socket))
        call = only_call(gateway)
        async with asyncio.timeout(20):
            while not (call.record.turns and call.record.turns[0].reply_ended_ms):
                await asyncio.sleep(0.01)
        (entry,) = call.record.listened
        assert entry.to_ms is None
        await talking.send_json({"type": "hang_up"})
        record = await record_of(gateway, desk.page.call_id)
        await asyncio.wait_for(reading, 5)
    caller, agent = sides(listener.codes)
    loud = np.flatnonzero(np.abs(agent) > LOUD)
    assert (loud[-1] - loud[0]) / 8 == pytest.approx(record.turns[0].heard_ms, abs=40)
    assert not np.any(np.abs(caller) > LOUD)
    assert listener.said == [{"type": "over"}]
    assert listener.close_code == 1000
    (entry,) = record.listened
    assert entry.who == "ann (127.0.0.1)"
    assert entry.to_ms - entry.from_ms == pytest.approx(len(caller) / 8, abs=300)  # on the quick clock
    assert counted(gateway, "listen_ins_total") == 1
    assert record.errors == []


async def test_leaving_ends_the_entry_and_the_copying() -> None:
    async with listened() as desk, streaming(desk.page, await desk.page.begin()) as talking:
        call = only_call(desk.gateways[0])
        assert call.hearing.tap is None  # nothing is copied while nobody listens
        sockets = []
        for name in ("ann", "bob"):
            listener = Listener(desk.http, desk.urls[0], Authorization=basic(name))
            sockets.append(await listener.connect((await listener.begin(desk.page.call_id))[1]))
            await sockets[-1].receive()
        assert call.hearing.tap is not None
        full = await Listener(desk.http, desk.urls[0]).begin(desk.page.call_id)
        assert (full[0], "OFFHOOK_LISTENERS" in full[1]) == (429, True)
        for socket in sockets:
            await socket.close()
        async with asyncio.timeout(5):
            while call.hearing.tap is not None:
                await asyncio.sleep(0.01)
        assert [entry.who.split()[0] for entry in call.record.listened] == ["ann", "bob"]
        assert all(entry.to_ms > entry.from_ms for entry in call.record.listened)
        await talking.send_json({"type": "hang_up"})


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": None}, 401),
        ({"Authorization": f"Bearer {READ}"}, 403),
        ({"Authorization": f"Bearer {READ}", "X-Offhook-Hop": "1"}, 403),
        ({"Origin": None}, 403),
        ({"Origin": None, "X-Offhook-Hop": "1"}, 403),  # the browser's password is no peer's token
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_others_may_not_listen(headers: dict[str, str | None], status: int) -> None:
    async with listened() as desk, streaming(desk.page, await desk.page.begin()) as talking:
        listener = Listener(desk.http, desk.urls[0], **headers)
        assert (await listener.begin(desk.page.call_id))[0] == status
        if headers.get("Origin", "") is None or "evil" in str(headers.get("Origin")):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await listener.connect("")
            assert refused.value.status == 403
        assert only_call(desk.gateways[0]).record.listened == []
        await talking.send_json({"type": "hang_up"})


@pytest.mark.parametrize(
    ("environ", "agent", "says"),
    [
        ({"OFFHOOK_LISTENERS": ""}, "listen_in: true", "set OFFHOOK_LISTENERS"),
        ({}, "language: en-US", "`listen_in: true`"),
    ],
)
async def test_both_operator_and_agent_file_must_allow(environ: dict[str, str], agent: str, says: str) -> None:
    async with listened(environ, agent=f"greeting: {{text: Greet.}}\n{agent}") as desk:
        listener = Listener(desk.http, desk.urls[0])
        async with streaming(desk.page, await desk.page.begin()) as talking:
            status, text = await listener.begin(desk.page.call_id)
            view = f"{desk.urls[0]}/console/api/view/{desk.page.call_id}"
            async with desk.http.get(view, headers=listener.headers) as answer:
                shown = await answer.json()
            await talking.send_json({"type": "hang_up"})
        assert (status, says in text, shown["listen"]) == (409, True, False)
        assert (await listener.begin("no such call"))[0] == 404


async def test_token_is_good_for_one_listener() -> None:
    async with listened() as desk, streaming(desk.page, await desk.page.begin()) as talking:
        listener = Listener(desk.http, desk.urls[0])
        _, token = await listener.begin(desk.page.call_id)
        first, codes = await listener.connect(token), []
        await first.receive()
        for given in (token, "", "n7.of a node that is gone", "x" * 2_000, None, DEEP):
            socket = await listener.connect(None if given == DEEP else given)
            if given is None:
                await socket.send_bytes(b"\xff")
            elif given == DEEP:
                await socket.send_str(given)
            await socket.receive()
            codes.append(socket.close_code)
        assert codes == [1008, 1008, 1008, 1009, 1008, 1008]
        assert len(only_call(desk.gateways[0]).record.listened) == 1
        assert counted(desk.gateways[0], 'auth_failures_total{kind="stream_token"}') == 1
        await talking.send_json({"type": "hang_up"})


async def test_hundred_listening_sockets_disturb_no_call() -> None:
    async with listened() as desk, streaming(desk.page, await desk.page.begin()) as talking:
        (gateway,), listener = desk.gateways, Listener(desk.http, desk.urls[0])
        sockets = await asyncio.gather(*(listener.connect(None) for _ in range(100)), return_exceptions=True)
        opened = [one for one in sockets if isinstance(one, aiohttp.ClientWebSocketResponse)]
        refused = [one.status for one in sockets if isinstance(one, aiohttp.WSServerHandshakeError)]
        assert len(opened) == 2 + WAITING_SPARE
        assert refused == [429] * (100 - len(opened))
        assert counted(gateway, 'input_errors_total{peer="http",reason="too_many"}') == len(refused)
        await desk.page.until_heard(3.0)
        await talking.send_json({"type": "hang_up"})
        record = await record_of(gateway, desk.page.call_id)
        await asyncio.gather(*(one.close() for one in opened))
    assert record.turns[0].longest_gap_ms == 0


async def test_call_of_another_node_is_heard_and_steered(tmp_path: Path) -> None:
    environ = {"OFFHOOK_LIVE": f"sqlite:{tmp_path}/live.db", "OFFHOOK_FLEET_KEY": "a key of the whole fleet"}
    async with listened(environ, gateways=2) as desk:
        async with asyncio.timeout(20):
            while not all(gateway.fleet.peers.nodes for gateway in desk.gateways):
                await asyncio.sleep(0.05)
        async with streaming(desk.page, await desk.page.begin()):
            await desk.page.until_heard(0.4)
            listener = Listener(desk.http, desk.urls[1], Authorization=basic("Zoë"))
            status, token = await listener.begin(desk.page.call_id)
            assert (status, token.partition(".")[0]) == (201, "n0")
            socket = await listener.connect(token)
            reading = asyncio.create_task(listener.read(socket))
            await desk.page.until_heard(2.0)
            url = f"{desk.urls[1]}/console/api/steer/{desk.page.call_id}/hang_up"
            async with desk.http.post(url, json={}, headers=listener.headers) as answer:
                assert answer.status == 200
            record = await record_of(desk.gateways[0], desk.page.call_id)
            await asyncio.wait_for(reading, 5)
    who = "Zoë (127.0.0.1)"
    assert [entry.who for entry in record.listened] == [who]
    assert [(one.what, one.who) for one in record.actions] == [("hang_up", who)]
    assert record.end_reason == "agent_hung_up"
    assert np.abs(sides(listener.codes)[1]).max() > LOUD
    assert (listener.said[-1], listener.close_code) == ({"type": "over"}, 1000)


async def test_pages_socket_may_reach_another_node(tmp_path: Path) -> None:
    environ = {"OFFHOOK_LIVE": f"sqlite:{tmp_path}/live.db", "OFFHOOK_FLEET_KEY": "a key of the whole fleet"}
    async with listened(environ, gateways=2) as desk:
        async with asyncio.timeout(20):
            while not all(gateway.fleet.peers.nodes for gateway in desk.gateways):
                await asyncio.sleep(0.05)
        page, other = desk.page, desk.urls[1]
        token = await page.begin()
        page.url = page.headers["Origin"] = other  # its next connection is another worker's
        async with streaming(page, token) as socket:
            await page.until_heard(1.0)
            socket._response.connection.transport.abort()
        page.queue.clear()
        status, answer = await page.post(f"/{page.call_id}", {"key": page.key})
        assert status == 200, answer
        async with streaming(page, answer["token"]) as socket:
            await page.until_heard(3.0)
            await asyncio.sleep(0.1)
            await socket.close()
            record = await record_of(desk.gateways[0], page.call_id)
    assert (len(record.streams), record.end_reason, record.errors) == (2, "caller_hung_up", [])
    assert record.turns[0].heard_ms == pytest.approx(3_000, abs=100)
