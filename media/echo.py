"""How loud the agent's own voice may come back, learned from this call.

A detector that hears the line cannot know whose voice is on it. What it can know is what the agent is
playing and how loud that came back so far. The guard compares the two level curves, frame by frame: when
the line follows what was played some time earlier, that is echo, and its delay and strength are learned;
when the line stays quiet while the agent talks, there is none. A caller talking over the agent follows
nothing, and teaches nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from media.mulaw import FRAME_BYTES, RATE_HZ, SILENCE_DBOV

__all__ = ["EchoGuard"]

_FRAME_MS = 1000 * FRAME_BYTES // RATE_HZ

_DELAYS = 31  # frames: 0 to 600 ms; 400 ms of echo (a bad mobile line) and 200 ms of our own clock's error
_WINDOW = 150  # frames compared: 3 s, some ten words
_KEEP = _WINDOW + _DELAYS
_EVERY = 10  # frames between two looks at them
_PRIOR_DB = -12.0  # before anything is known
_STRONGEST_DB = -3.0
_AUDIBLE_DBOV = -55.0  # of the agent's frames: what is softer leaves no echo to speak of
_DECAY_DB = 3.0  # per frame: the tail of a room with 400 ms of reverberation
_ALIKE = 0.75  # correlation of the level curves from which one is the other's echo


class EchoGuard:
    """The level that echo may have in this frame, from what was played and what came back."""

    def __init__(self) -> None:
        self.coupling_db = _PRIOR_DB
        self.delay_frames: int | None = None  # None: not known, any up to the longest
        self._heard = np.full(4 * _KEEP, SILENCE_DBOV)
        self._played = np.full(4 * _KEEP, SILENCE_DBOV)
        self._at = _KEEP
        self._last_played = self._tail = SILENCE_DBOV
        self._since_played = _WINDOW + 1
        self._until_look = _EVERY

    def push(self, heard_dbov: float, played_dbov: float) -> float:
        """Levels of the line and of what is playing now -> the highest level (dBov) that echo explains."""
        if self._at == len(self._heard):
            self._heard[:_KEEP] = self._heard[-_KEEP:]
            self._played[:_KEEP] = self._played[-_KEEP:]
            self._at = _KEEP
        tail = max(played_dbov, self._tail - _DECAY_DB, SILENCE_DBOV)
        self._heard[self._at] = heard_dbov
        # A frame of echo lies across two played frames: the louder of both bounds it.
        self._played[self._at] = max(tail, self._tail)
        self._tail = tail
        self._at += 1
        self._since_played = 0 if played_dbov > _AUDIBLE_DBOV else self._since_played + 1
        if self._since_played > _WINDOW:
            return SILENCE_DBOV
        self._until_look -= 1
        if self._until_look <= 0:
            self._until_look = _EVERY
            self._learn()
        if self._since_played > _DELAYS + 10:
            return SILENCE_DBOV
        if self.delay_frames is None:
            played = float(self._played[self._at - _DELAYS : self._at].max())
        else:
            played = float(self._played[self._at - 1 - self.delay_frames])
        if played <= _AUDIBLE_DBOV:
            return SILENCE_DBOV
        return played + self.coupling_db

    def _learn(self) -> None:
        heard = self._heard[self._at - _WINDOW : self._at]
        played: NDArray[np.float64] = sliding_window_view(self._played[self._at - _KEEP + 1 : self._at], _WINDOW)[
            ::-1
        ]  # row d: what was played d frames before
        loudest = float(played.max())
        loud = played > max(loudest - 12.0, _AUDIBLE_DBOV)
        counts = loud.sum(axis=1)
        # The level curves, without the parts too soft to be told from the floor.
        p = np.maximum(played, loudest - 25.0)
        p = p - p.mean(axis=1, keepdims=True)
        h = np.maximum(heard, float(heard.max()) - 25.0)
        h = h - h.mean()
        norms = np.sqrt((p * p).sum(axis=1) * float(h @ h))
        alike = np.where(norms > 1.0, (p @ h) / np.maximum(norms, 1.0), 0.0)
        best = int(np.argmax(alike))
        if alike[best] >= _ALIKE and counts[best] >= 25:
            self.delay_frames = best
            self.coupling_db = min(_STRONGEST_DB, _bound(heard, played[best], loud[best]))
        # Not alike: no echo, or somebody talks. What stayed below a level while the agent was loud bounds the echo.
        elif self.delay_frames is not None:
            if counts[self.delay_frames] >= 15:
                row = self.delay_frames
                self.coupling_db = min(self.coupling_db, _bound(heard, played[row], loud[row]))
        elif counts.min() >= 8:
            bound = max(_bound(heard, row, mask) for row, mask in zip(played, loud, strict=True))
            self.coupling_db = min(self.coupling_db, bound)


def _bound(heard: NDArray[np.float64], played: NDArray[np.float64], loud: NDArray[np.bool_]) -> float:
    """Which coupling echo stays below, by what came back while the agent was loud.

    From the middle of the distribution, not its end: a word of the caller's inside the window moves the end.
    """
    middle, high = np.quantile((heard - played)[loud], (0.5, 0.75))
    return float(high + 2.0 * (high - middle) + 1.0)
