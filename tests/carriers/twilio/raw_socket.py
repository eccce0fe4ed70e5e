"""A media socket without manners: RFC 6455 by hand, so that it can be broken anywhere."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import struct
from typing import Any, Self
from urllib.parse import urlsplit

from offhook.gateway.carriers.twilio.signature import sign
from tests.carriers.twilio.telephone_rig import PUBLIC, Exchange

__all__ = ["BINARY", "CLOSE", "FRAME", "PING", "TEXT", "RawSocket", "media", "ring", "start_of"]

FRAME = base64.b64encode(bytes([0xFF]) * 160).decode()
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


async def ring(x: Exchange, agent: str, call_sid: str = "") -> tuple[str, str]:
    """A signed webhook of a new call: its SID and the token in the answer."""
    call_sid = call_sid or "CA" + secrets.token_hex(16)
    form = {"CallSid": call_sid, "AccountSid": x.twilio.account_sid, "To": x.numbers[agent], "From": "+15550100"}
    _, text = await x.webhook("/twilio/voice", form)
    return call_sid, text.partition('value="')[2].partition('"')[0]


def start_of(x: Exchange, call_sid: str, token: str, **changes: Any) -> dict[str, Any]:
    """A sound `start`; `changes` go into its inner object."""
    inner = {
        "accountSid": x.twilio.account_sid,
        "streamSid": "MZ" + call_sid[2:],
        "callSid": call_sid,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {"token": token},
    }
    return {"event": "start", "sequenceNumber": "1", "start": {**inner, **changes}, "streamSid": "MZ" + call_sid[2:]}


def media(n: int = 1, **changes: Any) -> dict[str, Any]:
    """The n-th frame of a stream, its inner object changed."""
    inner = {"track": "inbound", "chunk": str(n), "timestamp": str(n * 20), "payload": FRAME}
    return {"event": "media", "sequenceNumber": str(n + 1), "media": {**inner, **changes}}


class RawSocket:
    """`async with RawSocket(x)`: the upgrade is done. `streaming` also proves to be a call's stream."""

    def __init__(self, x: Exchange, *, signed: bool = True, headers: str = "") -> None:
        self._x, self._signed, self._headers = x, signed, headers
        self.status, self.head = 0, ""
        self.call_sid = ""

    @classmethod
    async def streaming(cls, x: Exchange, agent: str) -> Self:
        """A stream that has started; nothing of it is wrong yet."""
        call_sid, token = await ring(x, agent)
        self = cls(x)
        await self.__aenter__()
        self.call_sid = call_sid
        await self.json({"event": "connected", "protocol": "Call", "version": "1.0.0"})
        await self.json(start_of(x, call_sid, token))
        await x.until(lambda: x.gateway.calls[call_sid].line)
        return self

    async def __aenter__(self) -> Self:
        url = urlsplit(self._x.url)
        self._reader, self._writer = await asyncio.open_connection(url.hostname, url.port)
        signature = (
            sign("auth-token-canary", PUBLIC.replace("https", "wss") + "/twilio/media") if self._signed else "no"
        )
        self._writer.write(
            (
                f"GET /twilio/media HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n"
                f"x-twilio-signature: {signature}\r\n{self._headers}\r\n"
            ).encode()
        )
        self.head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        self.status = int(self.head.split()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def frame(self, opcode: int, data: bytes, *, fin: bool = True, rsv1: bool = False) -> None:
        """One frame, masked as a client's must be."""
        first = opcode | (0x80 if fin else 0) | (0x40 if rsv1 else 0)
        if len(data) < 126:
            head = struct.pack("!BB", first, 0x80 | len(data))
        elif len(data) < 65_536:
            head = struct.pack("!BBH", first, 0x80 | 126, len(data))
        else:
            head = struct.pack("!BBQ", first, 0x80 | 127, len(data))
        self._writer.write(head + bytes(4) + data)  # a mask of zeros changes nothing
        await self._writer.drain()

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def text(self, text: str) -> None:
        await self.frame(TEXT, text.encode())

    async def json(self, *messages: Any) -> None:
        for message in messages:
            await self.text(json.dumps(message))

    async def stop(self) -> None:
        """The caller hangs up, and the connection goes away."""
        await self.json({"event": "stop"})
        self._writer.close()

    async def received(self) -> tuple[int, bytes]:
        """The next frame of the server: its first byte as it stands, and its payload."""
        first, length = await self._reader.readexactly(2)
        size = length & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", await self._reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self._reader.readexactly(8))
        return first, await self._reader.readexactly(size)

    async def closed(self, timeout_s: float = 5.0) -> int:
        """Read until the server closes: its close code, 0 for a connection that just ends."""
        async with asyncio.timeout(timeout_s):
            try:
                while True:
                    first, data = await self.received()
                    if first & 0x0F == CLOSE:
                        return struct.unpack("!H", data[:2])[0] if len(data) >= 2 else 1005
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0

    def abort(self) -> None:
        """The connection is cut without a word."""
        self._writer.transport.abort()
