"""The runner of `offhook faults --cluster`: one fleet for all cases, calls through it, a fault in their midst."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
from rich.console import Console

from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal.cluster import checks
from offhook.gateway.rehearsal.cluster.calls import AGENT, ClusterCall, Move, Receivers, call_of, placed, script_of
from offhook.gateway.rehearsal.cluster.cases import CASES, ClusterCase, Nemesis
from offhook.gateway.rehearsal.cluster.processes import AUTH_TOKEN, CONSOLE_TOKEN, PUBLIC, Cluster, cluster
from offhook.gateway.rehearsal.cluster.servers import RedisPair
from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.quick_clock import running_clock

__all__ = ["ClusterReport", "FleetResult", "Plan", "WholeFleet", "chosen", "faults", "figures", "fleet", "needs"]

PROGRAMS = ("haproxy", "redis-server", "redis-cli")
NEW_CALLS = 2  # placed while a fault lasts, or before it
QUICK_FLEETS = 2  # of the short form: most of a case is waiting
LOOK_S = 0.02
LEFT_S = 10.0  # after the last call nothing may be left
SECRET = "whsec_" + "b2ZmaG9vaw" * 4


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much: `calls` under way, `delay_ms` of the carrier for each document and each handshake, `words` that an
    agent counts, `spread_s` between calls, `goes_on_s` after the fault, `away_s` of Redis.
    `goes_on_s` is two beats at least: one that comes back empty knows of all calls then.
    """

    seed: int = 1
    calls: int = 12
    delay_ms: float = 0.0
    words: int = 60
    spread_s: float = 0.05
    goes_on_s: float = 2.5
    away_s: float = 2.0


class FleetResult(msgspec.Struct, kw_only=True):
    """The result of a case. `late_ms`: the rig's own event loop at worst, from the fault on. `moves`: see `Move`."""

    number: int
    name: str
    seed: int
    calls: int
    moved: int
    lost: int
    took_s: float
    late_ms: float
    faults: list[str]
    moves: list[Move]

    @property
    def ok(self) -> bool:
        return not self.faults


class ClusterReport(msgspec.Struct, kw_only=True):
    """All cases of a run."""

    cases: list[FleetResult]

    @property
    def ok(self) -> bool:
        return all(case.ok for case in self.cases)


def needs() -> str:
    """The program that is missing here, "" when all are there."""
    return next((name for name in PROGRAMS if shutil.which(name) is None), "")


def chosen(numbers: Sequence[int], quick: bool) -> list[ClusterCase]:
    """The cases to run: these numbers, or all, or the quick ones. Raises `OperatorError`."""
    known = {case.number for case in CASES}
    if unknown := set(numbers) - known:
        raise OperatorError(f"no case {min(unknown)}; there are {', '.join(map(str, sorted(known)))}")
    return [case for case in CASES if (case.number in numbers if numbers else case.quick or not quick)]


