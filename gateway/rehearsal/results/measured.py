"""What a rehearsed call was, of the gateway's record and the ground truth: its `CallReport`."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from offhook.gateway.rehearsal.phone.truth import CallTruth, ClearReceived, Utterance, longest_wait_s
from offhook.gateway.rehearsal.results.report import (
    SAME_MS,
    CallerTurn,
    CallReport,
    LineBargeIn,
    LineReply,
    LineReport,
    ModelReport,
)
from offhook.gateway.rehearsal.results.sides import ModelSession, caller_level_db, pair
from offhook.gateway.store.record import CallRecord
from offhook.media.mulaw import RATE_HZ, decode

__all__ = ["aligned", "call_report"]

_MARK = re.compile(r"r(\d+)\.\d+\.\d+")
_PAUSE_SAMPLES = RATE_HZ  # of another gateway's speech: a shorter one is a gap in a reply


def call_report(
    truth: CallTruth,
    record: CallRecord | None,
    session: ModelSession | None = None,
    *,
    scenario: str = "",
    model_violations: Iterable[str] = (),
    sessions: Sequence[ModelSession] | None = None,
    legs: Sequence[str] = (),
    counted: Mapping[str, float] | None = None,
    by_marks: bool = True,
) -> CallReport:
    """One call's report from the ground truth, the gateway's record and the model's sessions.

    `by_marks`: replies are told apart by the names of this project's marks; otherwise by pauses of a second.

    `session` is the session of the whole call, None if it had several; `sessions` are all of them, None if they
    cannot be distinguished from those of other calls.
    """
    owners = _owners(truth) if by_marks else _by_pauses(truth)
    replies = _replies(truth, owners)
    of_call = [session] if session is not None and sessions is None else sessions
    if record is not None and of_call:
        unheard_ms = {reply.generation: reply.unheard_tail_ms for reply in replies}
        paired = pair(truth, record, unheard_ms, owners, of_call)
        for reply in replies:
            reply.model_ms, reply.level_db = paired.get(reply.generation, (None, None))
    caller = [_caller_turn(truth, spoken) for spoken in truth.spoken]
    if session is not None:
        _add_transport(truth, session, caller)
    return CallReport(
        call_sid=truth.call_sid,
        scenario=scenario,
        end_reason=record.end_reason if record else truth.ended_by,
        record=record,
        line=LineReport(
            ended_by=truth.ended_by,
            duration_ms=_round(1000.0 * (truth.ended_s - _zero_s(truth))) if truth.began_s else 0.0,
            caller=caller,
            replies=replies,
            barge_ins=[
                _barge_in(truth, owners, spoken, record)
                for spoken in truth.spoken
                if spoken.over_agent and spoken.kind == "say"
            ],
            announced=[f"{verb.verb} {verb.text}".strip() for verb in truth.announced],
            failed_steps=[f"{step.step}: {step.failed}" for step in truth.steps if step.failed],
            violations=[f"{fault.code}: {fault.what}" for fault in truth.violations],
            unplayed_ms=sum(stream.unplayed for stream in truth.streams) / 8.0,
            frames_sent=sum(stream.frames for stream in truth.streams),
            frames_dropped=truth.frames_dropped,
            latest_tick_ms=_round(truth.latest_tick_ms),
            clears=sum(clear.while_audible for clear in truth.clears),
            longest_wait_ms=_round(1000.0 * longest_wait_s(truth)),
            legs=list(legs),
        ),
        model=_model_side(truth, of_call),
        counted=dict(counted or {}),
        model_violations=list(model_violations),
    )


def _model_side(truth: CallTruth, sessions: Sequence[ModelSession] | None) -> ModelReport | None:
    if sessions is None:
        return None
    return ModelReport(
        sessions=len(sessions),
        caller_audio_ms=sum(500.0 * session.audio_bytes / session.audio_rate_hz for session in sessions),
        caller_level_db=caller_level_db(truth, sessions),
        told=[text.text for session in sessions for text in session.texts],
        tool_answers=[
            (answer.name, msgspec.json.encode(answer.response).decode())
            for session in sessions
            for answer in session.tool_answers
        ],
    )


def _zero_s(truth: CallTruth) -> float:
    started = [stream.started_s for stream in truth.streams if stream.started_s is not None]
    return started[0] if started else truth.began_s


def _ms(truth: CallTruth, at_s: float) -> float:
    return _round(1000.0 * (at_s - _zero_s(truth)))


def _place_ms(truth: CallTruth, place: int) -> float:
    return _ms(truth, truth.began_s + place / RATE_HZ)


def _round(ms: float) -> float:
    return round(ms, 3)


def _caller_turn(truth: CallTruth, spoken: Utterance) -> CallerTurn:
    return CallerTurn(
        text=spoken.text,
        kind=spoken.kind,
        onset_ms=_ms(truth, spoken.onset_s),
        end_ms=_ms(truth, spoken.end_s),
        over_agent=spoken.over_agent,
        answered_ms=_answered_ms(truth, spoken),
    )


def _answered_ms(truth: CallTruth, spoken: Utterance) -> float | None:
    """From the last audible sample to the agent's next audible one, before the caller speaks again."""
    later = [other.onset_s for other in truth.spoken if other.kind == "say" and other.onset_s > spoken.end_s]
    until_s = min(later, default=float("inf"))
    for interval in truth.agent:
        if spoken.onset_s < interval.start_s < until_s and interval.end_s > spoken.end_s:
            return _round(1000.0 * (interval.start_s - spoken.end_s))
    return None


