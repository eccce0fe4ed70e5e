"""A scripted peer on real sockets that speaks the gateway's side of Twilio's protocol, for tests of the carrier."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiohttp import WSMsgType, web

__all__ = ["Line", "StubGateway", "twiml"]

HANGUP = "<Response><Hangup/></Response>"


class Line:
    """One media socket as the stub sees it: `inbox` holds every message, `say` and friends send."""

    def __init__(self, ws: web.WebSocketResponse, headers: dict[str, str]) -> None:
        self.ws, self.headers = ws, headers
        self.inbox: list[dict] = []
        self.arrived: list[float] = []
        self.sid = ""
        self._news = asyncio.Event()

    async def read(self) -> None:
        async for frame in self.ws:
            if frame.type is WSMsgType.TEXT:
                self.inbox.append(json.loads(frame.data))
                self.arrived.append(asyncio.get_running_loop().time())
                if self.inbox[-1]["event"] == "start":
                    self.sid = self.inbox[-1]["streamSid"]
            self._news.set()
        self._news.set()

    async def until(self, ready: Callable[[], bool], timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not ready():
                self._news.clear()
                await self._news.wait()

    def of(self, event: str) -> list[dict]:
        return [message for message in self.inbox if message["event"] == event]

    async def marked(self, *names: str) -> None:
        """Until all these marks have come back."""
        await self.until(lambda: set(names) <= {m["mark"]["name"] for m in self.of("mark")})

    async def media(self, audio: bytes) -> None:
        await self.send(event="media", media={"payload": base64.b64encode(audio).decode()})

    async def mark(self, name: str) -> None:
        await self.send(event="mark", mark={"name": name})

    async def clear(self) -> None:
        await self.send(event="clear")

    async def send(self, **message: object) -> None:
        await self.ws.send_str(json.dumps({"streamSid": self.sid, **message}))


def twiml(stream_url: str, action: str = "/twilio/after", **parameters: str) -> str:
    inner = "".join(f'<Parameter name="{name}" value="{value}"/>' for name, value in parameters.items())
    return (
        f'<?xml version="1.0"?><Response><Connect action="{action}"><Stream url="{stream_url}">{inner}</Stream>'
        "</Connect></Response>"
    )


class StubGateway:
    """`answers` maps a path to TwiML (or a list, one per request); `talk` lives on each media socket."""

    def __init__(
        self,
        talk: Callable[[Line], Awaitable[None]] | None = None,
        answers: dict[str, str | list[str]] | None = None,
    ) -> None:
        self._talk, self._answers = talk, answers or {}
        self.requests: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.lines: list[Line] = []
        self.url = ""

    @property
    def media_url(self) -> str:
        return self.url.replace("http", "ws") + "/twilio/media"

    async def __aenter__(self) -> StubGateway:
        app = web.Application()
        app.router.add_get("/twilio/media", self._media)
        app.router.add_post("/{path:.*}", self._webhook)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _webhook(self, request: web.Request) -> web.Response:
        fields = {name: str(value) for name, value in (await request.post()).items()}
        self.requests.append((request.path, fields, dict(request.headers)))
        answer = self._answers.get(request.path)
        if answer is None:
            if request.path == "/twilio/voice":
                answer = twiml(self.media_url, token="secret")
            else:
                answer = HANGUP
        if isinstance(answer, list):
            answer = answer.pop(0)
        if answer.startswith("status "):
            return web.Response(status=int(answer[7:]), text="no")
        return web.Response(text=answer.replace("{media}", self.media_url), content_type="text/xml")

    async def _media(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(autoping=True, compress=False)
        await ws.prepare(request)
        line = Line(ws, dict(request.headers))
        self.lines.append(line)
        reader = asyncio.create_task(line.read())
        try:
            await line.until(lambda: bool(line.sid) or reader.done())
            if self._talk is not None and line.sid:
                await self._talk(line)
                await ws.close()
            await reader
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader
        return ws
