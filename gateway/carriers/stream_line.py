"""A `Line` over any JSON WebSocket: what carriers with a media stream of that kind have in common.

Audio, marks and clears go into a bounded outbox, which one task per stream empties into the socket. The far end plays
at its own pace and reports each mark as it gets there. Only the JSON differs, which is the `Encoder`'s.

A far end that stops reading must not hold anything up: its transport is aborted when the stream is left, and its sender
ends with it. The next stream has a line, and a sender, of its own.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

from offhook.gateway.call.line import LineCan, LineFormats, LineSink, ReplyMark, Span
from offhook.gateway.errors import forget_frames
from offhook.gateway.observe.tcp import round_trip_s

__all__ = ["ClearMark", "Encoder", "StreamLine", "StreamSocket", "close_socket", "mark_name", "parse_mark"]

# A far end that stops reading: ten minutes of mu-law in base64 are more than any carrier's own buffer holds.
OUTBOX_MAX_BYTES = 7_000_000
CLOSE_MAX_S = 3.0  # the WebSocket's own wait for the peer's close frame is 2 s
UNREAD_MAX_BYTES = 16 * 1024  # asyncio's low-water mark: with no more unsent than this a transport is never paused
AT_ONCE_BYTES = 64 * 1024  # in one piece: the transport's own high-water mark
ENVELOPE_BYTES = 256  # of a media message, around its base64


@dataclass(frozen=True, slots=True)
class ClearMark:
    """The mark after clear number `epoch`: its report shows that the far end's queue was empty."""

    epoch: int


@dataclass(frozen=True, slots=True)
class _Clear:
    epoch: int


class Encoder(Protocol):
    """A carrier's messages of one stream, as text."""

    def media(self, codes: bytes) -> str:
        """Append audio to the far end's queue."""

    def mark(self, name: str) -> str:
        """Have `name` reported once everything sent before it was played."""

    def clear(self) -> str:
        """Drop the far end's queue."""


class StreamSocket(Protocol):
    """The server's side of a WebSocket: aiohttp's `WebSocketResponse`, without compression."""

    @property
    def closed(self) -> bool:
        """Whether its close frame was sent."""

    async def send_str(self, data: str) -> None: ...

    async def close(self, *, code: int = 1000, message: bytes = b"") -> Any: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any: ...

    def exception(self) -> BaseException | None:
        """The error that ended it, if one did."""


