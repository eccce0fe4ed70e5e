"""The files of one call that has ended. The process that draws imports this, and no gateway."""

from __future__ import annotations

import os
from pathlib import Path

from offhook.gateway.files import write_whole
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.results.report import CallReport
from offhook.media.mulaw import RATE_HZ, decode
from offhook.media.wav import wav_bytes

__all__ = ["be_nice", "write_call"]


def be_nice() -> None:
    """Leave the processor to calls in progress."""
    if hasattr(os, "nice"):
        os.nice(10)


def write_call(out_dir: Path, truth: CallTruth, report: CallReport, suffix: str = "") -> dict[str, str]:
    """Write recording and picture of one call; returns their paths by name."""
    from offhook.gateway.rehearsal.results.picture import draw  # matplotlib: only the process that draws imports it

    sound, picture = out_dir / f"call{suffix}.wav", out_dir / f"call{suffix}.png"
    left, right = decode(truth.left), decode(truth.right)
    write_whole(sound, wav_bytes(left, RATE_HZ, right=right[: len(left)] if len(left) else right))
    draw(truth, report, picture)
    return {f"recording{suffix}": str(sound), f"picture{suffix}": str(picture)}
