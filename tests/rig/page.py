"""A page without a browser: it begins calls, plays what it is sent in real time, and says silence."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from offhook.gateway.carriers.softphone.messages import TELEPHONE, WIDE

__all__ = ["Page", "streaming"]

FRAME_S = 0.02


class Page:
    """`origin`: what a browser would send; None: nothing."""

    def __init__(self, http: aiohttp.ClientSession, url: str, origin: str | None = "") -> None:
        self._http, self.url = http, url
        self.headers = {} if origin is None else {"Origin": origin or url}
        self.formats = TELEPHONE
        self.queue: list[bytes | str] = []
        self.saying: list[bytes] = []  # frames; silence without
        self.heard_bytes = 0
        self.call_id = self.key = ""

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        async with self._http.post(f"{self.url}/console/talk{path}", json=body, headers=self.headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith("{") else text

    async def begin(self, agent: str = "desk", *, wide: bool = False) -> str:
        """A call; the token of its first socket."""
        self.formats = WIDE if wide else TELEPHONE
        status, answer = await self.post("", {"agent": agent, "wide": wide})
        assert status == 201, answer
        self.call_id, self.key = answer["call_id"], answer["key"]
        return answer["token"]

    async def connect(self, token: str | None) -> aiohttp.ClientWebSocketResponse:
        """A socket; with a token it has sent its `start`."""
        socket = await self._http.ws_connect(f"{self.url}/console/talk/socket", headers=self.headers)
        if token is not None:
            await socket.send_json({"type": "start", "call_id": self.call_id, "token": token})
        return socket

    async def until_heard(self, seconds: float) -> None:
        rate = self.formats.takes.rate_hz * self.formats.takes.bytes_per_sample
        async with asyncio.timeout(20):
            while self.heard_bytes < seconds * rate:
                await asyncio.sleep(0.01)

    async def read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """What the gateway sends, into the queue; a clear empties it."""
        size = self.formats.takes.frame_bytes
        async for message in socket:
            said = json.loads(message.data)
            if said["type"] == "audio":
                codes = base64.b64decode(said["codes"])
                self.queue += [codes[at : at + size] for at in range(0, len(codes), size)]
            elif said["type"] == "mark":
                self.queue.append(said["name"])
            else:
                self.queue.clear()
                await socket.send_json({"type": "cleared"})

    async def play(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        silence = self.formats.gives.silence * self.formats.gives.frame_samples
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        with suppress(ConnectionError):
            while True:
                await socket.send_bytes(self.saying.pop(0) if self.saying else silence)
                while self.queue and isinstance(self.queue[0], str):
                    await socket.send_json({"type": "mark", "name": self.queue.pop(0)})
                if self.queue and isinstance(frame := self.queue.pop(0), bytes):
                    self.heard_bytes += len(frame)
                due_s += FRAME_S
                await asyncio.sleep(max(0.0, due_s - loop.time()))


@asynccontextmanager
async def streaming(page: Page, token: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """The page's call over one socket, which is left open."""
    socket = await page.connect(token)
    tasks = [asyncio.create_task(page.read(socket)), asyncio.create_task(page.play(socket))]
    try:
        yield socket
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
