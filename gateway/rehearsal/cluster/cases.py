"""The faults of `offhook faults --cluster`: what is done to the processes, and what must hold in spite of it."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from offhook.gateway.rehearsal.cluster.calls import ClusterCall, owner_of
from offhook.gateway.rehearsal.cluster.processes import Cluster
from offhook.gateway.rehearsal.cluster.servers import RedisPair

__all__ = ["CASES", "ClusterCase", "Nemesis"]

STOPPED_S = 4.0  # longer than the watchdog's 2 s and the balancer's checks
AWAY_S = 2.0
NOTICED_S = 1.0  # from the primary's death to the promotion: Sentinel's down-after-milliseconds
MOVED_S = 30.0


@dataclass(slots=True)
class Nemesis:
    """What does it: the processes, the calls under way, a random generator of the seed's own.

    `faults_s`: when each fault was done, by the rig's clock. `away_s`: how long Redis is away.
    """

    rig: Cluster
    redis: RedisPair
    random: random.Random
    calls: list[ClusterCall]
    away_s: float = AWAY_S
    faults_s: list[float] = field(default_factory=list)

    def on(self, name: str) -> list[ClusterCall]:
        """The calls that this gateway has."""
        return [one for one in self.calls if not one.call.over and one.truth.streams and owner_of(one.call) == name]

    def victim(self) -> str:
        """One of the gateways with most calls."""
        counts = {name: len(self.on(name)) for name, gateway in self.rig.gateways.items() if gateway.runs}
        return self.random.choice([name for name, n in counts.items() if n == max(counts.values())])

    def signal(self, name: str, number: signal.Signals) -> None:
        self.faults_s.append(self.rig.clock())
        self.rig.gateways[name].signal(number)

    async def away_from(self, name: str, had: list[ClusterCall]) -> None:
        """Wait until the calls that this gateway had are connected elsewhere."""
        async with asyncio.timeout(MOVED_S):
            while not all(one.call.over or (one.connected and owner_of(one.call) != name) for one in had):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def kill(self) -> str:
        name = self.victim()
        had = self.on(name)
        self.signal(name, signal.SIGKILL)
        await self.away_from(name, had)
        return name


async def _kill(does: Nemesis) -> None:
    await does.kill()


async def _kill_two(does: Nemesis) -> None:
    await does.kill()
    await asyncio.sleep(does.random.uniform(0.5, 1.5))
    await does.kill()


async def _stop(does: Nemesis) -> None:
    name = does.victim()
    had = does.on(name)
    does.signal(name, signal.SIGSTOP)
    await asyncio.sleep(STOPPED_S)
    does.rig.gateways[name].signal(signal.SIGCONT)
    await does.away_from(name, had)
    await does.rig.up(name)


async def _terminate(does: Nemesis, name: str = "") -> None:
    name = name or does.victim()
    had, process = does.on(name), does.rig.gateways[name].process
    assert process is not None
    does.signal(name, signal.SIGTERM)
    await does.away_from(name, had)
    async with asyncio.timeout(MOVED_S):
        while process.poll() is None:  # noqa: ASYNC110  another process's end
            await asyncio.sleep(0.02)
    assert process.returncode == 0, f"{name} ended with {process.returncode}"


async def _roll(does: Nemesis) -> None:
    names = list(does.rig.gateways)
    does.random.shuffle(names)
    for name in names:
        await _terminate(does, name)
        does.rig.gateways[name].start()
        await does.rig.up(name)


async def _redis_away(does: Nemesis) -> None:
    does.faults_s.append(does.rig.clock())
    does.redis.primary.kill()
    await asyncio.sleep(does.away_s)
    await does.redis.restore()


async def _redis_fails_over(does: Nemesis) -> None:
    does.faults_s.append(does.rig.clock())
    does.redis.primary.kill()
    await asyncio.sleep(NOTICED_S)
    await asyncio.to_thread(does.redis.promote)
    await asyncio.sleep(NOTICED_S)
    await does.redis.restore()


async def _redis_emptied(does: Nemesis) -> None:
    does.faults_s.append(does.rig.clock())
    await asyncio.to_thread(does.redis.primary.ask, "FLUSHALL")
    await asyncio.sleep(2.5)  # each node's beat, and a change of each call


async def _redis_away_and_kill(does: Nemesis) -> None:
    does.faults_s.append(does.rig.clock())
    does.redis.primary.kill()
    await asyncio.sleep(NOTICED_S)
    await does.kill()
    await does.redis.restore()


async def _reload(does: Nemesis) -> None:
    does.faults_s.append(does.rig.clock())
    does.rig.balancer.reload()
    await asyncio.sleep(1.0)
    for name in does.rig.gateways:
        await does.rig.up(name)


async def _drawn(does: Nemesis) -> None:
    """Five faults, drawn; the processes are restored after each."""
    faults = (_kill, _stop, _terminate, _redis_away, _redis_fails_over, _redis_emptied, _reload)
    for fault in does.random.sample(faults, 5):
        await fault(does)
        await does.rig.restart([name for name, gateway in does.rig.gateways.items() if not gateway.runs])


@dataclass(frozen=True, slots=True)
class ClusterCase:
    """One fault. `moves`: calls move to other gateways by it. `keeps`, `resumes`, `hangs`: see `Evidence`.

    `new_calls`: some are placed while it lasts, and are answered. `quick`: it belongs to the short form. `long`: it
    takes several times as long as the others.
    """

    number: int
    name: str
    fault: Callable[[Nemesis], Awaitable[None]]
    moves: bool = True
    keeps: bool = True
    resumes: bool = True
    hangs: bool = False
    new_calls: bool = False
    quick: bool = True
    long: bool = False


CASES = (
    ClusterCase(51, "a gateway is killed (SIGKILL)", _kill),
    ClusterCase(52, "a gateway is stopped for 4 s (SIGSTOP), and goes on", _stop, resumes=False, hangs=True),
    ClusterCase(53, "a gateway is told to end (SIGTERM)", _terminate),
    ClusterCase(54, "Redis is killed, and starts again empty", _redis_away, moves=False, new_calls=True),
    ClusterCase(55, "Redis fails over to its replica", _redis_fails_over, moves=False, new_calls=True),
    ClusterCase(56, "Redis is emptied", _redis_emptied, moves=False, new_calls=True),
    ClusterCase(57, "the balancer is reloaded", _reload, moves=False, new_calls=True),
    ClusterCase(58, "two gateways are killed, one after the other", _kill_two),
    ClusterCase(59, "a rolling update of all gateways", _roll, long=True),
    ClusterCase(60, "a gateway is killed while Redis is away", _redis_away_and_kill, keeps=False, resumes=False),
    ClusterCase(
        61, "five faults, drawn by the seed", _drawn, keeps=False, resumes=False, hangs=True, quick=False, long=True
    ),
)
