"""What a worker process is told by its parent, in its environment; and its end of that arrangement."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from offhook.gateway.workers.page import Page
from offhook.gateway.workers.routing import Routing

__all__ = ["MAX_WORKERS", "WORKER", "WORKER_TOKEN", "Given", "Worker", "cores"]

WORKER, WORKER_TOKEN = "OFFHOOK_WORKER", "OFFHOOK_WORKER_TOKEN"  # set by the parent alone
MAX_WORKERS = 64


def cores() -> int:
    """How many cores this process may use: its affinity, and its cgroup's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, round(int(quota) / int(period))))
    return min(count, MAX_WORKERS)


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """`names`: of all workers, by slot. `folder`: private to them. `listener`, `admin`: inherited descriptors."""

    slot: int
    names: tuple[str, ...]
    folder: str
    listener: int
    admin: int | None = None


class Worker:
    """This process as one of several. `token`: of the console and the metrics, among the workers.

    `clock`: the machine's monotonic clock.
    """

    def __init__(self, given: Given, token: str, clock: Callable[[], float]) -> None:
        self.given, self.token, self._clock = given, token, clock
        self.slot, self.names, self.name = given.slot, given.names, given.names[given.slot]
        folder = Path(given.folder)
        self.page = Page(folder / "page", len(given.names))
        self.page.join(self.slot)
        self.routing = Routing(folder, given.names, given.slot, self.page, clock)
        self.listener = socket.socket(fileno=given.listener)
        self.admin = None if given.admin is None else socket.socket(fileno=given.admin)

    @classmethod
    def found(cls, environ: Mapping[str, str], clock: Callable[[], float]) -> Worker | None:
        """This process's part, None for a process without a parent."""
        if WORKER not in environ:
            return None
        return cls(msgspec.json.decode(environ[WORKER], type=Given), environ[WORKER_TOKEN], clock)

    @property
    def siblings(self) -> dict[str, int]:
        """The other workers' slots by their names."""
        return {name: slot for slot, name in enumerate(self.names) if slot != self.slot}

    def share(self, whole: int) -> int:
        """This worker's part of a whole: the parts add up to it."""
        count = len(self.names)
        return whole // count + (self.slot < whole % count)

    def total(self, calls: int) -> int:
        """This worker has so many calls; the number of all workers' calls."""
        return self.page.total(self.slot, calls)

    def beat(self) -> None:
        """Several times a second, once this worker listens."""
        self.page.beat(self.slot, self._clock())

    def takes(self, receive: Callable[[int, bytes, Callable[[], None]], None]) -> None:
        """Connections that the others send go to `receive`, from now on."""
        self.routing.received = receive
        self.routing.open()

    def peer_address(self, node_url: str, host: str) -> tuple[str, int]:
        """Where this worker listens for the others: on this machine alone, unless `node_url` is configured."""
        port = urlsplit(node_url).port if node_url else None
        return (host, port) if port else ("127.0.0.1", 0)

    def end_with_parent(self) -> None:
        """Drain when the parent is gone: its end of standard input is closed then."""
        loop = asyncio.get_running_loop()

        def look() -> None:
            if not os.read(0, 1024):
                loop.remove_reader(0)
                os.kill(os.getpid(), signal.SIGTERM)

        loop.add_reader(0, look)
