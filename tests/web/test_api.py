"""The API over real sockets, with calls that are none: what it asks of `CallControl`, and how it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from offhook.gateway.errors import ModelRefused, OperatorError
from offhook.gateway.labels import LABELS
from offhook.gateway.web.access import Access, Lock
from offhook.gateway.web.api import Api, Conflicting, TokenFor, Unavailable
from offhook.gateway.web.limits import Limits
from offhook.metrics.catalogue import Metrics

TOKEN = {"Authorization": "Bearer only-for-this-test"}
Call = Callable[..., Any]


class State(msgspec.Struct):
    id: str = "1"
    status: str = "waiting"


class Control:
    """One outbound call, 1, that can be hung up and not held. Records what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def call_out(self, to: str, agent: str, *, caller_id: str, variables: dict[str, str], key: str) -> State:
        if key == "used":
            raise Conflicting("used for another call")
        if to == "busy":
            raise Unavailable("1000 calls are waiting already")
        if not to.startswith("+"):
            raise OperatorError("cannot call it")
        self.asked.append(("call_out", to, agent, caller_id, variables, key))
        return State()

    async def outbound(self, call_id: str) -> State | None:
        return State() if call_id == "1" else None

    async def hang_up(self, call_id: str) -> bool | None:
        return True if call_id == "1" else None

    async def hold(self, call_id: str, music_url: str, line: str) -> bool | None:
        return False

    async def resume(self, call_id: str) -> bool | None:
        return True

    def transfer(self, call_id: str, to: str, *, whisper: str, warm: bool) -> bool | None:
        if not to.startswith("+"):
            raise OperatorError("to must be a number")
        self.asked.append(("transfer", call_id, to, whisper, warm))
        return True

    def press(self, call_id: str, digits: str) -> bool | None:
        self.asked.append(("press", call_id, digits))
        return True


@asynccontextmanager
async def api(
    control: Control | None = None, *, token_for: TokenFor | None = None, not_ready: str = "", api_token: str = ""
) -> AsyncIterator[Call]:
    """A function that sends a request; gives the status and the body, JSON decoded."""
    clock = asyncio.get_running_loop().time
    metrics = Metrics(CollectorRegistry(), LABELS, clock=clock)
    limits = Limits(metrics, clock)
    made = Api(
        limits,
        Access("", limits, metrics, clock, insecure=True),
        metrics,
        control or Control(),
        lock=Lock(api_token or "only-for-this-test", "API token", limits, metrics, clock),
        not_ready=lambda: not_ready,
        token_for=token_for,
        exemplars=False,
    )
    app = web.Application()
    app.add_routes([*made.routes(), *made.health_routes(), *made.operator_routes()])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession() as http:

        async def send(method: str, path: str, body: Any = None, headers: dict[str, str] = TOKEN) -> tuple[int, Any]:
            async with http.request(method, url + path, json=body, headers=headers) as answer:
                text = await answer.text()
                return answer.status, msgspec.json.decode(text) if answer.content_type == "application/json" else text

        yield send
    await runner.cleanup()


async def test_a_call_is_placed_with_what_was_given() -> None:
    control = Control()
    async with api(control) as send:
        body = {"to": "+15550100", "agent": "desk", "from": "+15550101", "variables": {"name": "Ada"}}
        assert await send("POST", "/calls", body) == (202, {"id": "1", "status": "waiting"})
        keyed = {**TOKEN, "Idempotency-Key": "order 17"}
        assert (await send("POST", "/calls", {"to": "+15550100"}, keyed))[0] == 202
        assert (await send("GET", "/calls/1"))[0] == 200
    assert control.asked == [
        ("call_out", "+15550100", "desk", "+15550101", {"name": "Ada"}, ""),
        ("call_out", "+15550100", "", "", {}, "order 17"),
    ]


@pytest.mark.parametrize(("key", "status"), [("", 400), ("é", 400), ("a" * 256, 400), ("used", 409)])
async def test_a_key_that_cannot_be_used_is_refused(key: str, status: int) -> None:
    control = Control()
    async with api(control) as send:
        answer, error = await send("POST", "/calls", {"to": "+15550100"}, {**TOKEN, "Idempotency-Key": key})
    assert (answer, control.asked) == (status, [])
    assert error["error"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic !"}])
async def test_without_the_token_nothing_is_done(headers: dict[str, str]) -> None:
    async with api() as send:
        for method, path in (("POST", "/calls"), ("GET", "/calls/1"), ("POST", "/calls/1/hang_up")):
            status, answer = await send(method, path, headers=headers)
            assert (status, answer) == (401, {"error": "set OFFHOOK_API_TOKEN and send it as a bearer token"})


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"to": 1}, 400, "to must be a string"),
        ({"to": 1, "agent": None}, 400, "to, agent must be strings"),
        ({"to": "+1", "variables": {"a": 1}}, 400, "variables must be an object whose values are strings"),
        ({"number": "+1"}, 400, "unknown field: number"),
        ({"to": "Ada"}, 400, "cannot call it"),
        ({"to": "busy"}, 503, "1000 calls are waiting already"),
    ],
)
async def test_a_refused_call_says_why(body: dict[str, Any], status: int, error: str) -> None:
    async with api() as send:
        assert await send("POST", "/calls", body) == (status, {"error": error})


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("1/hang_up", {}, (200, {"done": True})),
        ("2/hang_up", {}, (404, {"error": "unknown call or action"})),
        ("1/hold", {}, (409, {"done": False})),
        ("1/hold", {"music": "tune"}, (400, {"error": "music must be the URL of a sound file"})),
        ("1/resume", {}, (200, {"done": True})),
        ("1/transfer", {"to": "+1", "warm": True}, (200, {"done": True})),
        ("1/transfer", {"to": "Ada"}, (400, {"error": "to must be a number"})),
        ("1/transfer", {}, (404, {"error": "unknown call or action"})),
        ("1/press", {"digits": "12"}, (200, {"done": True})),
        ("1/press", {"digits": 12}, (400, {"error": "digits must be a string"})),
        ("1/dance", {}, (404, {"error": "there are hang_up, hold, resume, transfer, press"})),
    ],
)
async def test_an_action_is_answered(path: str, body: dict[str, Any], answer: tuple[int, Any]) -> None:
    async with api() as send:
        assert await send("POST", f"/calls/{path}", body) == answer


async def test_health() -> None:
    async with api() as send:
        assert await send("GET", "/livez") == (200, "alive\n")
        assert await send("GET", "/readyz") == (200, "ready\n")
    async with api(not_ready="draining") as send:
        assert await send("GET", "/readyz") == (503, "draining\n")


async def test_a_browser_token_is_off_by_default() -> None:
    async with api() as send:
        assert (await send("POST", "/console/token", {}))[0] == 404


async def test_a_model_without_tokens_is_a_bad_gateway() -> None:
    async def token_for(name: str) -> tuple[str, str]:
        raise ModelRefused(403, "no") if name else OperatorError("unknown agent")

    async with api(token_for=token_for) as send:
        assert await send("POST", "/console/token", {"agent": "a"}) == (502, "the model's API did not issue a token\n")
        assert await send("POST", "/console/token", {}) == (400, "unknown agent\n")
