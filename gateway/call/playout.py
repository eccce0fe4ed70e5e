"""A call's outgoing audio: each reply's frames by sample position, kept until heard or dropped.

The conversation machine decides what is played; this holds the bytes it decides about, in the line's own format,
so that what the machine hears of can be sent as it is.
"""

from __future__ import annotations

import numpy as np

from offhook.gateway.conversation import ledger as lg
from offhook.media.formats import MULAW_8K, AudioFormat, converter
from offhook.media.framing import Framer

__all__ = ["AUDIBLE_DBOV", "NOTHING_DBOV", "Playout", "fade_in"]

AUDIBLE_DBOV = -50.0  # a frame above this is voice: speech stands around -26, a quiet line around -65
FADE_S = 0.005  # long enough not to click, too short to swallow a consonant
NOTHING_DBOV = -100.0


class _Reply:
    """One reply's frames and their levels."""

    __slots__ = ("audible_reported", "codes", "framer", "levels")

    def __init__(self, framer: Framer) -> None:
        self.codes = bytearray()
        self.levels: list[float] = []
        self.framer = framer
        self.audible_reported = False


class Playout:
    """Replies by generation, in one format. Positions are samples of it from a reply's beginning."""

    def __init__(self, audio: AudioFormat) -> None:
        self._format, self._width, self._frame = audio, audio.bytes_per_sample, audio.frame_samples
        self._replies: dict[int, _Reply] = {}

    def __len__(self) -> int:
        return len(self._replies)

    def push(self, generation: int, codes: bytes) -> tuple[int, int | None]:
        """Audio of any length, in the line's format.

        Returns how many samples became ready (whole frames) and, once per reply, the sample before which its
        first audible frame stands.
        """
        reply = self._replies.get(generation)
        if reply is None:
            framer = Framer(self._format.frame_bytes, self._format.silence)
            reply = self._replies[generation] = _Reply(framer)
        return self._append(reply, reply.framer.push(codes))

    def push_sound(self, generation: int, codes: bytes) -> tuple[int, int | None]:
        """A whole reply at once, mu-law 8 kHz. See `push` for what comes back."""
        if convert := converter(MULAW_8K, self._format):
            codes = convert.push(codes) + convert.flush()
        samples, audible = self.push(generation, codes)
        rest, audible_later = self.finish(generation)
        return samples + rest, audible if audible is not None else audible_later

    def finish(self, generation: int) -> tuple[int, int | None]:
        """No more of this reply will come: the last partial frame, padded with silence. See `push`."""
        reply = self._replies.get(generation)
        return (0, None) if reply is None else self._append(reply, reply.framer.flush())

    def span(self, generation: int, start: int, end: int) -> bytes:
        """The samples `[start, end)`; empty when the reply is gone."""
        reply = self._replies.get(generation)
        return bytes(reply.codes[start * self._width : end * self._width]) if reply else b""

    def heard_level_dbov(self, ledger: lg.Ledger, at_s: float) -> float:
        """Level of the frame that the caller was hearing then, by the ledger; -100 for silence and ended replies."""
        if not ledger.replies:
            return NOTHING_DBOV
        position = lg.line_played(ledger, at_s)
        if position >= ledger.queued_to:
            return NOTHING_DBOV
        for reply in ledger.replies:
            sample = position - reply.base
            if 0 <= sample < reply.placed:
                return self.level_dbov(reply.generation, sample)
        return NOTHING_DBOV

    def level_dbov(self, generation: int, sample: int) -> float:
        """Level of the frame at `sample`, as the caller hears it; -100 where there is nothing."""
        reply = self._replies.get(generation)
        index = sample // self._frame
        return reply.levels[index] if reply and index < len(reply.levels) else NOTHING_DBOV

    def drop(self, generation: int) -> None:
        """The reply is dead, or heard to its end. Harmless when repeated."""
        self._replies.pop(generation, None)

    def _append(self, reply: _Reply, frames: bytes) -> tuple[int, int | None]:
        if not frames:
            return 0, None
        before = len(reply.levels)
        levels = self._format.levels_dbov(frames).tolist()
        reply.codes += frames
        reply.levels += levels
        samples = len(frames) // self._width
        if reply.audible_reported:
            return samples, None
        for index, level in enumerate(levels):
            if level > AUDIBLE_DBOV:
                reply.audible_reported = True
                return samples, (before + index + 1) * self._frame
        return samples, None


def fade_in(codes: bytes, audio: AudioFormat) -> bytes:
    """The same audio, its first 5 ms rising from silence."""
    samples = round(FADE_S * audio.rate_hz)
    head = codes[: samples * audio.bytes_per_sample]
    ramp = np.arange(1, samples + 1) / (samples + 1)
    decoded = audio.decode(head)
    faded = np.rint(decoded * ramp[: len(decoded)]).astype(np.int16)
    return audio.encode(faded) + codes[len(head) :]
