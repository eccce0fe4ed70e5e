"""A hand-written Live client for tests: it sends exactly the given messages and shows exactly the received ones."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from offhook.gateway.rehearsal.model.server import ModelServer

LIVE_PATH = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
VERTEX_PATH = "/ws/google.cloud.aiplatform.v1beta1.LlmBidiService/BidiGenerateContent"
TIMEOUT_S = 5.0


def setup_of(model: str = "gemini-3.8-live", **keys: Any) -> dict[str, Any]:
    return {"setup": {"model": f"models/{model}", "outputAudioTranscription": {}, **keys}}


def voice(ms: float, rate_hz: int = 16_000, dbfs: float = -20.0) -> bytes:
    """A buzz that any voice detector takes for speech."""
    t = np.arange(round(ms * rate_hz / 1000)) / rate_hz
    return (np.sign(np.sin(2 * np.pi * 150 * t)) * 32768 * 10 ** (dbfs / 20)).astype("<i2").tobytes()


def silence(ms: float, rate_hz: int = 16_000) -> bytes:
    return bytes(2 * round(ms * rate_hz / 1000))


def audio_message(pcm: bytes, rate_hz: int = 16_000) -> dict[str, Any]:
    data = base64.b64encode(pcm).decode()
    return {"realtimeInput": {"audio": {"data": data, "mimeType": f"audio/pcm;rate={rate_hz}"}}}


class RawClient:
    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws
        self.seen: list[dict[str, Any]] = []
        self.frames: list[str | bytes] = []

    async def send(self, message: Any, *, binary: bool = False) -> None:
        text = message if isinstance(message, str) else json.dumps(message)
        await self.ws.send(text.encode() if binary else text)

    async def speak(self, *parts: bytes) -> None:
        """Audio in frames of 20 ms, as fast as they go."""
        pcm = b"".join(parts)
        for start in range(0, len(pcm), 640):
            await self.send(audio_message(pcm[start : start + 640]))

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(TIMEOUT_S):
            frame = await self.ws.recv()
        self.frames.append(frame)
        message: dict[str, Any] = json.loads(frame)
        self.seen.append(message)
        return message

    async def until(self, *path: str) -> Any:
        """Receive until a message holds this path of keys; what stands there."""
        while True:
            value: Any = await self.receive()
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                return value

    async def turn(self) -> list[str]:
        """Receive to the end of a turn; what it consisted of, in order, runs of the same thing once."""
        start = len(self.seen)
        await self.until("serverContent", "turnComplete")
        kinds = [kind for message in self.seen[start:] for kind in kinds_of(message)]
        return [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]

    async def nothing_for(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                self.frames.append(await self.ws.recv())
        except TimeoutError:
            return True
        return False

    async def closed(self) -> tuple[int, str]:
        """Receive to the end of the connection; code and reason (1006 when there was no goodbye)."""
        try:
            while True:
                await self.receive()
        except ConnectionClosed as end:
            return (end.rcvd.code, end.rcvd.reason) if end.rcvd else (1006, "")

    def audio_of(self, messages: list[dict[str, Any]] | None = None) -> bytes:
        pcm = b""
        for message in self.seen if messages is None else messages:
            for part in message.get("serverContent", {}).get("modelTurn", {}).get("parts", []):
                pcm += base64.b64decode(part.get("inlineData", {}).get("data", ""))
        return pcm

    def texts(self, key: str = "outputTranscription") -> list[str]:
        found = [message.get("serverContent", {}).get(key) for message in self.seen]
        return [transcription["text"] for transcription in found if transcription]


def kinds_of(message: dict[str, Any]) -> list[str]:
    kinds = [key for key in message if key not in ("serverContent", "usageMetadata", "sessionResumptionUpdate")]
    content = message.get("serverContent", {})
    for key in content:
        if key == "modelTurn":
            kinds += ["audio" if "inlineData" in part else "thought" for part in content[key]["parts"]]
        elif key != "interactionStatus":
            kinds.append(key)
    return kinds


def trusting(server: ModelServer) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=server.ca_path)


@contextlib.asynccontextmanager
async def raw_client(
    server: ModelServer, setup: dict[str, Any] | None = None, *, path: str = LIVE_PATH, **options: Any
) -> AsyncIterator[RawClient]:
    """Connected, and set up when a setup is given (setupComplete has come)."""
    headers = options.pop("headers", {"x-goog-api-key": "rehearsal"})
    context = trusting(server) if server.url.startswith("https") else None
    url = server.url.replace("http", "ws", 1) + path
    options = {"ping_interval": None, "max_size": None, "compression": None, "proxy": None, **options}
    async with connect(url, ssl=context, additional_headers=headers, **options) as ws:
        client = RawClient(ws)
        if setup is not None:
            await client.send(setup)
            assert await client.receive() == {"setupComplete": {}}
        yield client


async def refusal(server: ModelServer, setup: Any, **options: Any) -> tuple[int, str]:
    """Code and reason with which a first message is refused."""
    async with raw_client(server, **options) as client:
        await client.send(setup)
        return await client.closed()
