"""Outbound calls under kill -9: `python -m tests.bench.storm_outbound [--calls 300] [--kills 100] [--postgres]`.

Three processes share a database and place calls at a carrier that is a file; whoever asks does so twice,
with a key. Processes are killed at random and started again. Afterwards the file must have each call once.
Leases run 20 times as fast.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.agent.spec import Agent
from offhook.gateway.labels import LABELS
from offhook.gateway.store.database import CallDatabase, DatabaseAway
from offhook.gateway.store.migrate import migrate
from offhook.gateway.store.outbound import OutboundTable
from offhook.gateway.store.postgres import PostgresDatabase
from offhook.gateway.store.sqlite import SqliteDatabase
from offhook.gateway.telephony.admission import Admission
from offhook.gateway.telephony.outbound import OutboundCall, OutboundQueue, key_of
from offhook.gateway.telephony.placing import Placing, StoreUnreachable
from offhook.gateway.telephony.status import CallStatus
from offhook.metrics.catalogue import Metrics
from tests.rig.postgres import postgres_server
from tests.telephony.paper_carrier import PaperCarrier

SPEED = 20.0
AGENT = parse_agent("name: desk\nnumbers: ['+15550199']\n")


def wall() -> float:
    return time.time() * SPEED


class FileCarrier(PaperCarrier):
    """Each call that it was asked to place is a line of a file: when, to whom, its id."""

    path = Path()

    async def place(self, call: OutboundCall, agent: Agent) -> str:
        await asyncio.sleep(random.uniform(0, 0.05))  # on its way
        sid = f"CA{os.urandom(8).hex()}"
        with self.path.open("a") as file:
            file.write(f"{wall()} {call.to} {sid}\n")
            file.flush()
            os.fsync(file.fileno())
        await asyncio.sleep(random.uniform(0, 0.05))  # the answer
        return sid

    async def placed(self, call: OutboundCall, since_s: float) -> Sequence[str]:
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return [sid for at, to, sid in lines if to == call.to and float(at) >= since_s]


def placing(database: CallDatabase, name: str, path: Path) -> Placing:
    tasks: set[asyncio.Task[None]] = set()

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    carrier = FileCarrier()
    carrier.path = path
    return Placing(
        OutboundQueue(100.0 / SPEED),
        OutboundTable(database, name, b"key", wall),
        Admission([AGENT], 10_000),
        Metrics(CollectorRegistry(), LABELS),
        {AGENT.name: AGENT},
        [carrier],
        clock=wall,
        briefing_over=lambda _: None,
        has_lost=lambda _: asyncio.sleep(0, False),
        spawn=spawn,
    )


def database_at(where: str) -> CallDatabase:
    return PostgresDatabase(where) if where.startswith("postgresql:") else SqliteDatabase(Path(where))


async def work(where: str, path: Path, name: str) -> None:
    one = placing(database_at(where), name, path)
    while True:
        one.tick(wall())
        await asyncio.sleep(0.01)


async def storm(where: str, path: Path, calls: int, kills: int) -> dict[str, int]:
    database = database_at(where)
    await migrate(database)
    path.touch()
    asking = placing(database, "asking", path)
    started = 0

    def start() -> subprocess.Popen[bytes]:
        nonlocal started
        started += 1
        command = [sys.executable, "-m", "tests.bench.storm_outbound", "--work", where, str(path), f"n{started}"]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    workers = [start() for _ in range(3)]

    async def ask(n: int) -> None:
        to = f"+1555{n:07d}"
        for _ in range(2):
            await asyncio.sleep(random.uniform(0, 0.3 * kills))
            while True:
                with contextlib.suppress(StoreUnreachable, DatabaseAway):
                    await asking.submit(to, AGENT, key_of(f"key {n}", to))
                    break
                await asyncio.sleep(0.1)

    async def kill() -> None:
        for _ in range(kills):
            await asyncio.sleep(random.uniform(0.1, 0.5))
            at = random.randrange(len(workers))
            workers[at].kill()
            workers[at].wait()
            workers[at] = start()

    try:
        await asyncio.gather(kill(), *(ask(n) for n in range(calls)))
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            rows = await database.read(
                lambda session: session.rows(
                    "select count(*) from outbound where status in ('waiting', 'claimed', 'placing')"
                )
            )
            if not rows[0][0]:
                break
            await asyncio.sleep(0.2)
        rows = await database.read(lambda session: session.rows("select status, attempts from outbound"))
    finally:
        for one in workers:
            one.kill()
            one.wait()
        await database.close()
    dialled = Counter(line.split()[1] for line in path.read_text().splitlines())
    return {
        "asked": calls,
        "rows": len(rows),
        "dialled": len(dialled),
        "dialled twice": sum(times > 1 for times in dialled.values()),
        "left": sum(status != CallStatus.QUEUED.value for status, _ in rows),
        "taken up after a kill": sum(attempts > 1 for _, attempts in rows),
        "kills": kills,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        asyncio.run(work(given.work[0], Path(given.work[1]), given.work[2]))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        where = f"{folder}/offhook.sqlite3"
        if given.postgres:
            where = stack.enter_context(postgres_server()).new_database()
        found = asyncio.run(storm(where, Path(folder) / "dialled", given.calls, given.kills))
    print(", ".join(f"{name} {count}" for name, count in found.items()))
    sys.exit(found["dialled twice"] > 0 or found["left"] > 0 or found["dialled"] != found["asked"])


if __name__ == "__main__":
    main()
