"""`offhook report`: one call's latencies, turns and picture, out of a report, a record, or a running gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import msgspec

from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal.phone.truth import CallTruth, StreamTruth
from offhook.gateway.rehearsal.results.report import (
    CallerTurn,
    CallReport,
    LineBargeIn,
    LineReply,
    LineReport,
    Report,
    report_of,
)
from offhook.gateway.rehearsal.results.tables import show
from offhook.gateway.rehearsal.scenario.from_call import read_record
from offhook.gateway.store.record import BargeInRecord, CallRecord, TurnRecord
from offhook.gateway.text import safe_name, visible_in
from offhook.metrics.segments import BY_NAME

__all__ = ["report", "report_from"]

FETCH_S = 10.0
TAIL_S = 0.5


def report(what: str, call_sid: str, url: str, out: Path, environ: Mapping[str, str]) -> None:
    """Show the call (its SID, or a JSON file and, of several calls in it, `call_sid`) and draw its picture.

    Raises `OperatorError` when there is no such call, file or gateway.
    """
    path = Path(what)
    if path.is_file():
        found = _read(path, call_sid)
    elif path.suffix == ".json" or "/" in what:
        raise OperatorError(f"{what}: no such file")
    else:
        found = asyncio.run(_fetch(what, url, environ))
    if isinstance(found, Report):  # rehearsed: its pictures are drawn
        show(found)
        return
    made = report_from(found)
    drawn = {"picture": str(_draw(made, out))} if found.streams else {}
    whole = report_of([made], drawn)
    # A record has no segments that are measured by the rehearsal's caller or carrier.
    whole.totals.segments = {name: of for name, of in whole.totals.segments.items() if name in BY_NAME}
    show(whole)


def _read(path: Path, call_sid: str) -> Report | CallRecord:
    try:
        rehearsed = msgspec.convert(visible_in(msgspec.json.decode(path.read_bytes())), Report)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return read_record(path, call_sid)
    chosen = [one for one in rehearsed.calls if one.call_sid == call_sid]
    if not call_sid or len(rehearsed.calls) == len(chosen) == 1:
        return rehearsed
    return report_of(chosen) if chosen else read_record(path, call_sid)


async def _fetch(call_sid: str, url: str, environ: Mapping[str, str]) -> CallRecord:
    token = environ.get("OFFHOOK_CONSOLE_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    where = f"{url.rstrip('/')}/console/api/calls/{call_sid}"
    try:
        timeout = aiohttp.ClientTimeout(total=FETCH_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(where, headers=headers) as response,
        ):
            status, body = response.status, await response.read()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        why = type(error).__name__
        raise OperatorError(f"no gateway answers at {url} ({why}): give its address with --url") from None
    if status in (401, 403):
        raise OperatorError("the gateway requires its console token: set OFFHOOK_CONSOLE_TOKEN")
    if status != 200:
        raise OperatorError(
            f"the gateway at {url} has no record of call {call_sid}, or serves its console elsewhere: with a public "
            "URL that is the admin listener, such as --url http://127.0.0.1:8081"
        )
    try:
        return msgspec.convert(visible_in(msgspec.json.decode(body)), CallRecord)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise OperatorError(f"the server at {url} is not a gateway of this version: {error}") from None


def report_from(record: CallRecord) -> CallReport:
    """The report of a call out of the gateway's record alone; pure."""
    return CallReport(
        call_sid=record.call_sid,
        scenario=record.call_sid,
        end_reason=record.end_reason,
        record=record,
        line=LineReport(
            ended_by=record.end_reason,
            duration_ms=record.duration_ms,
            caller=[_caller_turn(turn) for turn in record.turns if turn.caller_ended_ms is not None],
            replies=[_reply(turn) for turn in record.turns],
            barge_ins=[
                LineBargeIn(
                    text="",
                    kind="say",
                    generation=one.generation,
                    onset_ms=one.onset_ms,
                    clear_ms=one.clear_sent_ms,
                    silent_ms=one.stopped_ms,
                    onset_to_clear_ms=_onset_to_clear_ms(one),
                    onset_to_silence_ms=one.segments.get("bargein_silence"),
                    verdict=one.verdict,
                )
                for one in record.barge_ins
            ],
            announced=[],
            failed_steps=[],
            violations=[],
            unplayed_ms=0.0,
            frames_sent=0,
            frames_dropped=0,
            latest_tick_ms=0.0,
        ),
    )


def _onset_to_clear_ms(barge_in: BargeInRecord) -> float | None:
    """By the gateway's segments; None without a detected onset or a clear sent."""
    detect_ms, clear_ms = (barge_in.segments.get(f"bargein_{part}") for part in ("detect", "clear_sent"))
    return None if detect_ms is None or clear_ms is None else detect_ms + clear_ms


def _caller_turn(turn: TurnRecord) -> CallerTurn:
    end_ms = turn.caller_ended_ms or 0.0
    return CallerTurn(
        text=turn.caller_text,
        kind="say",
        onset_ms=turn.caller_started_ms if turn.caller_started_ms is not None else end_ms,
        end_ms=end_ms,
        over_agent=False,
    )


def _reply(turn: TurnRecord) -> LineReply:
    return LineReply(
        generation=turn.generation,
        started_ms=turn.reply_started_ms,
        ended_ms=turn.reply_ended_ms,
        sent_ms=turn.sent_ms,
        heard_ms=turn.heard_ms,
        unheard_tail_ms=max(0.0, turn.received_ms - turn.heard_ms),
        longest_gap_ms=turn.longest_gap_ms,
    )


def _draw(made: CallReport, out: Path) -> Path:
    """Draw the call's picture, without waveforms: a record holds no audio."""
    from offhook.gateway.rehearsal.results.picture import draw

    silence = b"\xff" * round((made.line.duration_ms / 1000 + TAIL_S) * 8_000)
    stream = StreamTruth(stream_sid="", url="", dialled_s=0.0, started_s=0.0)
    path = out / f"{made.call_sid if safe_name(made.call_sid) else 'call'}.png"
    draw(CallTruth(call_sid=made.call_sid, streams=[stream], left=silence, right=silence), made, path)
    return path
