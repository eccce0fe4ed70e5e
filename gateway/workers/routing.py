"""Each connection to the worker that should have it: the one its path names, else the one with least to do.

All workers accept from the same socket. Whichever has a connection reads its first head and, if it is another's, sends
it the descriptor and what was read, over a Unix datagram socket. That happens once per connection: no frame is touched.
It keeps its own copy of the descriptor until the page says that the other has received it, so that a worker that dies
with connections in its queue loses none.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import struct
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from offhook.gateway.workers.page import Page

__all__ = ["Place", "Routing"]

HEAD_MAX = 128 * 1024  # of what was read; the listener's own limit is below
AT_ONCE = 16  # connections taken before the loop goes on with the calls
BUFFER = 1 << 20
LOOK_S = 0.002  # at what was not received yet: it takes 0.2 ms, and longer when the other is busy
PROBE_S = 0.02  # then: whether there is anybody
NAMED = re.compile(rb"[A-Z]+ /[a-z]+/n/([a-z0-9-]{1,40})/")
ANY = re.compile(rb"[A-Z]+ /(?:livez|readyz|lb|metrics|console)[/? ]")  # every worker has the same answer
ENVELOPE = struct.Struct("=BBq")  # sender, named, number
AWAY = (errno.ECONNREFUSED, errno.ENOENT, errno.ECONNRESET, errno.EPIPE)


class Place(NamedTuple):
    """Where a connection belongs. `named`: its path says so; else it may become a call, and counts as load."""

    slot: int
    named: bool


class _Underway(NamedTuple):
    """A connection that was sent, or is to be sent (`number` 0) once there is room."""

    number: int
    since_s: float
    head: bytes
    descriptor: int
    named: bool
    done: Callable[[bool], None]


class Routing:
    """A `Route`. `received(descriptor, head, gone)` is called with each connection from another worker; `gone` is to be
    called when it is closed.
    """

    def __init__(self, folder: Path, names: Sequence[str], slot: int, page: Page, clock: Callable[[], float]) -> None:
        self._paths = [str(folder / f"{n}.sock") for n in range(len(names))]
        self._slots = {name.encode(): n for n, name in enumerate(names)}
        self._slot, self._page, self._clock = slot, page, clock
        self._out: socket.socket | None = None
        self._in: socket.socket | None = None
        self._number = int(clock() * 1e9)  # grows over all processes of this slot
        self._underway: list[deque[_Underway]] = [deque() for _ in names]
        self._timer: asyncio.TimerHandle | None = None
        self.received: Callable[[int, bytes, Callable[[], None]], None] = lambda fd, head, gone: os.close(fd)

    def open(self) -> None:
        """Take connections from the others."""
        self._out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self._in = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        for one in (self._out, self._in):
            one.setblocking(False)
        with suppress(FileNotFoundError):
            os.unlink(self._paths[self._slot])
        self._in.bind(self._paths[self._slot])
        asyncio.get_running_loop().add_reader(self._in.fileno(), self._receive)

    def close(self) -> None:
        """Take and send no more; what nobody has received is served by its sender."""
        self._page.dead(self._slot)
        if self._timer is not None:
            self._timer.cancel()
        if self._in is not None and self._out is not None:
            asyncio.get_running_loop().remove_reader(self._in.fileno())
            self._in.close()
            self._out.close()
            self._in = self._out = None

    # --- for the connections

    def send(self, head: bytes, descriptor: int, done: Callable[[bool], None]) -> bool:
        while self._out is not None:  # each round that fails takes a worker out of the choice
            slot, named = self.place(head)
            if slot == self._slot:
                return False
            one = _Underway(0, self._clock(), head, descriptor, named, done)
            waiting = self._underway[slot]
            if waiting and not waiting[-1].number:  # its queue is full
                sent: _Underway | None = one
            else:
                sent = self._post(slot, one)
            if sent is not None:
                waiting.append(sent)
                self._look_soon()
                return True
            if self._page.takes_connections(slot):  # it is there, and this cannot be sent
                return False
        return False

    def here(self, head: bytes) -> Callable[[], None]:
        if self.place(head).named:
            return _nothing
        self._page.sent(self._slot, self._slot)
        return self._closing(self._slot)

    def place(self, head: bytes) -> Place:
        """Where a connection with this first head belongs."""
        named = NAMED.match(head)
        if named is not None:
            slot = self._slots.get(named[1])
            if slot is not None and (slot == self._slot or self._page.takes_connections(slot)):
                return Place(slot, named=True)
        elif ANY.match(head):
            return Place(self._slot, named=True)
        return Place(self._page.least_loaded(self._slot, self._clock()), named=False)

    # --- to the others

    def _post(self, slot: int, one: _Underway) -> _Underway | None:
        """The same, with its number once it is sent; None when it cannot be."""
        number = self._number + 1
        try:
            self._sendmsg(slot, [ENVELOPE.pack(self._slot, one.named, number), one.head], [one.descriptor])
        except BlockingIOError:
            return one
        except OSError as error:
            if error.errno in AWAY:
                self._page.dead(slot)
            return None
        self._number = number
        if not one.named:
            self._page.sent(self._slot, slot)
        return one._replace(number=number)

    def _sendmsg(self, slot: int, message: list[bytes], descriptors: list[int]) -> None:
        assert self._out is not None
        # Not `socket.send_fds`, which has no use for its address before Python 3.12.
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        self._out.sendmsg(message, rights, 0, self._paths[slot])

    def _look_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        """What has been received is theirs; what cannot be any more is served here."""
        self._timer = None
        for slot, underway in enumerate(self._underway):
            if not underway:
                continue
            last = self._page.last_received(slot, self._slot)
            while underway and 0 < underway[0].number <= last:
                underway.popleft().done(True)
            self._send_waiting(slot, underway)
            if underway and self._is_dead(slot, underway[0]):
                self._page.dead(slot)
                lost, self._underway[slot] = underway, deque()
                for one in lost:
                    one.done(False)
        if any(self._underway):
            self._look_soon()

    def _send_waiting(self, slot: int, underway: deque[_Underway]) -> None:
        for n, one in enumerate(underway):
            if not one.number:
                sent = self._post(slot, one)
                if sent is None or not sent.number:
                    return
                underway[n] = sent

    def _is_dead(self, slot: int, oldest: _Underway) -> bool:
        if not self._page.takes_connections(slot):
            return True
        if self._clock() - oldest.since_s < PROBE_S or self._out is None:
            return False
        try:
            self._sendmsg(slot, [ENVELOPE.pack(self._slot, True, 0)], [])
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False

    # --- from the others

    def _receive(self) -> None:
        for _ in range(AT_ONCE):
            if self._in is None:
                return
            try:
                message, descriptors, _, _ = socket.recv_fds(self._in, HEAD_MAX, 1)
            except OSError:  # nothing more, as a rule
                return
            sender, named, number = ENVELOPE.unpack_from(message)
            for descriptor in descriptors:
                gone = _nothing if named else self._closing(sender)
                self.received(descriptor, message[ENVELOPE.size :], gone)
                self._page.received(self._slot, sender, number)

    def _closing(self, sender: int) -> Callable[[], None]:
        return lambda: self._page.gone(sender, self._slot)


def _nothing() -> None:
    """A connection that counts as nobody's load."""
