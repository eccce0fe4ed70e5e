"""How loud the agent's own voice may come back, learned from this call.

A detector that hears the line cannot know whose voice is on it. What it can know is how loud the agent is
played and how loud the line was a little later. The guard compares the two level curves: when the line
follows what was played, that is echo, and its delay and strength are learned; when the line stays quiet
while the agent talks, there is none to fear. A caller talking over the agent follows nothing, and so
teaches nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from offhook.media.mulaw import SILENCE_DBOV

__all__ = ["EchoGuard"]

# All in frames of 20 ms.
_DELAYS = 31  # 0 to 600 ms: 400 ms of echo (a bad mobile line) and 200 ms of our own clock's error
_WINDOW = 150  # compared at a look: 3 s, some ten words
_KEEP = _WINDOW + _DELAYS
_LOOK_EVERY = 10
_SLACK, _SLACK_AT_START = 1, 2  # the delay's error inside a reply, and before a new reply confirmed it
_PAUSE = 25  # not played for so long: a new reply, perhaps under another delay
_ENOUGH_TO_COMPARE = 50  # frames in which the agent speaks
_ENOUGH_TO_FOLLOW, _ENOUGH_TO_LOWER = 25, 8  # loud ones among them

_PRIOR_DB = -14.0  # before anything is known: 15 dB down is what a line owes us, found by the loudest frame in reach
_STRONGEST_DB = -3.0
_RAISE_DB = 1.0  # per look, once learned: 5 dB a second
_AUDIBLE_DBOV = -55.0  # of the agent's frames: what is softer leaves no echo to speak of
_LINE_DBOV = -60.0  # of the line: below, its noise coming and going would look like echo
_DECAY_DB = 3.0  # per frame: a room with 400 ms of reverberation
_LOUD_DB = 12.0  # below the loudest: the frames that strength is read from
_DEPTH_DB = 25.0  # below the loudest: the frames that are compared; softer ones drown in the line's noise
_FOLLOWS = 0.75  # correlation of the curves: echo has 0.8 to 0.95, unrelated speech up to 0.6 at its best delay


class EchoGuard:
    """The level that echo may have in this frame.

    `coupling_db`: what echo stays below, against what was played; -14 until learned.
    `delay_frames`: the echo's delay in frames of 20 ms, None until it was seen.
    """

    def __init__(self) -> None:
        self.coupling_db = _PRIOR_DB
        self.delay_frames: int | None = None
        self._heard = np.full(4 * _KEEP, _LINE_DBOV)
        self._played = np.full(4 * _KEEP, SILENCE_DBOV)
        self._end = _KEEP
        self._tail_dbov = SILENCE_DBOV
        self._unplayed = _KEEP
        self._until_look = _LOOK_EVERY
        self._slack = _SLACK_AT_START

    def push(self, heard_dbov: float, played_dbov: float) -> float:
        """Levels of the line and of what plays now -> the highest level (dBov) that echo explains, or -100."""
        if self._end == len(self._heard):
            self._heard[:_KEEP] = self._heard[-_KEEP:]
            self._played[:_KEEP] = self._played[-_KEEP:]
            self._end = _KEEP
        tail = max(played_dbov, self._tail_dbov - _DECAY_DB, SILENCE_DBOV)
        self._heard[self._end] = max(heard_dbov, _LINE_DBOV)
        # A frame of echo lies across two played ones; the louder bounds it.
        self._played[self._end] = max(tail, self._tail_dbov)
        self._tail_dbov = tail
        self._end += 1

        if played_dbov > _AUDIBLE_DBOV:
            if self._unplayed > _PAUSE:
                self._slack = _SLACK_AT_START
            self._unplayed = 0
        else:
            self._unplayed += 1
            if self._unplayed > _WINDOW:  # nothing to learn from, nothing to explain
                return SILENCE_DBOV
        self._until_look -= 1
        if self._until_look == 0:
            self._until_look = _LOOK_EVERY
            self._look()
        played = self._played_then()
        return played + self.coupling_db if played > _AUDIBLE_DBOV else SILENCE_DBOV

    def _played_then(self) -> float:
        """The loudest played frame that may be coming back now."""
        if self.delay_frames is None:
            return float(self._played[self._end - _DELAYS : self._end].max())
        at = self._end - 1 - self.delay_frames
        return float(self._played[at - self._slack : min(at + self._slack + 1, self._end)].max())

    def _look(self) -> None:
        heard = self._heard[self._end - _WINDOW : self._end]
        # Row d: what was played d frames before.
        played = sliding_window_view(self._played[self._end - _KEEP + 1 : self._end], _WINDOW)[::-1]
        loudest = float(played.max())
        loud = played > max(loudest - _LOUD_DB, _AUDIBLE_DBOV)
        counts = loud.sum(axis=1)
        follows = _correlation(played, played > max(loudest - _DEPTH_DB, _AUDIBLE_DBOV), heard)
        best = int(follows.argmax())
        if follows[best] >= _FOLLOWS and counts[best] >= _ENOUGH_TO_FOLLOW:
            bound = _bound_db(heard, played[best], loud[best])
            if self.delay_frames is not None:  # a caller's words on top of the echo raise it too, but not for long
                bound = min(bound, self.coupling_db + _RAISE_DB)
            self.coupling_db = min(_STRONGEST_DB, bound)
            self.delay_frames, self._slack = best, _SLACK
            return
        # It does not follow: no echo, or the caller talks. Either way echo was no louder than the line. That may
        # lower the bound, never raise it, and only once the agent was loud at every delay that is possible.
        rows = range(0, _DELAYS, 3) if self.delay_frames is None else (self.delay_frames,)
        if min(counts[row] for row in rows) >= _ENOUGH_TO_LOWER:
            bound = max(_bound_db(heard, played[row], loud[row]) for row in rows)
            self.coupling_db = min(self.coupling_db, bound)


def _correlation(
    rows: NDArray[np.float64], spoken: NDArray[np.bool_], curve: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Of each row with the curve, over the frames where the row is spoken; 0 where these are few or flat.

    Over these alone: two people who happen to start together share one big step, and nothing else.
    """
    counts = spoken.sum(axis=1)
    share = spoken / np.maximum(counts, 1)[:, None]
    rows = (rows - np.einsum("ij,ij->i", rows, share)[:, None]) * spoken
    curves = (curve - (share @ curve)[:, None]) * spoken
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows) * np.einsum("ij,ij->i", curves, curves))
    products: NDArray[np.float64] = np.einsum("ij,ij->i", rows, curves)
    return np.where((norms > 1.0) & (counts >= _ENOUGH_TO_COMPARE), products / np.maximum(norms, 1.0), 0.0)


def _bound_db(heard: NDArray[np.float64], played: NDArray[np.float64], loud: NDArray[np.bool_]) -> float:
    """What the echo stays below, against what was played: from the difference in the loud frames.

    Read off the middle of its distribution, not the end, which a word of the caller's would move.
    """
    ordered = np.sort((heard - played)[loud])
    middle, high = float(ordered[len(ordered) // 2]), float(ordered[len(ordered) * 3 // 4])
    return high + 2.0 * (high - middle) + 1.0
