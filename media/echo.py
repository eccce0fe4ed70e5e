"""How loud the agent's own voice may come back, learned from this call.

A detector that hears the line cannot know whose voice is on it. What it can know is how loud the agent is
played and how loud the line was a little later. The guard compares the two level curves: when the line
follows what was played, that is echo, and its delay and strength are learned; when the line stays quiet
while the agent talks, there is none to fear. A caller talking over the agent follows nothing, and so
teaches nothing.
"""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from offhook.media.mulaw import SILENCE_DBOV

__all__ = ["EchoGuard"]

# All in frames of 20 ms.
_DELAYS = 31  # 0 to 600 ms: 400 ms of echo (a bad mobile line) and 200 ms of our own clock's error
_LONGEST = _DELAYS - 1
_WINDOW = 150  # compared at a look: 3 s, some ten words
_KEEP = _WINDOW + _DELAYS
_HELD = 4 * _KEEP
_LOOK_EVERY = 10
_SLACK, _SLACK_AT_START = 1, 2  # the delay's error inside a reply, and before a new reply confirmed it
_PAUSE = 25  # not played for so long: a new reply, perhaps under another delay
_ENOUGH_TO_COMPARE = 50  # frames in which the agent speaks
_ENOUGH_TO_FOLLOW, _ENOUGH_TO_LOWER = 25, 8  # loud ones among them

# Before anything is known: a line owes us 15 dB, by the loudest frame in reach; see `vad._OVER_ECHO_DB`.
_PRIOR_DB = -16.0
_STRONGEST_DB = -3.0
_RAISE_DB = 1.0  # per look, once learned: 5 dB a second
_AUDIBLE_DBOV = -55.0  # of the agent's frames: what is softer leaves no echo to speak of
_LINE_DBOV = -60.0  # of the line: below, its noise coming and going would look like echo
_DECAY_DB = 3.0  # per frame: a room with 400 ms of reverberation
_LOUD_DB = 12.0  # below the loudest: the frames that strength is read from
_DEPTH_DB = 25.0  # below the loudest: the frames that are compared; softer ones drown in the line's noise
# Correlation of the curves: echo has 0.8 to 0.95, 0.5 to 0.8 where loudspeakers saturate; unrelated speech up to 0.6 at
# its best delay, which is another one every few looks.
_FOLLOWS, _FOLLOWS_AGAIN, _AGREES = 0.75, 0.6, 0.5
_AGREEING = 15  # looks with the same delay on end: as long as a window
_NEAR_DB = 0.5  # of the bound: not worth looking at further delays
_PER_LOOK = 0.2  # of the way to what a look says: alone it errs by 2 dB
_PIVOT_DB = 6.0  # below the loudest: the middle of the loud frames
_KNEE_DB = _PIVOT_DB - _LOUD_DB  # against the pivot: below, a frame is soft
_MOST_SOFT_DB = 6.0

_STARTS = np.arange(_DELAYS)  # of the windows that are compared, the longest delay's first
_FRAMES = np.arange(_KEEP - 1)[:, None]
_WINDOWS = ((_FRAMES >= _STARTS) & (_FRAMES < _STARTS + _WINDOW)).astype(float)
_SOME_STARTS = range(0, _DELAYS, 3)


