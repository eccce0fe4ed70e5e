"""What one side of a rehearsed call sent against what the other side got: lengths and levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.store.record import CallRecord
from offhook.media.mulaw import RATE_HZ, decode

if TYPE_CHECKING:
    from offhook.gateway.rehearsal.results.report import LineReply, ModelSession

__all__ = ["caller_level_db", "pair"]


def pair(
    truth: CallTruth,
    record: CallRecord,
    replies: Sequence[LineReply],
    owners: Sequence[tuple[int, int, int]],
    sessions: Sequence[ModelSession],
) -> None:
    """Hold each reply on the line against the model's, in order, where both sides have as many."""
    of_model = {turn.generation for turn in record.turns if turn.kind == "model"}
    line = sorted((r for r in replies if r.generation in of_model), key=lambda reply: reply.generation)
    sent = [reply for session in sessions for reply in session.replies if reply.audio_ms]
    if len(line) != len(sent):
        return
    for reply, model in zip(line, sorted(sent, key=lambda r: r.first_audio_at_s or 0.0), strict=True):
        reply.model_ms = model.audio_ms
        heard = b"".join(
            truth.right[
                run.place + max(first, run.position) - run.position : run.place
                + min(last, run.position + run.samples)
                - run.position
            ]
            for first, last, generation in owners
            if generation == reply.generation
            for run in truth.played
            if max(first, run.position) < min(last, run.position + run.samples)
        )
        if heard and model.energy and not reply.unheard_tail_ms:
            reply.level_db = _decibels(_energy(heard), model.energy)


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
