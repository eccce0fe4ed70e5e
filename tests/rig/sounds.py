"""The recorded lines that the package brings along. This module imports nothing heavy: benchmarks measure memory."""

from __future__ import annotations

from pathlib import Path

__all__ = ["SOUNDS", "sound"]

SOUNDS = Path(__file__).parents[2] / "gateway" / "rehearsal" / "sounds"


def sound(part: str) -> Path:
    """The one bundled WAV file whose name holds `part`."""
    (path,) = [p for p in SOUNDS.glob("*.wav") if part in p.name]
    return path
