"""Past calls over HTTP: the list with its filters, one call and what can be downloaded of it, percentiles.

The same answers are given to programs, with the API token, and to the console's pages:

GET /calls              GET /console/api/history
GET /calls/ID/PART      GET /console/api/calls/ID/PART: record, transcript.vtt, recording.wav, scenario.yaml
GET /percentiles        GET /console/api/history/percentiles
                        GET /console/api/history/names: what can be filtered by
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import msgspec
from aiohttp import web

from offhook.gateway.errors import OperatorError
from offhook.gateway.store import Records
from offhook.gateway.store.asked import query_of, time_ms
from offhook.gateway.store.bucket import BucketAway
from offhook.gateway.store.columns import iso, without_number
from offhook.gateway.store.database import DatabaseAway, Work
from offhook.gateway.store.history import SegmentFigures, list_calls, percentiles, stored_names
from offhook.gateway.store.kept import KeptRecords
from offhook.gateway.store.record import CallRecord
from offhook.gateway.store.recordings import Playable, Recordings

__all__ = ["FILTERS", "PARTS", "SPAN", "History", "SpanFigures", "webvtt"]

log = logging.getLogger(__name__)
T = TypeVar("T")
FILTERS = (
    "since",
    "until",
    "number",
    "agent",
    "end_reason",
    "tool",
    "words",
    "turn_gap_over_ms",
    "barge_in_over_ms",
    "cursor",
    "limit",
)
SPAN = ("since", "until", "agent", "model")
PARTS = ("record", "transcript.vtt", "recording.wav", "scenario.yaml")
WEEK_MS = 7 * 86_400_000
LAST_CUE_MS = 4_000.0
PIECE_BYTES = 256_000  # 8 s of audio
NO_STORE = "no history: set OFFHOOK_DATA_DIR to keep records"


class SpanFigures(msgspec.Struct, frozen=True):
    """Every segment over one span."""

    since: str
    until: str
    segments: list[SegmentFigures]


class History:
    """`store` None: records are in memory alone, and only `records` has any.

    `scenario_of(record)` makes a scenario, in a thread. `clock` gives wall-clock seconds.
    """

    def __init__(
        self,
        store: KeptRecords | None,
        records: Records,
        scenario_of: Callable[[CallRecord], str],
        clock: Callable[[], float],
        recordings: Recordings,
    ) -> None:
        self._database = None if store is None else store.database
        self._key = b"" if store is None else store.number_key
        self._records = records
        self._scenario_of, self._clock, self._recordings = scenario_of, clock, recordings

    async def calls(self, request: web.Request) -> web.Response:
        """A page of calls. Raises 4xx and 503."""
        query = _read(lambda: query_of(_given(request, FILTERS), self._key))
        return _json(await self._asked(partial(list_calls, query=query)))

    async def names(self, request: web.Request) -> web.Response:
        """What can be filtered by."""
        _given(request, ())
        return _json(await self._asked(stored_names))

    async def percentiles(self, request: web.Request) -> web.Response:
        """Of a span, the last seven days unless given."""
        given = _given(request, SPAN)
        now_ms = int(self._clock() * 1000)
        until_ms = _read(lambda: time_ms(given["until"], "until")) if given.get("until") else now_ms
        since_ms = _read(lambda: time_ms(given["since"], "since")) if given.get("since") else until_ms - WEEK_MS
        since_ms = max(0, since_ms)
        asked = partial(
            percentiles,
            since_ms=since_ms,
            until_ms=until_ms,
            now_ms=now_ms,
            agent=given.get("agent") or None,
            model=given.get("model") or None,
        )
        return _json(SpanFigures(iso(since_ms), iso(until_ms), await self._asked(asked)))

    async def part(self, request: web.Request) -> web.StreamResponse:
        """One thing of a call. Raises 404."""
        _given(request, ())
        call_sid, part = request.match_info["id"], request.path.rpartition("/")[2]
        record = await self._records.get(call_sid)
        if record is None:
            raise web.HTTPNotFound(text="unknown call, or it has not ended yet")
        name = f"{record.call_sid}-{part}"
        match part:
            case "record":
                return _json(without_number(record), f"{record.call_sid}.json")
            case "transcript.vtt":
                return _file(webvtt(record).encode(), "text/vtt", name)
            case "scenario.yaml":
                return await self._scenario(record)
            case "recording.wav":
                return await self._recording(request, record)
        raise web.HTTPNotFound(text=f"unknown part: one of {', '.join(PARTS)}")

    async def _scenario(self, record: CallRecord) -> web.Response:
        try:
            text = await asyncio.to_thread(self._scenario_of, record)
        except OperatorError as error:
            raise web.HTTPConflict(text=f"no scenario can be made of this call: {error}") from None
        return _file(text.encode(), "application/yaml", f"{record.call_sid}.call.yaml")

    async def _recording(self, request: web.Request, record: CallRecord) -> web.StreamResponse:
        """From the disk or the bucket, decrypted; the whole or a range."""
        if record.recording is None:
            raise web.HTTPNotFound(text="the call was not recorded")
        audio = None
        try:
            audio = await asyncio.to_thread(self._recordings.opened, record.recording)
            if audio is None:
                raise web.HTTPNotFound(text="the recording is not on this machine yet, or was removed")
            return await _streamed(request, audio, f"{record.call_sid}.wav")
        except OperatorError as error:
            raise web.HTTPConflict(text=str(error)) from None
        except (BucketAway, OSError) as error:
            if request.transport is None or request.transport.is_closing():
                raise
            log.warning("call %s: its recording cannot be read: %s", record.call_sid, error)
            raise web.HTTPServiceUnavailable(
                text="the recording cannot be read", headers={"Retry-After": "5"}
            ) from None
        finally:
            if audio is not None:
                await asyncio.to_thread(audio.close)

    async def _asked(self, work: Work[T]) -> T:
        if self._database is None:
            raise web.HTTPNotFound(text=NO_STORE)
        try:
            return await self._database.read(work)
        except DatabaseAway:
            text = "the database cannot be reached, or did not answer in time"
            raise web.HTTPServiceUnavailable(text=text, headers={"Retry-After": "5"}) from None


async def _streamed(request: web.Request, audio: Playable, name: str) -> web.StreamResponse:
    """Raises 416 for a range that is not in it; whatever `read` raises before anything was sent."""
    headers = {
        "Content-Disposition": f'inline; filename="{name}"',
        "Content-Type": "audio/wav",
        "Accept-Ranges": "bytes",
    }
    try:
        asked = request.http_range
    except ValueError:
        asked = slice(None)  # one that cannot be read is left out of account: RFC 9110, 14.2
    first, end, _ = asked.indices(audio.size)
    ranged = asked.start is not None
    if ranged and first >= end:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{audio.size}"})
    if ranged:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{audio.size}"
    piece = await asyncio.to_thread(audio.read, first, min(PIECE_BYTES, end - first))
    answer = web.StreamResponse(status=206 if ranged else 200, headers=headers)
    answer.content_length = end - first
    await answer.prepare(request)
    if request.method == "HEAD":
        return answer
    while piece:
        await answer.write(piece)
        first += len(piece)
        piece = await asyncio.to_thread(audio.read, first, min(PIECE_BYTES, end - first)) if first < end else b""
    await answer.write_eof()
    return answer


def webvtt(record: CallRecord) -> str:
    """The transcript as WebVTT, on the axis of the recording where there is one. https://www.w3.org/TR/webvtt1/"""
    offset_ms = record.recording.offset_ms if record.recording is not None else 0.0
    lines = record.transcript
    blocks = ["WEBVTT"]
    for line, following in zip(lines, [*lines[1:], None], strict=True):
        ends_ms = following.at_ms if following is not None else line.at_ms + LAST_CUE_MS
        times = f"{_cue(line.at_ms - offset_ms)} --> {_cue(max(ends_ms, line.at_ms + 1) - offset_ms)}"
        text = " ".join(line.text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{times}\n<v {line.who}>{text}")
    return "\n\n".join(blocks) + "\n"


def _cue(at_ms: float) -> str:
    ms = max(0, round(at_ms))
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"


def _given(request: web.Request, known: tuple[str, ...]) -> Mapping[str, str]:
    """The query. Raises 400 for a name that is unknown, or there twice."""
    for name in request.query:
        if name not in known:
            raise web.HTTPBadRequest(text=f"unknown parameter: {name[:60]}")
        if len(request.query.getall(name)) > 1:
            raise web.HTTPBadRequest(text=f"{name} is given twice")
        if not request.query[name]:
            raise web.HTTPBadRequest(text=f"{name} is empty: leave it out")
    return request.query


def _read(reading: Callable[[], T]) -> T:
    try:
        return reading()
    except OperatorError as error:
        raise web.HTTPBadRequest(text=str(error)) from None


def _json(value: object, name: str = "") -> web.Response:
    return _file(msgspec.json.encode(value), "application/json", name)


def _file(body: bytes, kind: str, name: str) -> web.Response:
    headers = {"Content-Disposition": f'inline; filename="{name}"'} if name else {}
    return web.Response(body=body, content_type=kind, headers=headers)