class WholeFleet:
    """Three gateways, HAProxy, Redis and its replica, the model, and what the gateways act on outside."""

    def __init__(
        self, rig: Cluster, redis: RedisPair, model: ModelServer, outside: Receivers, scripts: dict[str, Script]
    ):
        self._rig, self._redis, self._model, self._outside, self._scripts = rig, redis, model, outside, scripts

    async def run(self, case: ClusterCase, plan: Plan) -> FleetResult:
        """One case; the fleet is whole again afterwards."""
        began_s = self._rig.clock()
        name = f"{case.number} {plan.seed}"
        rng = random.Random(name)
        late = [self._placed(1_000 + n, name, plan) for n in range(NEW_CALLS)]
        calls = [self._placed(n, name, plan) for n in range(plan.calls)] + ([] if case.new_calls else late)
        does = Nemesis(self._rig, self._redis, rng, calls, plan.away_s)
        first_event, first_effect = len(self._outside.events), len(self._outside.effects)
        first_violation, logs_at = len(self._model.violations), self._log_sizes()
        running = await self._begin(calls, plan)
        await asyncio.sleep(rng.uniform(0.7, 1.5))
        for one in calls:
            one.before = await self._transcript(one)
        late_s: list[float] = []
        lateness = asyncio.create_task(_measure_lateness(late_s, self._rig.clock))
        fault = asyncio.ensure_future(case.fault(does))
        if case.new_calls:
            await asyncio.sleep(0.5)
            running += await self._begin(late, plan)
            calls += late
        found = [f"the fault: {error}" for error in await asyncio.gather(fault, return_exceptions=True) if error]
        restored = asyncio.ensure_future(
            self._rig.restart([name for name, gateway in self._rig.gateways.items() if not gateway.runs])
        )
        await asyncio.sleep(plan.goes_on_s)
        over = [self._placed(100_000, name, plan)]  # the fleet is full
        running += [asyncio.create_task(one.call.run()) for one in over]
        await asyncio.sleep(plan.goes_on_s / 2)
        for one in (*calls, *over):
            one.call.hang_up()
        await asyncio.gather(*running)
        ended_s = self._rig.clock()
        lateness.cancel()
        await restored
        left = await self._left(calls, ended_s)
        seen = checks.Evidence(
            calls=calls,
            refused=over,
            effects=self._outside.effects[first_effect:],
            events=self._outside.events[first_event:],
            violations=[] if case.hangs else self._model.violations[first_violation:],
            logs={n: g.log[logs_at[n] :] for n, g in self._rig.gateways.items()},
            left=left,
            cap=plan.calls + NEW_CALLS if case.keeps else 0,
            keeps=case.keeps,
            resumes=case.resumes,
            hangs=case.hangs,
            faults_s=does.faults_s,
            late_s=max(late_s, default=0.0),
        )
        found += checks.check(seen)
        moved = [one for one in calls if one.moved]
        if bool(moved) != case.moves:
            found.append(f"{len(moved)} calls moved")
        return FleetResult(
            number=case.number,
            name=case.name,
            seed=plan.seed,
            calls=len(calls),
            moved=len(moved),
            lost=sum(one.truth.ended_by != "caller" for one in calls),
            took_s=round(self._rig.clock() - began_s, 1),
            late_ms=round(1000 * seen.late_s, 1),
            faults=found,
            moves=seen.moves,
        )

    def _placed(self, n: int, name: str, plan: Plan) -> ClusterCall:
        one = placed(
            self._rig.url,
            n,
            name,
            public_url=PUBLIC,
            auth_token=AUTH_TOKEN,
            delay_ms=plan.delay_ms,
            words=plan.words,
        )
        self._scripts[one.sid] = script_of(one.talks, plan.words)
        return one

    def _log_sizes(self) -> dict[str, int]:
        return {name: len(gateway.log) for name, gateway in self._rig.gateways.items()}

    async def _begin(self, calls: Sequence[ClusterCall], plan: Plan) -> list[asyncio.Task[object]]:
        """Place them; returns once each has heard its agent."""
        running: list[asyncio.Task[object]] = []
        for one in calls:
            running.append(asyncio.create_task(one.call.run()))
            await asyncio.sleep(plan.spread_s)
        async with asyncio.timeout(30):
            while not all(one.truth.agent or one.call.over for one in calls):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return running

    async def _transcript(self, one: ClusterCall) -> list[tuple[str, str]]:
        """The call's transcript so far, by any gateway's console."""
        gateway = next(iter(self._rig.gateways.values()))
        headers = {"Authorization": f"Bearer {CONSOLE_TOKEN}"}
        async with self._rig.http.get(f"{gateway.admin_url}/console/api/calls/{one.sid}", headers=headers) as answer:
            if answer.status != 200:
                return []
            record = await answer.json()
        return [(line["who"], line.get("heard_text") or line["text"]) for line in record["transcript"]]

    async def _left(self, calls: Sequence[ClusterCall], ended_s: float) -> list[str]:
        """Collect records and sessions; what is still there of the calls `LEFT_S` after the last one ended."""
        sids = {one.sid: one for one in calls}
        while True:
            left = await self._still_there(sids)
            records: dict[str, list[dict[str, object]]] = {sid: [] for sid in sids}
            for gateway in self._rig.gateways.values():
                for record in await asyncio.to_thread(checks.records_in, gateway.data_dir):
                    if record["call_sid"] in records:
                        records[record["call_sid"]].append(record)
            if missing := sum(not found for found in records.values()):
                left.append(f"{missing} records are not written")
            told = {(kind, sid) for _, kind, sid in self._outside.events}
            if late := [sid for sid in sids if ("call.ended", sid) not in told]:
                left.append(f"{len(late)} webhooks call.ended are not delivered")
            if not left or self._rig.clock() - ended_s > LEFT_S:
                break
            await asyncio.sleep(0.2)
        for sid, found in records.items():
            sids[sid].records = found
        for session in self._model.sessions:
            if one := sids.get(call_of(session)):
                one.sessions.append(session)
        return left

    async def _still_there(self, sids: dict[str, ClusterCall]) -> list[str]:
        left = []
        for name in self._rig.gateways:
            try:
                if active := await self._rig.metric(name, "offhook_calls_active"):
                    left.append(f"{name} has {active:.0f} calls")
                if stuck := await self._rig.metric(name, "offhook_stuck_calls_total"):
                    left.append(f"{name} had {stuck:.0f} calls that did not end by themselves")
            except aiohttp.ClientError as error:
                left.append(f"{name} does not answer: {error}")
        open_sessions = [s for s in self._model.sessions if call_of(s) in sids and s.closed_at_s is None]
        if open_sessions:
            left.append(f"{len(open_sessions)} model sessions are open")
        kept = await asyncio.to_thread(self._redis.primary.left)
        return left + [f"Redis: {line}" for line in kept if any(sid in line for sid in sids)]