class EchoGuard:
    """The level that echo may have in this frame.

    `coupling_db`: what echo of loud frames stays below, against what was played; -16 until learned.
    `slope`: by how many dB it is louder where what was played is 1 dB louder; 1 until learned.
    `delay_frames`: the echo's delay in frames of 20 ms, None until it was seen.
    """

    def __init__(self) -> None:
        self.coupling_db = _PRIOR_DB
        self.slope = 1.0
        self.delay_frames: int | None = None
        self._pivot_dbov = 0.0  # the level for which `coupling_db` holds
        self._soft_db = 0.0  # that echo of soft frames may have above the line
        # Written and read one by one, which arrays of numpy's are slow at; looked at through numpy.
        self._heard = array("d", [_LINE_DBOV]) * _HELD
        self._played = array("d", [SILENCE_DBOV]) * _HELD
        self._end = _KEEP
        self._tail_dbov = SILENCE_DBOV
        self._quiet = _KEEP  # frames on end in which the line was as low as it is taken to be
        self._unplayed = _KEEP
        self._until_look = _LOOK_EVERY
        self._slack = _SLACK_AT_START
        self._bounded_at = 0
        self._best, self._agreed = 0, 0  # the last look's delay; looks on end that agreed about it

    def push(self, heard_dbov: float, played_dbov: float) -> float:
        """Levels of the line and of what plays now -> the highest level (dBov) that echo explains, or -100."""
        end = self._end
        if end == _HELD:
            self._heard[:_KEEP] = self._heard[-_KEEP:]
            self._played[:_KEEP] = self._played[-_KEEP:]
            end = _KEEP
        before = self._tail_dbov
        tail = before - _DECAY_DB
        if tail < played_dbov:
            tail = played_dbov
        if tail < SILENCE_DBOV:
            tail = SILENCE_DBOV
        if heard_dbov > _LINE_DBOV:
            self._heard[end], self._quiet = heard_dbov, 0
        else:
            self._heard[end] = _LINE_DBOV
            self._quiet += 1
        # A frame of echo lies across two played ones; the louder bounds it.
        self._played[end] = tail if tail > before else before
        self._tail_dbov, self._end = tail, end + 1

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
        if played <= _AUDIBLE_DBOV:
            return SILENCE_DBOV
        above = played - self._pivot_dbov
        bound = self._pivot_dbov + self.coupling_db + self.slope * above
        if above < _KNEE_DB:  # soft, but never louder than the softest loud frame
            return bound + min(self._soft_db, self.slope * (_KNEE_DB - above))
        return bound

    def _played_then(self) -> float:
        """The loudest played frame that may be coming back now."""
        if self.delay_frames is None:
            return max(self._played[self._end - _DELAYS : self._end])
        at = self._end - 1 - self.delay_frames
        return max(self._played[at - self._slack : min(at + self._slack + 1, self._end)])

    def _look(self) -> None:
        # By delay, the longest first: a window of `played` that begins with sample 0, 1, ... `_DELAYS - 1`.
        heard = np.frombuffer(self._heard[self._end - _WINDOW : self._end])
        played = np.frombuffer(self._played[self._end - _KEEP + 1 : self._end])
        loudest = float(played.max())
        loud = played > max(loudest - _LOUD_DB, _AUDIBLE_DBOV)
        if np.count_nonzero(loud) < _ENOUGH_TO_LOWER:
            return
        self._hold_at(loudest - _PIVOT_DB)
        if self._quiet >= _WINDOW:  # it follows nothing
            self._agreed = 0
            self._bound(heard, played, loud)
            return
        spoken = played > max(loudest - _DEPTH_DB, _AUDIBLE_DBOV)
        counts, follows, slopes = _compared(heard, played, loud, spoken)
        best = int(follows.argmax())
        again = self._follows_again(best, float(follows[best]))
        if (follows[best] >= _FOLLOWS or again) and counts[best] >= _ENOUGH_TO_FOLLOW:
            at = slice(best, best + _WINDOW)
            self._follow(heard, played[at], loud[at], spoken[at], min(1.0, max(0.0, float(slopes[best]))), again)
            self.delay_frames, self._slack = _LONGEST - best, _SLACK
        else:
            self._bound(heard, played, loud)

    def _bound(self, heard: NDArray[np.float64], played: NDArray[np.float64], loud: NDArray[np.bool_]) -> None:
        """It does not follow: no echo, or the caller talks. Either way echo was no louder than the line. That may
        lower the bound, never raise it, and only once the agent was loud at every delay that is possible.
        """
        starts = _SOME_STARTS if self.delay_frames is None else (_LONGEST - self.delay_frames,)
        if np.count_nonzero(loud[_LONGEST:_WINDOW]) < _ENOUGH_TO_LOWER:  # else there are as many at every delay
            for start in starts:
                if np.count_nonzero(loud[start : start + _WINDOW]) < _ENOUGH_TO_LOWER:
                    return
        highest = -np.inf
        for start in (self._bounded_at, *starts) if self._bounded_at in starts else starts:
            at = slice(start, start + _WINDOW)
            highest = max(highest, _bound_db(self._differences(heard, played[at])[loud[at]]))
            if highest >= self.coupling_db - _NEAR_DB:
                self._bounded_at = start  # as a rule it decides the next time, too
                return
        at_once = self.delay_frames is None  # of all delays it is the highest: sure enough
        self.coupling_db += (1.0 if at_once else _PER_LOOK) * (highest - self.coupling_db)

    def _follows_again(self, best: int, follows: float) -> bool:
        """Whether the delay of this look speaks for itself, for being that of others: then less correlation will do."""
        if follows < _AGREES:
            self._agreed = 0
            return False
        self._agreed = self._agreed + 1 if abs(best - self._best) <= 1 else 0
        self._best = best
        if self.delay_frames is not None and abs(_LONGEST - best - self.delay_frames) <= 1:
            return follows >= _FOLLOWS_AGAIN
        return self._agreed >= _AGREEING

    def _hold_at(self, pivot_dbov: float) -> None:
        """The same line, said of another level."""
        self.coupling_db += (self.slope - 1.0) * (pivot_dbov - self._pivot_dbov)
        self._pivot_dbov = pivot_dbov

    def _differences(self, heard: NDArray[np.float64], played: NDArray[np.float64]) -> NDArray[np.float64]:
        """Against what was played, as if all of it had been played as loud as `_pivot_dbov`."""
        if self.slope == 1.0:
            return heard - played
        return heard - self.slope * played - (1.0 - self.slope) * self._pivot_dbov

    def _follow(
        self,
        heard: NDArray[np.float64],
        played: NDArray[np.float64],
        loud: NDArray[np.bool_],
        spoken: NDArray[np.bool_],
        slope: float,
        again: bool,
    ) -> None:
        """The line is echo of `played`, frame by frame. `again`: nothing was learned, or to be raised, at once."""
        first = self.delay_frames is None
        self.slope += (slope - self.slope) * (1.0 if first else _PER_LOOK)
        differences = self._differences(heard, played)
        bound = _bound_db(differences[spoken])
        soft = differences[spoken & ~loud]
        if len(soft) >= _ENOUGH_TO_LOWER:
            above = min(_MOST_SOFT_DB, max(0.0, _bound_db(soft) - bound))
            self._soft_db += _PER_LOOK * (above - self._soft_db)
        if not first:
            bound = self.coupling_db + _PER_LOOK * (bound - self.coupling_db)
        if not first or again:  # a caller's words on top of the echo raise it too, but not for long
            bound = min(bound, self.coupling_db + _RAISE_DB)
        self.coupling_db = min(_STRONGEST_DB, bound)