def _owners(truth: CallTruth) -> list[tuple[int, int, int]]:
    """`(from, to, generation)` of all positions: audio belongs to the next mark after it, 0 to none."""
    owners: list[tuple[int, int, int]] = []
    at = 0
    for mark in truth.marks:
        found = _MARK.fullmatch(mark.name)
        if found and mark.position > at:
            generation = int(found[1])
            if owners and owners[-1][2] == generation:
                owners[-1] = (owners[-1][0], mark.position, generation)
            else:
                owners.append((at, mark.position, generation))
            at = mark.position
    end = max((media.position + media.samples for media in truth.media), default=0)
    if end > at:
        owners.append((at, end, 0))
    return owners


def _by_pauses(truth: CallTruth) -> list[tuple[int, int, int]]:
    """As `_owners`, of any gateway: a reply ends where playback pauses for a second, or where it is cleared."""
    end = max((media.position + media.samples for media in truth.media), default=0)
    if not end:
        return []
    starts = [0]
    for run, following in zip(truth.played, truth.played[1:], strict=False):
        paused = following.place - run.place - run.samples >= _PAUSE_SAMPLES
        if paused or following.position != run.position + run.samples:
            starts.append(following.position)
    return [(at, to, n) for n, (at, to) in enumerate(zip(starts, [*starts[1:], end], strict=True), 1)]


def _owner(owners: Sequence[tuple[int, int, int]], position: int) -> int:
    for first, last, generation in owners:
        if first <= position < last:
            return generation
    return 0


def _replies(truth: CallTruth, owners: Sequence[tuple[int, int, int]]) -> list[LineReply]:
    """Replies by generation: the audio sent, the audio heard, and the longest gap that no clear explains."""
    found: dict[int, LineReply] = {}
    for first, last, generation in owners:
        reply = found.setdefault(
            generation,
            LineReply(
                generation=generation,
                started_ms=None,
                ended_ms=None,
                sent_ms=0.0,
                heard_ms=0.0,
                unheard_tail_ms=0.0,
                longest_gap_ms=0.0,
            ),
        )
        reply.sent_ms += (last - first) / 8.0
        heard_to = first
        for run in truth.played:
            start, end = max(first, run.position), min(last, run.position + run.samples)
            if start < end:
                reply.heard_ms += (end - start) / 8.0
                heard_to = max(heard_to, end)
                started_ms = _place_ms(truth, run.place + start - run.position)
                if reply.started_ms is None or started_ms < reply.started_ms:
                    reply.started_ms = started_ms
                reply.ended_ms = _place_ms(truth, run.place + end - run.position)
        reply.unheard_tail_ms = (last - heard_to) / 8.0
    for run, following in zip(truth.played, truth.played[1:], strict=False):
        if run.position + run.samples != following.position:
            continue  # a clear discarded the samples between
        generation = _owner(owners, following.position)
        if generation != _owner(owners, following.position - 1):
            continue
        if any(clear.position == following.position for clear in truth.clears):
            continue
        gap_ms = (following.place - run.place - run.samples) / 8.0
        found[generation].longest_gap_ms = max(found[generation].longest_gap_ms, gap_ms)
    return list(found.values())


