"""Records and webhooks under kills: three processes on one Postgres (or one SQLite file), killed again and again.

    python -m tests.bench.storm_store [postgres|sqlite] [CALLS] [SEED]

Each process keeps records of calls, with the events `call.started` and `call.ended`, and delivers webhooks to a
receiver that fails every fifth time. It notes a call in a file of its own once its spool has it; what was in memory
alone when it was killed is counted apart. At the end each noted call has one record, and each of its two events was
delivered at least once, under one id; nothing was delivered of a call that no process knew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TextIO

from aiohttp import web
from prometheus_client import CollectorRegistry

from offhook.gateway.config import settings_from
from offhook.gateway.labels import LABELS
from offhook.gateway.store.configured import kept_records
from offhook.gateway.store.kept import KeptRecords
from offhook.gateway.store.outbox import listed, waiting
from offhook.gateway.webhooks.deliver import Deliveries, receiver_for
from offhook.gateway.webhooks.events import CallEvents
from offhook.metrics.catalogue import Metrics
from tests.rig.postgres import PostgresServer, postgres_server
from tests.rig.process import python_path
from tests.store.made import NOON_MS, record
from tests.webhooks.receiver import SECRET, served

WORKERS = 3
KILLS = 20


async def work(name: str, first: int, count: int, noted: TextIO, started: TextIO) -> None:
    """One process: go on after the last call that it began."""
    settings = settings_from(os.environ)
    metrics = Metrics(CollectorRegistry(), LABELS)
    store, receiver = kept_records(settings, metrics), receiver_for(settings)
    assert isinstance(store, KeptRecords)
    assert receiver is not None
    events = CallEvents((), time.time)
    deliveries = Deliveries(store.database, receiver, metrics, time.time)
    await store.open()
    deliveries.start()
    store.written = deliveries.wake
    for number in range(first, count):
        call = record(f"{name}-{number}", at_ms=NOON_MS + number)
        print(call.call_sid, file=started, flush=True)
        for event in events.started(call):
            store.emit(event)
        store.keep(call, tuple(e for e in events.ended(call) if e.kind == "call.ended"))
        while store._handed:
            await asyncio.sleep(0.002)
        print(call.call_sid, file=noted, flush=True)
        await asyncio.sleep(0.03)
    await asyncio.Event().wait()


@asynccontextmanager
async def receiving(seen: Counter[tuple[str, str, str]], rng: random.Random) -> AsyncIterator[str]:
    async def receive(request: web.Request) -> web.Response:
        body = await request.json()
        if rng.random() < 0.2:
            return web.Response(status=500)
        seen[body["data"]["call_sid"], body["type"], request.headers["webhook-id"]] += 1
        return web.Response()

    async with served(receive) as url:
        yield url


async def storm(kind: str, count: int, seed: int, server: PostgresServer | None, folder: Path) -> None:
    rng = random.Random(seed)
    seen: Counter[tuple[str, str, str]] = Counter()
    async with receiving(seen, rng) as url:
        environ = {
            "PYTHONPATH": python_path(),
            "OFFHOOK_DATA_DIR": str(folder),
            "OFFHOOK_NUMBER_KEY": "k" * 24,
            "OFFHOOK_WEBHOOK_URL": url,
            "OFFHOOK_WEBHOOK_SECRET": SECRET,
            "OFFHOOK_WEBHOOK_PRIVATE": "1",
            "OFFHOOK_WEBHOOK_EVENTS": "call.started,call.ended",
            **({"OFFHOOK_DATABASE_URL": server.new_database()} if server else {}),
        }

        def start(worker: int) -> subprocess.Popen[bytes]:
            arguments = ["work", f"w{worker}", str(count // WORKERS), str(folder / f"w{worker}.noted")]
            log = (folder / f"w{worker}.log").open("ab")
            command = [sys.executable, "-m", "tests.bench.storm_store", *arguments]
            return subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        workers = [start(worker) for worker in range(WORKERS)]
        began_s = time.monotonic()
        for kill in range(KILLS):
            await asyncio.sleep(rng.uniform(0.8, 2.0))
            victim = rng.randrange(WORKERS)
            workers[victim].send_signal(signal.SIGKILL)
            workers[victim].wait()
            workers[victim] = start(victim)
            if server and kill in (6, 13):
                server.kill()
                await asyncio.sleep(rng.uniform(0.5, 1.5))
                while True:
                    try:
                        await asyncio.to_thread(server.start)
                        break
                    except AssertionError:  # the old children are still going
                        await asyncio.sleep(0.3)
        killed_s = time.monotonic() - began_s
        noted = await noted_calls(folder, count, workers)
        settings = settings_from(environ)
        spare = kept_records(settings, Metrics(CollectorRegistry(), LABELS))
        assert spare is not None
        await until_delivered(spare, seen, noted)
        emptied_s = time.monotonic() - began_s
        records = await spare.database.read(lambda s: s.rows("select call_sid, count(*) from calls group by call_sid"))
        attempts = max(one.attempts for one in await spare.database.read(lambda s: listed(s, None, 10**6)))
        for process in workers:
            process.kill()
            process.wait()
        await spare.database.close()
    begun = {sid for path in folder.glob("*.begun") for sid in path.read_text().split()}
    report(
        kind, seen, noted, begun, {row[0]: row[1] for row in records}, attempts, killed_s, emptied_s, server is not None
    )


async def noted_calls(folder: Path, count: int, workers: list[subprocess.Popen[bytes]]) -> set[str]:
    """Once every process has begun all of its calls."""
    while True:
        begun = sum(len(path.read_text().split()) for path in folder.glob("*.begun"))
        assert all(process.poll() is None for process in workers), "a process ended by itself: see its log"
        if begun >= count // WORKERS * WORKERS:
            await asyncio.sleep(1.0)
            return {sid for path in folder.glob("*.noted") for sid in path.read_text().split()}
        await asyncio.sleep(0.2)


async def until_delivered(store: KeptRecords, seen: Counter[tuple[str, str, str]], noted: set[str]) -> None:
    async with asyncio.timeout(600):
        while True:
            kinds = {(sid, kind) for sid, kind, _ in seen}
            if all((sid, kind) in kinds for sid in noted for kind in ("call.started", "call.ended")):
                with contextlib.suppress(Exception):
                    if not (await store.database.read(waiting)).get("waiting"):
                        return
            await asyncio.sleep(0.3)


def report(
    kind: str,
    seen: Counter[tuple[str, str, str]],
    noted: set[str],
    begun: set[str],
    records: dict[str, int],
    attempts: int,
    killed_s: float,
    emptied_s: float,
    postgres: bool,
) -> None:
    """Prints the figures; exit code 1 when something is wrong."""
    ids: dict[tuple[str, str], set[str]] = {}
    for sid, event, id in seen:
        ids.setdefault((sid, event), set()).add(id)
    wrong = {
        "noted calls without a record": len(noted - records.keys()),
        "calls with several records": sum(n > 1 for n in records.values()),
        "noted events not delivered": sum((sid, e) not in ids for sid in noted for e in ("call.started", "call.ended")),
        "events with several ids": sum(len(found) > 1 for found in ids.values()),
        "deliveries of unknown calls": sum(sid not in begun for sid, _ in ids),
        "ended events without a record": sum(sid not in records for sid, e in ids if e == "call.ended"),
    }
    again = sum(n - 1 for n in seen.values())
    print(f"{kind}: {len(begun)} calls, {KILLS} kills of {WORKERS} processes in {killed_s:.0f} s", end="")
    print(", 2 of Postgres" if postgres else "")
    print(f"spooled: {len(noted)}, in memory alone when killed: {len(begun - noted)}, records: {len(records)}")
    print(f"events delivered: {len(ids)}, again: {again}, at most {attempts} attempts, all by {emptied_s:.0f} s")
    for what, n in wrong.items():
        print(f"{what}: {n}")
    if any(wrong.values()):
        raise SystemExit(1)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["work"]:
        name, count, note = arguments[1:]
        begun = Path(f"{note}.begun")
        first = len(begun.read_text().splitlines()) if begun.exists() else 0
        with Path(note).open("a") as noted, begun.open("a") as started:
            asyncio.run(work(name, first, int(count), noted, started))
        return
    kind, count, seed = [*arguments, *("postgres", "900", "1")[len(arguments) :]]
    with tempfile.TemporaryDirectory() as folder:
        if kind == "postgres":
            with postgres_server() as server:
                asyncio.run(storm(kind, int(count), int(seed), server, Path(folder)))
        else:
            asyncio.run(storm(kind, int(count), int(seed), None, Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