def _compared(
    heard: NDArray[np.float64], played: NDArray[np.float64], loud: NDArray[np.bool_], spoken: NDArray[np.bool_]
) -> tuple[list[float], NDArray[np.float64], NDArray[np.float64]]:
    """By delay, of the window of `played` that is compared with `heard`: how many frames are loud, and the correlation
    and the slope over the frames that are spoken; 0 where these are few or flat.

    Over these alone: two people who happen to start together share one big step, and nothing else.
    """
    rows = np.empty((4, len(played)))
    mask, ours = rows[1], rows[2]
    rows[0], rows[1] = loud, spoken
    # About a level in their midst, so that the differences below lose nothing to rounding.
    theirs = heard - _LINE_DBOV
    np.multiply(played - _LINE_DBOV, mask, out=ours)
    np.multiply(ours, ours, out=rows[3])
    louds, counts, ours_sum, ours_squares = rows.dot(_WINDOWS)
    theirs_sum = np.correlate(mask, theirs)
    theirs_squares = np.correlate(mask, theirs * theirs)
    products = counts * np.correlate(ours, theirs) - ours_sum * theirs_sum
    ours_power = counts * ours_squares - ours_sum * ours_sum
    powers = ours_power * (counts * theirs_squares - theirs_sum * theirs_sum)
    valid = (powers > counts * counts) & (counts >= _ENOUGH_TO_COMPARE)
    return (
        louds.tolist(),
        np.where(valid, products / np.sqrt(np.maximum(powers, 1.0)), 0.0),
        products / np.maximum(ours_power, 1.0),
    )


def _bound_db(differences: NDArray[np.float64]) -> float:
    """What the echo stays below, against what was played.

    Read off the middle of its distribution, not the end, which a word of the caller's would move.
    """
    ordered: list[float] = differences.tolist()
    ordered.sort()
    middle, high = ordered[len(ordered) // 2], ordered[len(ordered) * 3 // 4]
    return high + 0.85 * (high - middle) + 1.0
