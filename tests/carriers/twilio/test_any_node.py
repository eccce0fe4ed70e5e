"""Two gateways over one live store: each webhook is right on either, by the call's owner or instead of it."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from unittest import mock
from urllib.parse import urlencode

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.agent.spec import Fallback
from offhook.gateway.app import Gateway
from offhook.gateway.carriers.twilio.rest import TwilioRest
from offhook.gateway.carriers.twilio.steering import Push
from offhook.gateway.carriers.twilio.webhooks import Twilio, TwilioLeg
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.rehearsal.model.script import script_from
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.store.record import ToolRecord
from offhook.gateway.telephony.carrier import Hold, Keys
from offhook.gateway.telephony.transfer import conference_of
from tests.rig.gateway import node_environ, serving

CALL = "CA" + "7" * 32
FORM = {"CallSid": CALL, "AccountSid": "AC" + "0" * 32, "From": "+15550100", "To": "+15550199"}


class TwoNodes:
    def __init__(self, nodes: dict[str, tuple[Gateway, str]], http: aiohttp.ClientSession) -> None:
        self.nodes, self.http = nodes, http

    async def post(self, node: str, path: str, **fields: str) -> tuple[int, str]:
        async with self.http.post(self.nodes[node][1] + path, data={**FORM, **fields}) as answer:
            return answer.status, await answer.text()

    def calls(self) -> dict[str, list[str]]:
        return {name: list(gateway.calls) for name, (gateway, _) in self.nodes.items()}


@pytest_asyncio.fixture
async def two(tmp_path: Path) -> AsyncIterator[TwoNodes]:
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(ModelServer(script_from({"replies": []})))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        nodes = {}
        for name in ("a", "b"):
            environ = node_environ(name, f"sqlite:{tmp_path}/live.db")
            agents = [parse_agent("name: shop\nfallback: {say: We are closed.}\n")]
            nodes[name] = await stack.enter_async_context(serving(agents, environ, model=model))
        for gateway, _ in nodes.values():
            await gateway.fleet._beat()  # each sees the other
        yield TwoNodes(nodes, http)


def media_of(document: str) -> str:
    found = re.search(r'url="wss://[^/]+(/\S+)"', document)
    assert found, document
    return found[1]


async def test_a_repeated_webhook_gets_the_same_document(two: TwoNodes) -> None:
    _, first = await two.post("a", "/twilio/voice", CallStatus="ringing")
    assert media_of(first) == "/twilio/n/a/media"
    assert await two.post("b", "/twilio/voice", CallStatus="ringing") == (200, first)
    assert two.calls() == {"a": [CALL], "b": []}


async def test_what_follows_is_asked_of_the_owner(two: TwoNodes) -> None:
    await two.post("a", "/twilio/voice", CallStatus="ringing")
    _, document = await two.post("b", "/twilio/n/a/after", CallStatus="in-progress")
    assert media_of(document) == "/twilio/n/a/media"
    assert two.calls() == {"a": [CALL], "b": []}


async def test_a_status_reaches_the_owner(two: TwoNodes) -> None:
    await two.post("a", "/twilio/voice", CallStatus="ringing")
    status, _ = await two.post("b", "/twilio/n/a/status", CallStatus="completed")
    assert status == 204
    async with asyncio.timeout(5.0):
        while await two.nodes["a"][0].records.get(CALL) is None:
            await asyncio.sleep(0.01)
    assert two.calls() == {"a": [], "b": []}
    assert await two.nodes["b"][0].records.get(CALL) is None


async def test_a_call_whose_owner_is_silent_goes_on_here(two: TwoNodes) -> None:
    await two.post("a", "/twilio/voice", CallStatus="ringing")
    two.nodes["b"][0].fleet.peers.nodes.clear()  # its beats have stopped
    _, document = await two.post("b", "/twilio/n/a/after", CallStatus="in-progress")
    assert media_of(document) == "/twilio/n/b/media"
    assert two.calls()["b"] == [CALL]
    owner = two.nodes["a"][0]
    owner.fleet.checkpoints.changed(CALL)
    await owner.fleet.checkpoints.written(CALL, 5.0)
    assert not await owner.fleet.owns(CALL)
    assert await owner.records.get(CALL) is None  # the record is the new owner's


@pytest.mark.parametrize("path", ["/twilio/n/a/after", "/twilio/voice"])
async def test_a_request_whose_sender_is_gone_moves_no_call(two: TwoNodes, path: str) -> None:
    """As a process finds it that was stopped: what came meanwhile, and its end, are there at once."""
    await two.post("a", "/twilio/voice", CallStatus="ringing")
    gateway, url = two.nodes["b"]
    gateway.fleet.peers.nodes.clear()
    body = urlencode({**FORM, "CallStatus": "in-progress"})
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    with socket.create_connection(("127.0.0.1", URL(url).port or 0)) as sender:
        sender.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    await two.post("b", "/twilio/n/a/status", CallStatus="in-progress")  # comes after it
    assert two.calls() == {"a": [CALL], "b": []}
    assert await two.nodes["a"][0].fleet.owns(CALL)
    counted = {"peer": "http", "reason": "sender_gone"}
    assert gateway.metrics.registry.get_sample_value("offhook_input_errors_total", counted) == 1


async def taken_by_b(two: TwoNodes) -> tuple[Twilio, TwilioLeg]:
    """Node b has taken the call of a, which has not noticed; a's side of the carrier, with REST credentials."""
    await two.post("a", "/twilio/voice", CallStatus="ringing")
    carrier = two.nodes["a"][0].switchboard._carriers[0]
    one = carrier._legs[CALL]
    two.nodes["a"][0].fleet._tasks[1].cancel()  # its writer: no checkpoint is refused
    peers = two.nodes["b"][0].fleet.peers.nodes
    seen = dict(peers)
    peers.clear()
    await two.post("b", "/twilio/n/a/after", CallStatus="in-progress")
    peers.update(seen)
    assert two.calls() == {"a": [CALL], "b": [CALL]}
    carrier._rest = mock.Mock(spec_set=TwilioRest)
    return carrier, one