def _barge_in(
    truth: CallTruth, owners: Sequence[tuple[int, int, int]], spoken: Utterance, record: CallRecord | None
) -> LineBargeIn:
    onset_ms = _ms(truth, spoken.onset_s)
    clear = next((c for c in truth.clears if c.while_audible and spoken.onset_s <= c.at_s <= spoken.end_s + 1.0), None)
    place = spoken.onset_place
    playing = [run.position + run.samples - 1 for run in truth.played if run.place <= place]
    generation = _owner(owners, clear.position - 1 if clear else playing[-1] if playing else 0)
    if clear is None:
        return LineBargeIn(text=spoken.text, kind=spoken.kind, generation=generation, onset_ms=onset_ms)
    clear_ms = _ms(truth, clear.at_s)
    decided = [b for b in record.barge_ins if abs(b.decided_ms - clear_ms) < SAME_MS] if record else []
    verdict = min(decided, key=lambda b: abs(b.decided_ms - clear_ms)).verdict if decided else ""
    dismissed = verdict == "dismissed"  # no barge-in after all: the reply continues
    return LineBargeIn(
        text=spoken.text,
        kind=spoken.kind,
        generation=generation,
        onset_ms=onset_ms,
        clear_ms=clear_ms,
        silent_ms=_ms(truth, clear.stopped_s),
        onset_to_clear_ms=_round(1000.0 * (clear.at_s - spoken.onset_s)),
        onset_to_silence_ms=_round(1000.0 * (clear.stopped_s - spoken.onset_s)),
        discarded_ms=clear.discarded / 8.0,
        old_samples_after_clear=0 if dismissed else _old_samples(truth, owners, clear, generation, spoken),
        verdict=verdict,
    )


def _old_samples(
    truth: CallTruth,
    owners: Sequence[tuple[int, int, int]],
    clear: ClearReceived,
    generation: int,
    spoken: Utterance,
) -> int:
    """Samples of the dropped reply after the clear: by their marks, or because the caller still spoke."""
    queued = clear.position + clear.discarded
    return sum(
        media.samples
        for media in truth.media
        if media.position >= queued and (0 < _owner(owners, media.position) <= generation or media.at_s < spoken.end_s)
    )


def _add_transport(truth: CallTruth, session: ModelSession, caller: list[CallerTurn]) -> None:
    """Add the times of the last speech to the model and of the answer back, if the answer is the model's next reply."""
    offset = aligned(truth, session)
    for spoken, turn in zip(truth.spoken, caller, strict=True):
        if spoken.kind != "say" or turn.answered_ms is None:
            continue
        if offset is not None:
            turn.line_to_model_ms = _line_to_model_ms(truth, session, spoken.end_place, offset)
        reply = next((r for r in session.replies if r.first_audio_at_s and r.first_audio_at_s > spoken.end_s), None)
        if reply is not None and reply.first_audio_at_s is not None:
            arrived = next((m.at_s for m in truth.media if m.at_s >= reply.first_audio_at_s), None)
            if arrived is not None:
                turn.model_to_line_ms = _round(1000.0 * (arrived - reply.first_audio_at_s))


def aligned(truth: CallTruth, session: ModelSession) -> int | None:
    """The place in the left channel of the model's first sample, by correlation.

    None if the two signals differ (a muted caller, an upload with gaps).
    """
    step = session.audio_rate_hz // RATE_HZ
    if session.audio_rate_hz % RATE_HZ or not session.audio:
        return None
    sent = decode(truth.left).astype(np.float64)
    received = np.frombuffer(bytes(session.audio[: len(session.audio) // 2 * 2]), dtype="<i2")[::step].astype(
        np.float64
    )
    size = 1 << (len(sent) + len(received)).bit_length()
    product = np.fft.irfft(np.fft.rfft(sent, size) * np.conj(np.fft.rfft(received, size)), size)
    at = int(np.argmax(product))
    alike = product[at] / (np.linalg.norm(sent) * np.linalg.norm(received) + 1e-9)
    return (at if at < size // 2 else at - size) if alike > 0.8 else None


def _line_to_model_ms(truth: CallTruth, session: ModelSession, place: int, offset: int) -> float | None:
    """From the tick that sent the frame of this place to the arrival of the middle of the frame at the model."""
    frame = (place - 1) // 160
    sent_s = truth.began_s + (frame + 1) * 0.020
    wanted = 2 * (session.audio_rate_hz // RATE_HZ) * (frame * 160 + 80 - offset)
    ends = [end for _, end in session.audio_arrivals]
    index = bisect_left(ends, wanted)
    if wanted <= 0 or index >= len(ends):
        return None
    return _round(1000.0 * (session.audio_arrivals[index][0] - sent_s))
