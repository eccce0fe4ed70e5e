"""What the carrier sends on one media socket: numbered, in order, and with the delays of the line."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from typing import Any

import aiohttp
import msgspec

from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.quick_clock import Clock

__all__ = ["Outbox"]

MAX_FRAMES = 250  # 5 s: a gateway that reads slower loses caller audio, Twilio's warning 31930
_NO_MORE = ""  # the end


class Outbox:
    """The messages of one stream after another."""

    def __init__(self, carrier: Carrier, clock: Clock) -> None:
        self._carrier, self._clock = carrier, clock
        self._random = random.Random(carrier.seed)
        self._stream_sid = ""
        self._queued: deque[str] = deque()
        self._filled = asyncio.Event()
        self._held: deque[tuple[float, Callable[[], None]]] = deque()  # what is delayed: arrival, and what queues it
        self._release_s = 0.0
        self._sequence = self._chunk = 0

    def begin(self, stream_sid: str) -> None:
        """Another stream: nothing of the last one is sent any more."""
        self._stream_sid = stream_sid
        self._queued.clear()
        self._held.clear()
        self._sequence = self._chunk = 0

    def queue(self, text: str) -> None:
        """Queue a message as it is."""
        self._queued.append(text)
        self._filled.set()

    def event(self, event: Mapping[str, Any]) -> None:
        """Queue an event of the stream, behind the frames that jitter holds; it is numbered when it is queued."""
        queue = partial(self._queue_event, self._stream_sid, event)
        if self._held and self._carrier.jitter_ms:
            self._held.append((self._held[-1][0], queue))
        else:
            queue()

    def frame(self, text: str, at_ms: int, now_s: float) -> bool:
        """Queue 20 ms of audio, base64, or have it held by the line; False: the gateway does not read, it is lost."""
        if len(self._queued) >= MAX_FRAMES:
            return False
        self._chunk += 1
        queue = partial(self._queue_frame, self._stream_sid, self._chunk, at_ms, text)
        if self._carrier.bunch_frames > 1:
            self._held.append((now_s, queue))
            if len(self._held) >= self._carrier.bunch_frames:
                self._release(now_s)
        elif self._carrier.jitter_ms:
            late_s = self._random.uniform(0.0, self._carrier.jitter_ms) / 1000.0
            self._release_s = max(self._release_s, now_s + late_s)  # TCP: in order
            self._held.append((self._release_s, queue))
            asyncio.get_running_loop().call_at(self._release_s, lambda: self._release(self._clock()))
        else:
            queue()
        return True

    def last(self, event: Mapping[str, Any]) -> None:
        """Queue what is held, and this event; then `send` ends."""
        self._release(inf)
        self._queue_event(self._stream_sid, event)
        self.queue(_NO_MORE)

    async def send(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        """The one writer of the socket."""
        try:
            while True:
                while self._queued:
                    if self._queued[0] is _NO_MORE:
                        return
                    await ws.send_str(self._queued[0])
                    self._queued.popleft()
                self._filled.clear()
                await self._filled.wait()
        except (ConnectionError, aiohttp.ClientError):
            return  # the reader records the end

    def _release(self, now_s: float) -> None:
        """Queue what was held and is due."""
        while self._held and self._held[0][0] <= now_s:
            self._held.popleft()[1]()

    def _next_sequence(self) -> str:
        self._sequence += 1
        return str(self._sequence)

    def _queue_event(self, stream_sid: str, event: Mapping[str, Any]) -> None:
        if self._stream_sid == stream_sid:
            numbered = {**event, "streamSid": stream_sid, "sequenceNumber": self._next_sequence()}
            self.queue(msgspec.json.encode(numbered).decode())

    def _queue_frame(self, stream_sid: str, chunk: int, at_ms: int, text: str) -> None:
        """Formatted by hand for speed: 50 per second and call."""
        if self._stream_sid == stream_sid:
            self.queue(
                f'{{"event":"media","sequenceNumber":"{self._next_sequence()}","media":{{"track":"inbound",'
                f'"chunk":"{chunk}","timestamp":"{at_ms}","payload":"{text}"}},'
                f'"streamSid":"{stream_sid}"}}'
            )
