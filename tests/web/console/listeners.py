"""A console without a browser that listens in on a call of a `Page`."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import numpy as np
from numpy.typing import NDArray

from offhook.gateway.app import Gateway
from offhook.gateway.call.tap import PAIR_BYTES
from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.media import mulaw
from tests.rig.gateway import numbered_agents, serving
from tests.rig.page import Page

__all__ = ["FULL", "READ", "Desk", "Listener", "basic", "listened", "sides"]

FULL, READ = "a token that may act", "a token that reads only"
SIGNED = {"OFFHOOK_INSECURE": "0", "TWILIO_AUTH_TOKEN": "x" * 32, "OFFHOOK_PUBLIC_URL": "https://voice.example"}
TOKENS = {"OFFHOOK_CONSOLE_TOKEN": FULL, "OFFHOOK_CONSOLE_READ_TOKEN": READ, "OFFHOOK_ADMIN_PORT": "0"}
AGENT = "greeting: {text: Greet.}\nlisten_in: true"
SCRIPT = Script((Reply("text", (Speak("Thank you for calling.", length_ms=3_000),)),))


def basic(name: str = "ann", token: str = FULL) -> str:
    return f"Basic {b64encode(f'{name}:{token}'.encode()).decode()}"


def sides(codes: bytes) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """The caller's and the agent's samples out of what a listener was sent, 8 kHz."""
    assert len(codes) % PAIR_BYTES == 0
    pairs = mulaw.decode(codes).reshape(-1, 2, PAIR_BYTES // 2)
    return pairs[:, 0].ravel(), pairs[:, 1].ravel()


class Listener:
    """`codes`: what was received; `said`: the types of the messages beside it."""

    def __init__(self, http: aiohttp.ClientSession, url: str, **headers: str | None) -> None:
        given = {"Origin": url, "Authorization": basic(), **headers}
        self.headers = {name: value for name, value in given.items() if value is not None}
        self._http, self.url = http, url
        self.codes, self.said = b"", []
        self.close_code: int | None = None

    async def begin(self, call_id: str) -> tuple[int, Any]:
        async with self._http.post(f"{self.url}/console/api/listen/{call_id}", json={}, headers=self.headers) as answer:
            text = await answer.text()
            return answer.status, (await answer.json())["token"] if answer.status == 201 else text

    async def connect(self, token: str | None) -> aiohttp.ClientWebSocketResponse:
        socket = await self._http.ws_connect(f"{self.url}/console/listen/socket", headers=self.headers)
        if token is not None:
            await socket.send_json({"type": "start", "token": token})
        return socket

    async def read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                self.codes += message.data
            else:
                self.said.append(message.json())
        self.close_code = socket.close_code


class Desk(NamedTuple):
    gateways: list[Gateway]
    urls: list[str]
    http: aiohttp.ClientSession
    page: Page  # at the first gateway


@asynccontextmanager
async def listened(
    environ: Mapping[str, str] | None = None, *, agent: str = AGENT, script: Script = SCRIPT, gateways: int = 1
) -> AsyncIterator[Desk]:
    """Gateways with a console that has both tokens. Where there are several, `environ` names their live store."""
    _, agents = numbered_agents({"desk": agent})
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(ModelServer(script))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        given = SIGNED | TOKENS | {"OFFHOOK_LISTENERS": "2"} | dict(environ or {})
        served = [
            await stack.enter_async_context(serving(agents, {**given, "OFFHOOK_REPLICA": f"n{n}"}, model=model))
            for n in range(gateways)
        ]
        page = Page(http, served[0][1])
        page.headers["Authorization"] = basic()
        yield Desk([gateway for gateway, _ in served], [url for _, url in served], http, page)
        async with asyncio.timeout(20):
            for gateway, _ in served:
                while gateway.calls:
                    await asyncio.sleep(0.01)
