"""What the workers of one machine know of each other at any moment: a page of 8-byte counters that all have mapped.

Each cell has one writer, but for `beat`, which anyone may set to 0, and the cells of a dead worker, which are the
parent's. So nothing is locked, and reading costs a memory access.
"""

from __future__ import annotations

import mmap
from pathlib import Path

__all__ = ["Page"]

CELL = 8
NS = 1_000_000_000
STALE_S = 1.0  # a worker that has not beaten for longer gets no new calls; it beats four times a second


class Page:
    """The counters of `count` workers, in a file that they map. `create`: the parent makes it, empty."""

    def __init__(self, path: Path, count: int, *, create: bool = False) -> None:
        self._count = count
        size = CELL * (3 * count + 3 * count * count)
        if create:
            path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)
        cells = memoryview(self._map).cast("q")
        self._calls, self._beats, self._starts = (cells[n * count : (n + 1) * count] for n in range(3))
        tables = cells[3 * count :]
        self._sent, self._gone, self._received = (tables[n * count * count : (n + 1) * count * count] for n in range(3))
        # _sent[sender, receiver]: connections that count as load, ever; _gone[receiver, sender]: of those, closed;
        # _received[receiver, sender]: the number of the last connection received.

    # --- of a worker, by itself

    def join(self, slot: int) -> None:
        """A process starts in this slot: what its predecessor had is gone."""
        self._calls[slot] = 0
        for sender in range(self._count):
            self._gone[slot * self._count + sender] = self._sent[sender * self._count + slot]

    def beat(self, slot: int, now_s: float) -> None:
        """This worker takes connections. `now_s`: the machine's monotonic clock."""
        self._beats[slot] = int(now_s * NS)

    def total(self, slot: int, calls: int) -> int:
        """This worker has so many calls; the number of all workers' calls.

        Written before the others' are read: of two workers that ask for the last place at once, both may be refused
        but not both admitted.
        """
        self._calls[slot] = calls
        return sum(self._calls)

    def sent(self, sender: int, receiver: int) -> None:
        """A connection for whichever worker has least to do."""
        self._sent[sender * self._count + receiver] += 1

    def gone(self, sender: int, receiver: int) -> None:
        """Such a connection is closed."""
        self._gone[receiver * self._count + sender] += 1

    def received(self, receiver: int, sender: int, number: int) -> None:
        """The connections up to this one of the sender's numbers are here."""
        self._received[receiver * self._count + sender] = number

    # --- of the others

    def last_received(self, receiver: int, sender: int) -> int:
        """The number of the last connection that this worker has received from the sender."""
        return self._received[receiver * self._count + sender]

    def takes_connections(self, slot: int) -> bool:
        """Whether there is a process in this slot, as far as anyone knows."""
        return self._beats[slot] != 0

    def dead(self, slot: int) -> None:
        """Nothing can be sent to this worker: it gets nothing until it beats again."""
        self._beats[slot] = 0

    def load(self, slot: int) -> int:
        """Calls, and connections that may become one."""
        return self._calls[slot] + sum(
            self._sent[sender * self._count + slot] - self._gone[slot * self._count + sender]
            for sender in range(self._count)
        )

    def least_loaded(self, me: int, now_s: float) -> int:
        """The worker for a new call, `me` if none has less to do."""
        since = int((now_s - STALE_S) * NS)
        fit = [slot for slot in range(self._count) if slot != me and self._beats[slot] > since]
        return min([me, *fit], key=self.load)

    # --- of the parent

    def started(self, slot: int) -> None:
        """A process is started in this slot."""
        self._starts[slot] += 1

    def starts(self, slot: int) -> int:
        """How many processes were started in this slot."""
        return self._starts[slot]

    def clear(self, slot: int) -> None:
        """The process in this slot has ended."""
        self._beats[slot] = 0
        self.join(slot)