async def _measure_lateness(late_s: list[float], clock: Callable[[], float]) -> None:
    """Append by how much each of the event loop's wake-ups is late: then carrier and model are, too."""
    while True:
        due_s = clock() + LOOK_S
        await asyncio.sleep(LOOK_S)
        late_s.append(clock() - due_s)


@asynccontextmanager
async def fleet(plan: Plan, folder: Path) -> AsyncIterator[WholeFleet]:
    """A fleet that runs while the block does. Raises `RigFailed`."""
    scripts: dict[str, Script] = {}

    def script(setup: dict[str, object]) -> Script:
        text: str = setup["systemInstruction"]["parts"][0]["text"]  # type: ignore[index]
        return scripts.get(text.partition("plan ")[2].partition(".")[0], Script())

    redis = RedisPair(folder)
    try:
        await asyncio.to_thread(redis.start)
        await redis.replicated()
        model = ModelServer(script, keep_audio=False, keep_arrivals=True, clock=running_clock())
        async with model, Receivers() as outside:
            environ = {
                "OFFHOOK_DRAIN_S": "0",
                "OFFHOOK_FLEET_MAX_CALLS": str(plan.calls + NEW_CALLS),
                "OFFHOOK_SIMULATED_EFFECTS": "*",
                "OFFHOOK_WEBHOOK_URL": f"{outside.url}/events",
                "OFFHOOK_WEBHOOK_SECRET": SECRET,
                "OFFHOOK_WEBHOOK_PRIVATE": "1",
                "OFFHOOK_NUMBER_KEY": "number-key-canary-1",
            }
            async with cluster(folder, AGENT.format(outside.url), model, redis.url, environ=environ) as rig:
                yield WholeFleet(rig, redis, model, outside, scripts)
            for failure in model.failures:
                raise failure
    finally:
        redis.end()


async def faults(cases: Sequence[ClusterCase], plan: Plan, *, fleets: int = 1, console: Console) -> ClusterReport:
    """Run the cases, one after another in each of `fleets`; each prints a line as it ends. Raises `OperatorError`."""
    if missing := needs():
        raise OperatorError(f"--cluster needs {missing} on the path: install HAProxy and Redis")
    waiting = sorted(cases, key=lambda case: (case.long, -case.number))  # from its end: the long ones first
    results: list[FleetResult] = []

    async def one_fleet() -> None:
        with tempfile.TemporaryDirectory(prefix="offhook-cluster-") as folder:
            async with fleet(plan, Path(folder)) as whole:
                while waiting:
                    results.append(await whole.run(waiting.pop(), plan))
                    _print(results[-1], console)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(fleets, len(cases))):
            group.create_task(one_fleet())
    return ClusterReport(cases=sorted(results, key=lambda result: result.number))


def _print(result: FleetResult, console: Console) -> None:
    console.print(
        f"{'[green]✓' if result.ok else '[red]✗'}[/] {result.number}  {result.name}  "
        f"[dim]{result.calls} calls, {result.moved} moved, {result.lost} lost; seed {result.seed}, "
        f"{result.took_s:.0f} s, rig late by up to {result.late_ms:.0f} ms[/]"
    )
    for line in [*figures(result.moves), *(f"[red]{fault}[/]" for fault in result.faults)]:
        console.print(f"      {line}")


def figures(moves: Sequence[Move]) -> list[str]:
    """Lines of P50, P95 and the maximum, from the close of a stream."""
    if not moves:
        return []
    series = (
        ("fault to the stream's close", [move.fault_s for move in moves]),
        ("close to the next stream", [move.stream_s for move in moves]),
        ("close to the caller's audio at the model", [move.audio_s for move in moves if move.audio_s is not None]),
        ("close to the agent, heard again", [move.agent_s for move in moves if move.agent_s is not None]),
    )
    lines = []
    for name, values in series:
        ordered = sorted(1000 * value for value in values)
        if ordered:
            p50, p95 = (ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))] for q in (0.5, 0.95))
            lines.append(f"{name:42} P50 {p50:6.0f}  P95 {p95:6.0f}  max {ordered[-1]:6.0f} ms  of {len(ordered)}")
    counted = Counter(move.resumed for move in moves)
    return [*lines, f"model sessions resumed with the handle: {counted[True]} of {len(moves)} moves"]
