"""What one side of a rehearsed call sent against what the other side got: lengths and levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.store.record import CallRecord
from offhook.media.mulaw import RATE_HZ, decode

__all__ = ["ModelSession", "caller_level_db", "pair"]


class _ReplySent(Protocol):
    decided_at_s: float
    first_audio_at_s: float | None
    audio_ms: float
    energy: float


class _Text(Protocol):
    @property
    def text(self) -> str: ...


class _Answer(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def response(self) -> dict[str, Any]: ...


class ModelSession(Protocol):
    """The fields of the rehearsal model's `SessionRecord` that a report needs."""

    @property
    def audio(self) -> bytearray: ...

    @property
    def audio_rate_hz(self) -> int: ...

    @property
    def audio_bytes(self) -> int: ...

    @property
    def audio_arrivals(self) -> list[tuple[float, int]]: ...

    @property
    def replies(self) -> Sequence[_ReplySent]: ...

    @property
    def texts(self) -> Sequence[_Text]: ...

    @property
    def tool_answers(self) -> Sequence[_Answer]: ...


def pair(
    truth: CallTruth,
    record: CallRecord,
    unheard_ms: Mapping[int, float],
    owners: Sequence[tuple[int, int, int]],
    sessions: Sequence[ModelSession],
) -> dict[int, tuple[float, float | None]]:
    """Replies on the line and the model's, in order, where both sides have as many: by generation, how long the model's
    was in ms, and the level of what was heard against it in dB, of replies heard whole.

    `unheard_ms`: the unheard tail of each reply on the line; `owners`: `(from, to, generation)` of positions.
    """
    of_model = {turn.generation for turn in record.turns if turn.kind == "model"}
    line = sorted(of_model & unheard_ms.keys())
    sent = [reply for session in sessions for reply in session.replies if reply.audio_ms]
    found: dict[int, tuple[float, float | None]] = {}
    if len(line) != len(sent):
        return found
    for generation, model in zip(line, sorted(sent, key=lambda r: r.first_audio_at_s or 0.0), strict=True):
        heard = _heard(truth, [(first, last) for first, last, owner in owners if owner == generation])
        known = heard and model.energy and not unheard_ms[generation]
        found[generation] = model.audio_ms, _decibels(_energy(heard), model.energy) if known else None
    return found


def _heard(truth: CallTruth, spans: Sequence[tuple[int, int]]) -> bytes:
    """What was played of these positions, mu-law."""
    parts = []
    for first, last in spans:
        for run in truth.played:
            start, end = max(first, run.position), min(last, run.position + run.samples)
            if start < end:
                parts.append(truth.right[run.place + start - run.position : run.place + end - run.position])
    return b"".join(parts)


def caller_level_db(truth: CallTruth, sessions: Sequence[ModelSession]) -> float | None:
    """The level of the caller's audio at the model against what was sent; None where the audio was not kept."""
    received = sum(
        float(np.sum(np.square(np.frombuffer(bytes(s.audio[: len(s.audio) // 2 * 2]), "<i2").astype(np.float64))))
        / s.audio_rate_hz
        for s in sessions
    )
    return _decibels(received, _energy(truth.left)) if received and truth.left else None


def _energy(codes: bytes) -> float:
    """Of mu-law, as in the rehearsal model's `Chunk`."""
    return float(np.sum(np.square(decode(codes).astype(np.float64)))) / RATE_HZ


def _decibels(energy: float, against: float) -> float:
    return round(10.0 * float(np.log10((energy + 1e-9) / (against + 1e-9))), 1)
