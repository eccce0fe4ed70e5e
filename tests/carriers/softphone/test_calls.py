"""The softphone's calls over real sockets, without a browser: who may begin one, and what becomes of a lost stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from offhook.gateway.app import Gateway
from offhook.gateway.carriers.softphone.calls import WAITING_SPARE
from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import HangUp, WaitForAgent
from offhook.gateway.store.record import CallRecord
from offhook.gateway.web.limits import PER_ADDRESS, is_full
from tests.rig.gateway import numbered_agents, serving
from tests.rig.page import Page, streaming

SCRIPT = Script((Reply("text", (Speak("Thank you for calling.", length_ms=3_000),)),))
AGENT = "greeting: {text: Greet.}\nfallback: {say: Call again.}"


@asynccontextmanager
async def gateway_and_page(**environ: str) -> AsyncIterator[tuple[Gateway, Page]]:
    _, agents = numbered_agents({"other": AGENT, "desk": AGENT})
    async with (
        ModelServer(SCRIPT) as model,
        aiohttp.ClientSession() as http,
        serving(agents, {"OFFHOOK_INSECURE": "1", **environ}, model=model) as (gateway, url),
    ):
        yield gateway, Page(http, url)


async def record_of(gateway: Gateway, call_id: str) -> CallRecord:
    async with asyncio.timeout(20):
        while (record := await gateway.records.get(call_id)) is None:
            await asyncio.sleep(0.01)
    return record


def counted(gateway: Gateway, series: str) -> float:
    lines = gateway.metrics.render().decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"offhook_{series} ")), 0.0)


@pytest.mark.parametrize("wide", [False, True])
async def test_call_is_heard_and_hung_up(wide: bool) -> None:
    async with gateway_and_page() as (gateway, page), streaming(page, await page.begin(wide=wide)) as socket:
        await page.until_heard(3.0)
        await asyncio.sleep(0.1)
        await socket.send_json({"type": "hang_up"})
        record = await record_of(gateway, page.call_id)
    assert (record.agent, record.caller, record.end_reason) == ("desk", "web:console", "caller_hung_up")
    assert record.turns[0].heard_ms == record.turns[0].received_ms == pytest.approx(3_000, abs=40)
    assert record.errors == []


async def test_lost_socket_is_replaced_within_the_call() -> None:
    async with gateway_and_page() as (gateway, page):
        async with streaming(page, await page.begin()) as socket:
            await page.until_heard(1.0)
            socket._response.connection.transport.abort()
        page.queue.clear()
        stranger = await page.post(f"/{page.call_id}", {"key": "not its key"})
        _, answer = await page.post(f"/{page.call_id}", {"key": page.key})
        async with streaming(page, answer["token"]) as socket:
            await page.until_heard(3.0)
            await asyncio.sleep(0.1)
            await socket.close()
            record = await record_of(gateway, page.call_id)
        _, over = await page.post(f"/{page.call_id}", {"key": page.key})
    assert stranger[0] == 404
    assert len(record.streams) == 2
    assert record.end_reason == "caller_hung_up"
    assert record.turns[0].heard_ms == pytest.approx(3_000, abs=100)
    assert over["over"] == "hang_up"


async def test_token_is_good_for_one_socket() -> None:
    async with gateway_and_page() as (gateway, page):
        token = await page.begin()
        codes = []
        async with streaming(page, token):
            await page.until_heard(0.2)
            for given in (token, "", "x" * 43, None):
                socket = await page.connect(given)
                if given is None:
                    await socket.send_bytes(b"\xff" * 160)
                await socket.receive()
                codes.append(socket.close_code)
            assert len(gateway.calls) == 1
        assert codes == [1008] * 4
        assert counted(gateway, 'auth_failures_total{kind="stream_token"}') == 3
        assert counted(gateway, 'input_errors_total{peer="carrier",reason="bad_order"}') == 1


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://127.0.0.1:1"])
async def test_foreign_origin_is_refused(origin: str | None) -> None:
    async with gateway_and_page() as (gateway, page):
        foreign = Page(page._http, page.url, origin)
        assert (await foreign.post("", {"agent": "desk"}))[0] == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await foreign.connect("")
        assert refused.value.status == 403
        kinds = [counted(gateway, f'auth_failures_total{{kind="{kind}"}}') for kind in ("console", "insecure")]
    assert sum(kinds) == 2


async def test_hundred_sockets_leave_calls_undisturbed() -> None:
    async with gateway_and_page(OFFHOOK_SOFTPHONE_CALLS="2") as (gateway, page):
        token = await page.begin()
        telephone = SimulatedCall(page.url, (WaitForAgent("end"), HangUp()), dialled="+15550200001")
        ringing = asyncio.create_task(telephone.run())
        async with streaming(page, token) as talking:
            sockets = await asyncio.gather(*(page.connect(None) for _ in range(100)), return_exceptions=True)
            opened = [one for one in sockets if isinstance(one, aiohttp.ClientWebSocketResponse)]
            refused = [one for one in sockets if isinstance(one, aiohttp.WSServerHandshakeError)]
            assert len(opened) == 2 + WAITING_SPARE
            assert [one.status for one in refused] == [429] * (100 - len(opened))
            assert counted(gateway, 'input_errors_total{peer="http",reason="too_many"}') == len(refused)
            await page.until_heard(3.0)
            await talking.send_json({"type": "hang_up"})
            record = await record_of(gateway, page.call_id)
            await asyncio.gather(*(one.close() for one in opened))
            await ringing
            beside = await record_of(gateway, telephone.call_sid)
    assert record.turns[0].longest_gap_ms == beside.turns[0].longest_gap_ms == 0
    assert beside.turns[0].heard_ms == beside.turns[0].received_ms == pytest.approx(3_000, abs=40)


async def test_calls_are_limited_and_the_switch_is_off_at_0() -> None:
    async with gateway_and_page(OFFHOOK_SOFTPHONE_CALLS="1") as (_, page):
        await page.begin()
        status, text = await page.post("", {"agent": "desk"})
        assert (status, "OFFHOOK_SOFTPHONE_CALLS" in text) == (429, True)
        assert (await page.post("", {"agent": "nobody"}))[0] == 400
    async with gateway_and_page(OFFHOOK_SOFTPHONE_CALLS="0") as (_, page):
        assert (await page.post("", {"agent": "desk"}))[0] in (404, 405)


@pytest.mark.parametrize(("source", "full"), [("81.2.69.142", True), ("10.0.0.7", False), ("127.0.0.1", False)])
def test_one_public_address_has_its_own_limit(source: str, full: bool) -> None:
    assert is_full([source] * PER_ADDRESS, source, 100) is full


async def test_sign_in_is_required() -> None:
    environ = {"OFFHOOK_INSECURE": "0", "TWILIO_AUTH_TOKEN": "x" * 32, "OFFHOOK_PUBLIC_URL": "https://voice.example"}
    environ["OFFHOOK_ADMIN_PORT"] = "0"
    async with gateway_and_page(**environ, OFFHOOK_CONSOLE_TOKEN="a long console token") as (gateway, page):
        assert (await page.post("", {"agent": "desk"}))[0] == 401
        page.headers["Authorization"] = "Bearer a long console token"
        assert (await page.post("", {"agent": "desk"}))[0] == 201
        assert len(gateway.calls) == 1


async def test_rubbish_is_counted_and_ends_no_call() -> None:
    async with gateway_and_page() as (gateway, page):
        async with streaming(page, await page.begin()) as socket:
            await page.until_heard(0.2)
            for rubbish in (b"", b"\xff" * 161):
                await socket.send_bytes(rubbish)
            for text in ("{", '{"type": "mark", "name": "no mark"}', '{"type": "start", "call_id": "", "token": ""}'):
                await socket.send_str(text)
            await page.until_heard(3.0)
            await socket.send_json({"type": "hang_up"})
            record = await record_of(gateway, page.call_id)
        reasons = {"bad_audio": 2, "not_json": 1, "unknown_mark": 1, "bad_order": 1}
        for reason, times in reasons.items():
            assert counted(gateway, f'input_errors_total{{peer="carrier",reason="{reason}"}}') == times, reason
    assert record.end_reason == "caller_hung_up"
