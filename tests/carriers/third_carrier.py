"""A third carrier for the tests: RTP, whose far end has no queue, and a phone there.

`PacedLine` keeps the queue itself and sends a frame every 20 ms; what it sent was played 20 ms later, so that it knows
exactly what was heard. No file under call/, conversation/ or telephony/ was changed for it. Sources: RFC 3550 and 3551
(headers, payload types, BYE). Calls are signalled by one HTTP request, for brevity, not by SIP.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import aiohttp
from aiohttp import web

from offhook.gateway.call.call import Call
from offhook.gateway.call.line import LineCan, LineFormats, LineSink, ReplyMark, Span
from offhook.gateway.config import Settings
from offhook.gateway.telephony.admission import Admitted
from offhook.gateway.telephony.carrier import Carrier, Ringing
from offhook.gateway.telephony.switchboard import Switchboard
from offhook.gateway.web.limits import Limits
from offhook.media.formats import AudioFormat
from offhook.metrics.catalogue import Metrics

__all__ = ["PacedLine", "RtpCarrier", "RtpPhone"]

CAN = LineCan(pauses=True, reports_playback=False, acknowledges_clear=True)
FRAME_S = 0.02
RUN_S = 0.06  # a longer pause between two frames ends a run of audio
PHASE_S = 0.007  # of the caller's frames to ours: whether a clear at a frame's very instant stops it is a toss-up
HEADER = struct.Struct(">BBHII")  # version, payload type, sequence number, timestamp, source
PAYLOAD_TYPE = 96  # dynamic
BYE = struct.pack(">BBHI", 0x81, 203, 1, 0)  # RTCP, on the same port


class PacedLine:
    """A `Line` that plays its own queue. `send` takes a frame, or None for the end of the stream."""

    can = CAN

    def __init__(
        self,
        send: Callable[[bytes | None], None],
        sink: LineSink,
        *,
        stream_id: str,
        formats: LineFormats,
        clock: Callable[[], float],
    ) -> None:
        self.stream_id, self.formats = stream_id, formats
        self.marks_outstanding = 0
        self._send, self._sink, self._clock = send, sink, clock
        self._queue: deque[tuple[Span, bytes] | ReplyMark] = deque()
        self._filled = asyncio.Event()
        self._pacer = asyncio.create_task(self._pace(), name=f"line {stream_id}")

    def play(self, span: Span, codes: bytes) -> None:
        """The queue holds whole frames, as the playout sends them; a last shorter one is filled with silence."""
        takes = self.formats.takes
        for start in range(0, len(codes), takes.frame_bytes):
            frame = codes[start : start + takes.frame_bytes]
            first = span.from_sample + start // takes.bytes_per_sample
            frame_span = Span(span.generation, first, first + len(frame) // takes.bytes_per_sample)
            missing = (takes.frame_bytes - len(frame)) // takes.bytes_per_sample
            self._queue.append((frame_span, frame + takes.silence * missing))
        self._filled.set()

    def mark(self, mark: ReplyMark) -> None:
        self.marks_outstanding += 1
        self._queue.append(mark)
        self._filled.set()

    def clear(self, epoch: int) -> None:
        """Marks in the queue are dropped with it; a frame that was sent is heard to its end."""
        self._queue.clear()
        self.marks_outstanding = 0
        self._sink.clear_sent(epoch)
        self._sink.cleared(epoch)

    def round_trip_s(self) -> float | None:
        return None

    async def close(self) -> None:
        self.abort()
        await asyncio.gather(self._pacer, return_exceptions=True)

    def abort(self) -> None:
        if not self._pacer.cancelling():
            self._pacer.cancel()
            self._send(None)

    async def _pace(self) -> None:
        """A frame is sent when the one before it was played. Marks are reported once the frame before them was."""
        while True:
            await self._filled.wait()
            due_s = self._clock()
            while self._queue:
                item = self._queue.popleft()
                if isinstance(item, ReplyMark):
                    self.marks_outstanding -= 1
                    self._sink.mark_heard(item)
                    continue
                span, frame = item
                self._send(frame)
                self._sink.sent(span)
                due_s += FRAME_S
                await asyncio.sleep(max(0.0, due_s - self._clock()))
            self._filled.clear()


class RtpCarrier(Carrier):
    """A carrier that can be called; `formats` of all its streams."""

    name = "rtp"

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        limits: Limits,
        board: Switchboard,
        *,
        clock: Callable[[], float],
        formats: LineFormats,
    ) -> None:
        self._board, self._clock, self._formats = board, clock, formats

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/rtp/invite", self._invite)]

    async def _invite(self, request: web.Request) -> web.Response:
        form = await request.post()
        call_id, dialled, now_s = str(form["call"]), str(form["to"]), self._clock()
        ringing = Ringing(call_id, str(form["from"]), dialled, dialled, self._formats, reconnects=False)
        answer = self._board.ring(self, ringing, now_s)
        if not isinstance(answer, Admitted):
            return web.Response(status=486)
        call = self._board.claim(call_id, answer.token, call_id, now_s)
        assert call is not None
        far_end = ("127.0.0.1", int(str(form["port"])))
        loop = asyncio.get_running_loop()
        stream = _GatewayStream(self._board, call, self._formats.gives)
        transport, _ = await loop.create_datagram_endpoint(lambda: stream, ("127.0.0.1", 0), far_end)
        packets = _Packets(transport, self._formats.takes)
        line = PacedLine(packets.send, call, stream_id=call_id, formats=self._formats, clock=self._clock)
        call.attach(line)
        return web.json_response({"port": transport.get_extra_info("sockname")[1]})


class _Packets:
    """Frames as RTP packets; None as BYE, after which the socket is closed."""

    def __init__(self, transport: asyncio.DatagramTransport, audio: AudioFormat) -> None:
        self._transport, self._samples, self._count = transport, audio.frame_samples, 0

    def send(self, frame: bytes | None) -> None:
        if frame is None:
            self._transport.sendto(BYE)
            self._transport.close()
            return
        header = HEADER.pack(0x80, PAYLOAD_TYPE, self._count & 0xFFFF, self._count * self._samples & 0xFFFFFFFF, 1)
        self._count += 1
        self._transport.sendto(header + frame)


class _GatewayStream(asyncio.DatagramProtocol):
    """The gateway's socket of one call."""

    def __init__(self, board: Switchboard, call: Call, audio: AudioFormat) -> None:
        self._board, self._call, self._rate_hz = board, call, audio.rate_hz

    def datagram_received(self, data: bytes, addr: object) -> None:
        if data == BYE:
            self._board.hung_up(self._call)
            return
        timestamp = HEADER.unpack_from(data)[3]
        self._call.caller_audio(data[HEADER.size :], timestamp * 1000 // self._rate_hz)


class RtpPhone(asyncio.DatagramProtocol):
    """A phone without a queue: each packet is played as it arrives. It says what is put into `speech`.

    `runs`: when each run of the agent's audio began, and its codes.
    """

    def __init__(self, url: str, dialled: str, formats: LineFormats, clock: Callable[[], float]) -> None:
        self._url, self._dialled, self._formats, self._clock = url, dialled, formats, clock
        self.call_id = "RTP1"
        self.speech = bytearray()
        self.said = bytearray()  # as sent
        self.runs: list[tuple[float, bytearray]] = []
        self.arrivals_s: list[float] = []
        self.over = asyncio.Event()

    @property
    def heard_s(self) -> float:
        """Of the agent."""
        return len(self.arrivals_s) * FRAME_S

    def datagram_received(self, data: bytes, addr: object) -> None:
        if data == BYE:
            self.over.set()
            return
        now_s = self._clock()
        if not self.arrivals_s or now_s - self.arrivals_s[-1] > RUN_S:
            self.runs.append((now_s, bytearray()))
        self.arrivals_s.append(now_s)
        self.runs[-1][1].extend(data[HEADER.size :])

    async def call(self) -> None:
        """The whole call, to its end by either side."""
        loop = asyncio.get_running_loop()
        listening, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", 0))
        port = listening.get_extra_info("sockname")[1]
        form = {"call": self.call_id, "from": "+15550100", "to": self._dialled, "port": str(port)}
        async with aiohttp.ClientSession() as http, http.post(f"{self._url}/rtp/invite", data=form) as answer:
            far_end = ("127.0.0.1", (await answer.json())["port"])
        self._listening, self._far_end = listening, far_end
        gives, count = self._formats.gives, 0
        await asyncio.sleep(PHASE_S)
        self.began_s = began_s = self._clock()
        while not self.over.is_set():
            frame = bytes(self.speech[: gives.frame_bytes])
            del self.speech[: gives.frame_bytes]
            frame += gives.silence * ((gives.frame_bytes - len(frame)) // gives.bytes_per_sample)
            self.said += frame
            header = HEADER.pack(0x80, PAYLOAD_TYPE, count & 0xFFFF, count * gives.frame_samples, 2)
            listening.sendto(header + frame, far_end)
            count += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, began_s + count * FRAME_S - self._clock())):
                    await self.over.wait()
        listening.close()

    def hang_up(self) -> None:
        self._listening.sendto(BYE, self._far_end)
        self.over.set()
