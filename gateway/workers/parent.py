"""The parent of the workers: it holds the listening sockets and its children, and nothing of any call.

A worker is executed, not forked: it shares the sockets and the page of counters with the others and no state of an
interpreter. One that ends is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from offhook.gateway.config import Settings
from offhook.gateway.errors import OperatorError
from offhook.gateway.live.node import NODE_NAME
from offhook.gateway.web.listener import listening_socket, url_of
from offhook.gateway.workers.page import Page
from offhook.gateway.workers.worker import MAX_WORKERS, WORKER, WORKER_TOKEN, Given

__all__ = ["Parent"]

log = logging.getLogger(__name__)

STEADY_S = 10.0  # a worker that lived this long is replaced at once
BACKOFF_S, BACKOFF_MAX_S = 0.5, 30.0
MARGIN_S = 3.0  # a worker ends itself within its limits; after this it is killed
SHARED_MEMORY = Path("/dev/shm")
PREFIX = "offhook-workers-"


class Parent:
    """`count` workers, each executing `command` with `environ` and what makes it one of them.

    `limit_s`: how long a worker may take to end after SIGTERM. `clock`: monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        count: int,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        limit_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._count, self._command = settings, count, list(command)
        self._limit_s, self._clock = limit_s, clock
        self._names = tuple(f"{_base(settings.replica)}-{slot}" for slot in range(count))
        self._token = settings.console_token or secrets.token_urlsafe(32)
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._signals = 0
        self._stopping = asyncio.Event()
        _remove_leftovers()
        memory = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
        self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=memory))
        self._page = Page(self._folder / "page", count, create=True)
        self._environ = {
            **environ,
            WORKER_TOKEN: self._token,
            "OFFHOOK_LIVE": settings.live or f"sqlite:{self._folder}/live.db",
            "OFFHOOK_FLEET_KEY": ",".join(settings.fleet_key) or secrets.token_urlsafe(32),
            "OFFHOOK_CALLS_PER_S": str(max(0.01, settings.calls_per_s / count)),  # of the account
        }
        if settings.cost_per_day:
            self._environ["OFFHOOK_COST_PER_DAY"] = str(settings.cost_per_day / count)

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; the exit code. Raises `OperatorError` when it cannot listen."""
        settings, loop = self._settings, asyncio.get_running_loop()
        try:
            main = listening_socket(settings.host, settings.port, "OFFHOOK_PORT or OFFHOOK_HOST")
            admin = None
            if settings.public_url:
                variables = "OFFHOOK_ADMIN_PORT or OFFHOOK_ADMIN_HOST"
                admin = listening_socket(settings.admin_host, settings.admin_port, variables)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop)
            first = asyncio.Event()
            slots = [asyncio.create_task(self._keep(0, main, admin, first))]
            waiting: list[asyncio.Task[Any]] = [slots[0], asyncio.create_task(first.wait())]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if first.is_set():  # what is wrong with the settings is said once
                ready = [asyncio.Event() for _ in range(1, self._count)]
                slots += [
                    asyncio.create_task(self._keep(slot, main, admin, up)) for slot, up in enumerate(ready, start=1)
                ]
                waiting = [*slots, asyncio.create_task(_all_set(ready))]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if not self._stopping.is_set():
                    self._announce(main, admin)
            codes = await asyncio.gather(*slots)
            return next((code for code in codes if code), 0)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _announce(self, main: socket.socket, admin: socket.socket | None) -> None:
        made = "" if self._settings.console_token or admin is None else f"/sign-in?token={self._token}"
        print(f"listening on {url_of(main)}", flush=True)
        print(f"console: {url_of(admin or main)}/console{made}", flush=True)
        log.info("%d workers: %s to %s", self._count, self._names[0], self._names[-1])

    def _stop(self) -> None:
        """Drain all; asked a second time, end all calls."""
        self._signals += 1
        self._stopping.set()
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    # --- one slot

    async def _keep(self, slot: int, main: socket.socket, admin: socket.socket | None, ready: asyncio.Event) -> int:
        """One worker after another, until all are to stop; the last one's exit code."""
        wait_s = 0.0
        while True:
            began_s = self._clock()
            process = await self._start(slot, main, admin)
            log.info("worker %s: process %d", self._names[slot], process.pid)
            code = await self._run(slot, process, ready)
            self._page.clear(slot)
            if self._stopping.is_set() or not ready.is_set():
                return code if code >= 0 else 1
            wait_s = 0.0 if self._clock() - began_s > STEADY_S else min(BACKOFF_MAX_S, max(BACKOFF_S, 2 * wait_s))
            log.error("worker %s ended (%s); another one starts in %.1f s", self._names[slot], _reason(code), wait_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()
            if self._stopping.is_set():
                return 1

    async def _start(self, slot: int, main: socket.socket, admin: socket.socket | None) -> asyncio.subprocess.Process:
        given = Given(
            slot=slot,
            names=self._names,
            folder=str(self._folder),
            listener=main.fileno(),
            admin=None if admin is None else admin.fileno(),
        )
        environ = {
            **self._environ,
            WORKER: msgspec.json.encode(given).decode(),
            "OFFHOOK_REPLICA": self._names[slot],
            "OFFHOOK_NODE_URL": _node_url(self._settings.node_url, slot),
        }
        self._page.started(slot)
        return await asyncio.create_subprocess_exec(
            *self._command,
            env=environ,
            pass_fds=[one.fileno() for one in (main, admin) if one is not None],
            stdin=subprocess.PIPE,  # closed with this process: then the workers drain
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the parent alone
        )

    async def _run(self, slot: int, process: asyncio.subprocess.Process, ready: asyncio.Event) -> int:
        """Until it has ended; its exit code, negative for a signal's."""
        self._processes[slot] = process
        if self._stopping.is_set():  # asked while it was started
            process.send_signal(signal.SIGTERM)
        limit = asyncio.create_task(self._limit(process))
        assert process.stdout is not None
        try:
            while line := await process.stdout.readline():
                if not ready.is_set() and line.startswith(b"listening on "):
                    ready.set()
                elif not line.startswith(b"listening on "):  # of a tool
                    sys.stdout.write(line.decode("utf-8", "replace"))
            return await process.wait()
        finally:
            limit.cancel()
            del self._processes[slot]

    async def _limit(self, process: asyncio.subprocess.Process) -> None:
        await self._stopping.wait()
        await asyncio.sleep(self._limit_s + MARGIN_S)
        with suppress(ProcessLookupError):
            process.kill()


async def _all_set(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


def _reason(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"


def _base(replica: str) -> str:
    """What the workers' names begin with: the given name, or the host's."""
    name = replica.lower() or re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower())[:36].strip("-") or "worker"
    if not NODE_NAME.fullmatch(f"{name}-{MAX_WORKERS}"):
        raise OperatorError(f"OFFHOOK_REPLICA must be 1 to 37 of a-z, 0-9 and -, not {replica!r}")
    return name


def _node_url(node_url: str, slot: int) -> str:
    """Where peers on other machines reach this worker: the given port and the ones after it."""
    if not node_url:
        return ""
    parts = urlsplit(node_url)
    if parts.port is None:
        raise OperatorError("OFFHOOK_NODE_URL needs a port with --workers: each worker listens on one, from it upwards")
    return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{parts.port + slot}").geturl()


def _remove_leftovers() -> None:
    """Folders of parents that were killed."""
    for folder in SHARED_MEMORY.glob(f"{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        with suppress(OSError):
            if pid.isdigit() and folder.stat().st_uid == os.getuid() and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(folder, ignore_errors=True)
