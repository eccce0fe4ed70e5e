"""`offhook serve`: this process answers calls, or is the parent of several that do."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from offhook.gateway.agent.spec import Agent
from offhook.gateway.config import Settings
from offhook.gateway.errors import OperatorError
from offhook.gateway.live import HAND_OVER_S
from offhook.gateway.observe.redact import RedactingFormatter, Redactor, secrets_of
from offhook.gateway.workers.worker import MAX_WORKERS, WORKER, Worker, cores

__all__ = ["is_worker", "log_to_stderr", "serve", "serve_with_workers", "workers_wanted"]

log = logging.getLogger("offhook")


def log_to_stderr(level: str, agents: list[Agent], environ: Mapping[str, str], name: str = "") -> None:
    """Write this process's log to standard error, without the secrets of `environ` and of its agents' tools.

    `name`: of the worker, in every line.
    """
    secrets = secrets_of(environ, (msgspec.to_builtins(agent.tools) for agent in agents))
    handler = logging.StreamHandler(sys.stderr)
    source = f"{name} %(name)s" if name else "%(name)s"
    handler.setFormatter(RedactingFormatter(f"%(asctime)s %(levelname)s {source}: %(message)s", Redactor(secrets)))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def workers_wanted(given: str) -> int:
    """The number that `--workers` means. Raises `OperatorError`."""
    count = cores() if given == "auto" else int(given) if given.isdecimal() else 0
    if not 1 <= count <= MAX_WORKERS:
        raise OperatorError(f"--workers must be auto, or from 1 to {MAX_WORKERS}, not {given!r}")
    if count > 1 and not hasattr(os, "fork"):
        raise OperatorError("--workers needs Linux or macOS: start one process, or use WSL")
    return count


async def serve_with_workers(settings: Settings, count: int, agents: list[Path]) -> None:
    """Be the parent of `count` processes that serve; SystemExit with their exit code."""
    from offhook.gateway.cli.stopping import END_S
    from offhook.gateway.workers.parent import Parent

    command = [sys.executable, "-m", "offhook", "serve", *(part for path in agents for part in ("--agent", str(path)))]
    limit_s = settings.drain_s + HAND_OVER_S + END_S
    parent = Parent(settings, count, command, os.environ, limit_s=limit_s, clock=time.monotonic)
    if code := await parent.run():
        raise SystemExit(code)


async def serve(
    settings: Settings,
    agents: list[Agent],
    environ: Mapping[str, str] | None = None,
    listening: Callable[[str], None] | None = None,
) -> None:
    """Answer calls in this process until it is told to stop. `environ`: the process's own unless given;
    `listening(url)` is called once it listens.
    """
    environ = os.environ if environ is None else environ
    from offhook.gateway.app import Gateway
    from offhook.gateway.cli.stopping import END_S, Stopping
    from offhook.gateway.observe.garbage import collecting
    from offhook.gateway.observe.loop_watch import watching
    from offhook.gateway.web.connections import reserve_descriptors

    # A tool that computes in its thread holds the interpreter for this long at a time, and the event loop waits for it
    # at each wake-up. Python's default of 5 ms delayed frames by hundreds of ms (tests/bench/bench_tool_blocking.py).
    sys.setswitchinterval(0.0005)
    worker = Worker.found(environ, time.monotonic)
    gateway = Gateway(settings, agents, environ, worker=worker)
    stopping = Stopping(settings.drain_s + (HAND_OVER_S if settings.live else 0.0))
    stop = stopping.requested
    if settings.insecure:
        log.warning("OFFHOOK_INSECURE=1: signatures and tokens are not verified; for trials only")
    reserve_descriptors(settings.max_calls)
    if worker is not None:
        worker.end_with_parent()
    async with gateway.listening() as url:
        hung_after_s = settings.watchdog_s if settings.live else 0.0  # alone, a hung process is better than none
        with (
            watching(gateway.metrics.loop_blocked_total.inc, hung_after_s=hung_after_s),
            collecting(gateway.calls),
        ):
            print(f"listening on {url}", flush=True)
            if worker is None:  # not logged: it may contain the token made at start
                print(f"console: {gateway.console_link}", flush=True)
            log.info("answering: %s", ", ".join(agent.name for agent in agents))
            if listening is not None:
                listening(url)
            await stop.wait()
            draining = asyncio.create_task(gateway.drain())
            stop.clear()
            again = asyncio.create_task(stop.wait())  # a second signal ends the calls immediately
            await asyncio.wait([draining, again], return_when=asyncio.FIRST_COMPLETED)
            for task in (draining, again):
                task.cancel()
            await asyncio.gather(draining, again, return_exceptions=True)
        stopping.within(END_S)


def is_worker(environ: Mapping[str, str]) -> bool:
    """Whether this process was started by a parent."""
    return WORKER in environ