class StreamLine:
    """One stream's line. `transport` is the socket's own; `sink` the call.

    The reader of the socket passes on the far end's reports: `on_mark`, and `on_cleared` where it acknowledges a clear
    by a message of its own.
    """

    def __init__(
        self,
        socket: StreamSocket,
        transport: asyncio.WriteTransport,
        encoder: Encoder,
        sink: LineSink,
        *,
        stream_id: str,
        formats: LineFormats,
        can: LineCan,
    ) -> None:
        self.stream_id, self.formats, self.can = stream_id, formats, can
        self.marks_outstanding = 0  # sent and not reported back
        self._socket, self._transport, self._encoder, self._sink = socket, transport, encoder, sink
        self._outbox: deque[tuple[str, Span | ReplyMark | ClearMark | _Clear]] = deque()
        self._outbox_bytes = 0
        self._outbox_filled = asyncio.Event()
        self._clears: deque[int] = deque()  # epochs sent to a far end that acknowledges clears, and not acknowledged
        self._closed = False
        self._media_max_bytes = _codes_in(can.max_message_bytes, formats)
        self._sender = asyncio.create_task(self._keep_sending(), name=f"line {stream_id}")

    # --- Line

    def play(self, span: Span, codes: bytes) -> None:
        """Queue audio. More than one message may hold is split, each part with its own span."""
        if len(codes) <= self._media_max_bytes:
            self._queue(self._encoder.media(codes), span)
            return
        bytes_per_sample = self.formats.takes.bytes_per_sample
        for start in range(0, len(codes), self._media_max_bytes):
            part = codes[start : start + self._media_max_bytes]
            first = span.from_sample + start // bytes_per_sample
            part_span = Span(span.generation, first, first + len(part) // bytes_per_sample)
            self._queue(self._encoder.media(part), part_span)

    def mark(self, mark: ReplyMark) -> None:
        self._queue(self._encoder.mark(mark_name(mark)), mark)

    def clear(self, epoch: int) -> None:
        """What has not been sent is dropped here and now: nothing of it follows the clear."""
        self._outbox.clear()
        self._outbox_bytes = 0
        self._queue(self._encoder.clear(), _Clear(epoch))
        if not self.can.acknowledges_clear:
            mark = ClearMark(epoch)
            self._queue(self._encoder.mark(mark_name(mark)), mark)

    def round_trip_s(self) -> float | None:
        return round_trip_s(self._socket.get_extra_info("socket"))

    async def close(self, code: int = 1000, message: bytes = b"") -> None:
        """Send the close frame and wait for the peer's, 3 s at most; abort a transport that does not drain."""
        if self._closed:
            return
        self._stop()
        await close_socket(self._socket, self._transport, code, message)
        await self._sender_ended()

    def abort(self) -> None:
        self._stop()
        self._transport.abort()

    # --- what the far end reports

    def on_mark(self, name: str) -> bool:
        """A mark came back; False for a name that is not one of ours."""
        mark = parse_mark(name)
        if mark is None:
            return False
        self.marks_outstanding = max(0, self.marks_outstanding - 1)
        if isinstance(mark, ReplyMark):
            self._sink.mark_heard(mark)
        else:
            self._sink.cleared(mark.epoch)
        return True

    def on_cleared(self) -> None:
        """The far end acknowledged a clear: they come back in order."""
        if self._clears:
            self._sink.cleared(self._clears.popleft())

    # --- the outbox

    def _queue(self, message: str, what: Span | ReplyMark | ClearMark | _Clear) -> None:
        if self._closed:
            return
        self._outbox.append((message, what))
        self._outbox_bytes += len(message)
        self._outbox_filled.set()
        if self._outbox_bytes > OUTBOX_MAX_BYTES:
            self._stop()
            self._transport.abort()
            self._sink.line_failed("the carrier stopped reading")

    async def _keep_sending(self) -> None:
        """A sender that fails leaves a stream in which nothing more is sent: it is dropped, and its reader reports it
        as lost, so that the carrier connects another.
        """
        try:
            await self._send()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._fail(error)  # a future that it shares with others was cancelled, as the transport's drain
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self.abort()
        self._sink.task_failed("line_sender", error)

    async def _send(self) -> None:
        """Empties the outbox into the socket; what a clear removed is never sent."""
        while not self._closed:
            while self._outbox:
                if self._send_together():
                    continue
                message, what = self._take()
                try:
                    await self._socket.send_str(message)
                except (ConnectionError, RuntimeError):
                    # The connection is gone: the reader of the socket reports it.
                    self._stop()
                if self._closed:
                    return
                self._sent(what)
            self._outbox_filled.clear()
            await self._outbox_filled.wait()

    def _send_together(self) -> bool:
        """Audio and the marks behind it in one piece, past the socket's own `send_str`: one system call, not one each.

        False, and nothing is sent, where that would have to wait, or the socket is closed.
        """
        transport = self._transport
        if self._socket.closed or transport.is_closing() or transport.get_write_buffer_size():
            return False
        frames, whats, size = [], [], 0
        while self._outbox and size < AT_ONCE_BYTES:
            message, what = self._take()
            frames.append(_text_frame(message.encode()))
            whats.append(what)
            size += len(message)
        transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
        for what in whats:
            self._sent(what)
        return True

    def _take(self) -> tuple[str, Span | ReplyMark | ClearMark | _Clear]:
        message, what = self._outbox.popleft()
        self._outbox_bytes -= len(message)
        if isinstance(what, _Clear) and self.can.acknowledges_clear:
            self._clears.append(what.epoch)
        return message, what

    def _sent(self, what: Span | ReplyMark | ClearMark | _Clear) -> None:
        if isinstance(what, Span):
            self._sink.sent(what)
        elif isinstance(what, _Clear):
            self._sink.clear_sent(what.epoch)
        else:
            self.marks_outstanding += 1

    def _stop(self) -> None:
        self._closed = True
        self._outbox.clear()
        self._outbox_bytes = 0
        self._outbox_filled.set()

    async def _sender_ended(self) -> None:
        # It waits for nothing but the transport, which is closed or aborted by now; a cancellation would also cancel
        # the future of the transport's drain, which others may wait for.
        done, _ = await asyncio.wait([self._sender], timeout=CLOSE_MAX_S)
        if not done:
            self._sender.cancel()


def _text_frame(payload: bytes) -> bytes:
    """A text message in one frame, as a server sends it (RFC 6455, 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


async def close_socket(
    socket: StreamSocket, transport: asyncio.WriteTransport, code: int = 1000, message: bytes = b""
) -> None:
    """Close a WebSocket in order, within 3 s. A transport that the peer does not drain is aborted, at once when that
    shows already.
    """
    if transport.get_write_buffer_size() > UNREAD_MAX_BYTES:
        transport.abort()
        return
    # A task of its own: whatever cancels the transport's drain, of which there is one future for all that wait for it,
    # must not cancel the caller.
    closing = asyncio.ensure_future(socket.close(code=code, message=message))
    try:
        await asyncio.wait([closing], timeout=CLOSE_MAX_S)
    finally:
        if not closing.done() or transport.get_write_buffer_size():  # it would wait for a peer that does not read
            transport.abort()
            closing.cancel()
        elif not closing.cancelled():
            closing.exception()  # a connection that is gone already is closed, too
        forget_frames(socket.exception())


# --- the names of marks

# Bounded digits, no leading zeros: only names that we could have made, no big integers out of 10 kB names.
_NUMBER = r"(0|[1-9][0-9]{0,14})"
_REPLY_MARK = re.compile(rf"r{_NUMBER}\.{_NUMBER}\.{_NUMBER}")
_CLEAR_MARK = re.compile(rf"c{_NUMBER}")


def mark_name(mark: ReplyMark | ClearMark) -> str:
    """The name by which a mark is sent and reported back."""
    if isinstance(mark, ClearMark):
        return f"c{mark.epoch}"
    return f"r{mark.generation}.{mark.sample}.{mark.epoch}"


def parse_mark(name: str) -> ReplyMark | ClearMark | None:
    """What a reported name stands for; None for a name that is not ours."""
    if match := _REPLY_MARK.fullmatch(name):
        return ReplyMark(int(match[1]), int(match[2]), int(match[3]))
    if match := _CLEAR_MARK.fullmatch(name):
        return ClearMark(int(match[1]))
    return None


def _codes_in(message_bytes: int, formats: LineFormats) -> int:
    """The bytes of audio that a message of this size holds in base64: whole frames, one at least."""
    frame_bytes = formats.takes.frame_bytes
    return max(1, (message_bytes - ENVELOPE_BYTES) * 3 // 4 // frame_bytes) * frame_bytes