@pytest.mark.parametrize("path", ["/twilio/n/a/after", "/twilio/n/a/after?steered=1", "/twilio/voice"])
async def test_an_old_owner_answers_as_the_new_one(two: TwoNodes, path: str) -> None:
    await taken_by_b(two)
    call = two.nodes["a"][0].calls[CALL]
    _, document = await two.post("a", path, CallStatus="in-progress")
    assert media_of(document) == "/twilio/n/b/media"
    await call.over()
    assert two.calls() == {"a": [], "b": [CALL]}


STEERED: dict[str, Callable[[Twilio, TwilioLeg], Awaitable[object]]] = {
    "hang up": lambda carrier, one: carrier.hang_up(CALL),
    "hold": lambda carrier, one: carrier.interrupt(CALL, Hold("", "")),
    "keys": lambda carrier, one: carrier.interrupt(CALL, Keys("1")),
    "resume": lambda carrier, one: carrier.resume(CALL),
    "fallback": lambda carrier, one: carrier.fall_back(CALL, Fallback(say="Sorry.")),
    "push": lambda carrier, one: carrier._push(one, Push.REDIRECT),
}


@pytest.mark.parametrize("request_", STEERED)
async def test_an_old_owner_makes_no_rest_request(two: TwoNodes, request_: str) -> None:
    carrier, one = await taken_by_b(two)
    await STEERED[request_](carrier, one)
    assert carrier._rest is not None
    assert carrier._rest.mock_calls == []  # type: ignore[attr-defined]


async def test_an_old_owner_places_no_briefing(two: TwoNodes) -> None:
    carrier, _ = await taken_by_b(two)
    gateway = two.nodes["a"][0]
    board = gateway.switchboard
    briefing = board.outbound.submit(
        "+15550140", gateway.agents[0], caller_id="+15550199", conference=conference_of(CALL)
    )
    await board.placing._place(carrier, briefing)
    assert briefing.status == "failed"
    assert carrier._rest.mock_calls == []  # type: ignore[union-attr]


@pytest.mark.parametrize("ending", [Ending.CALLER_HUNG_UP, Ending.STREAM_LOST])
async def test_an_old_owner_records_and_reports_nothing(two: TwoNodes, ending: Ending) -> None:
    await taken_by_b(two)
    old = two.nodes["a"][0]
    with mock.patch.object(old._keeping, "ended") as ended, mock.patch.object(old._keeping, "tool_finished") as tool:
        call = old.calls[CALL]
        call.stop(ending)
        await call.over()
        await asyncio.gather(*old._exports)
        old.fleet.checkpoints.lose(CALL)
        old._tool_finished(call, ToolRecord(call_id="t1", name="book", requested_ms=0.0))
    assert ended.mock_calls == tool.mock_calls == []


async def test_a_draining_node_sends_new_calls_elsewhere(two: TwoNodes) -> None:
    two.nodes["a"][0].admission.draining = True
    await two.nodes["a"][0].fleet._beat()
    _, document = await two.post("a", "/twilio/voice", CallStatus="ringing")
    assert media_of(document) == "/twilio/n/b/media"
    async with two.http.get(two.nodes["a"][1] + "/lb") as answer:
        assert answer.status == 404
    async with two.http.get(two.nodes["b"][1] + "/lb") as answer:
        assert answer.status == 200


async def test_a_store_that_is_away_refuses_no_call(two: TwoNodes) -> None:
    await two.nodes["a"][0].fleet._store.close()  # type: ignore[union-attr]
    _, document = await two.post("a", "/twilio/voice", CallStatus="ringing")
    assert media_of(document) == "/twilio/n/a/media"
