"""`offhook faults --planted`: a test of the tests.

Mutations are planted into gateways and agents, one at a time, and scenarios are played against them. A clean run of
every scenario comes first, with all mutations listening: it shows which scenario reaches which, and has an expectation
that names what the mutation breaks. Those are played, the shortest first, until one catches it. A catch is a failure of
an expectation that names the broken property, which another seed repeats; whatever fails by other expectations alone
was noticed by chance. Then the scenarios that caught something are played without mutations: each failure is a false
alarm.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from offhook.gateway.cli.planted.mutations import MUTATIONS
from offhook.gateway.cli.planted.process import PlantedAnswer, PlantedOrder
from offhook.gateway.cli.planted.seams import Mutation
from offhook.gateway.errors import OffhookError
from offhook.gateway.files import write_whole
from offhook.gateway.rehearsal.run import MODEL, TELEPHONE, environment_without
from offhook.gateway.rehearsal.scenario.load import SCENARIOS

__all__ = ["RECALL_MIN", "Catch", "Found", "PlantedPlan", "PlantedReport", "candidates", "plant", "planted_faults"]

RECALL_MIN = 0.95
REPEAT_SEED = 1_000  # added to the first run's: other noise, jitter and names
CALL_MAX_S = 240.0  # of the wall's clock: a call takes a second


@dataclass(frozen=True, slots=True)
class PlantedPlan:
    """`matrix`: every scenario that reaches a mutation is played against it, not only until one catches it."""

    speed: float = 20.0
    parallel: int = 2
    seed: int = 1
    clean_runs: int = 20
    matrix: bool = False


class Catch(msgspec.Struct, kw_only=True):
    """A scenario that failed under a mutation, and how: words by kind of expectation."""

    scenario: str
    failed: dict[str, str]


class Found(msgspec.Struct, kw_only=True):
    """A mutation: the scenarios that caught it, with the kinds that name it; those that noticed it by chance, those
    that passed although they reach it, and what another seed did not repeat.
    """

    mutation: str
    about: str
    caught: list[Catch] = []
    by_chance: list[Catch] = []
    passed: list[str] = []
    unrepeated: list[str] = []


class PlantedReport(msgspec.Struct, kw_only=True):
    """`clean` counts runs without mutations, `false_alarms` are those of them that failed."""

    found: list[Found]
    clean: int
    false_alarms: list[Catch]

    @property
    def recall(self) -> float:
        """The share of mutations that were caught."""
        return sum(bool(one.caught) for one in self.found) / len(self.found)

    @property
    def precision(self) -> float:
        """Of all failed runs, the share that failed by an expectation that names what was broken."""
        good = sum(len(one.caught) for one in self.found)
        bad = sum(len(one.by_chance) + len(one.unrepeated) for one in self.found) + len(self.false_alarms)
        return good / (good + bad) if good + bad else 0.0

    @property
    def ok(self) -> bool:
        return self.recall >= RECALL_MIN and not self.false_alarms


async def planted_faults(plan: PlantedPlan, json_path: Path | None) -> bool:
    """Plant mutations and play scenarios against them, a line for each. Whether the scenarios are good enough."""
    console = Console(highlight=False, soft_wrap=True)
    report = await plant(plan, console)
    console.width = max(console.width, 140)
    _show(report, console)
    if json_path is not None:
        body = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
        await asyncio.to_thread(write_whole, json_path, body)
    return report.ok


def candidates(mutation: Mutation, clean: Sequence[PlantedAnswer], *, matrix: bool) -> list[str]:
    """The scenarios that reach a mutation, the shortest first; unless `matrix`, only those that can name it."""
    reaching = [one for one in clean if mutation.name in one.reached and not one.failed]
    if not matrix:
        reaching = [one for one in reaching if mutation.named_by & set(one.kinds)]
    return [one.scenario for one in sorted(reaching, key=lambda one: (one.lasted_s, one.scenario))]


async def plant(plan: PlantedPlan, console: Console, mutations: Sequence[Mutation] = MUTATIONS) -> PlantedReport:
    """Play the bundled scenarios against each mutation, a line for each. Raises `OffhookError`."""
    names = sorted(path.name.removesuffix(".call.yaml") for path in SCENARIOS.glob("*.call.yaml"))
    async with _processes(plan) as play:
        clean = await asyncio.gather(*(play(PlantedOrder(scenario=name, seed=plan.seed)) for name in names))
        report = PlantedReport(found=[], clean=len(clean), false_alarms=_alarms(clean, console))

        async def one(mutation: Mutation) -> Found:
            found = await _caught(mutation, candidates(mutation, clean, matrix=plan.matrix), plan, play)
            _print(found, console)
            return found

        report.found = list(await asyncio.gather(*map(one, mutations)))
        catching = sorted({catch.scenario for found in report.found for catch in found.caught})
        orders = [PlantedOrder(scenario=s, seed=plan.seed + 1 + n) for n in range(plan.clean_runs) for s in catching]
        again = await asyncio.gather(*map(play, orders))
        report.clean += len(again)
        report.false_alarms += _alarms(again, console)
    return report


async def _caught(mutation: Mutation, scenarios: Sequence[str], plan: PlantedPlan, play: Any) -> Found:
    found = Found(mutation=mutation.name, about=mutation.about)
    for scenario in scenarios:
        order = PlantedOrder(scenario=scenario, seed=plan.seed, mutation=mutation.name)
        answer = await play(order)
        if not answer.failed and not answer.error:
            found.passed.append(scenario)
            continue
        named = mutation.named_by & answer.failed.keys()
        if not named:
            failed = answer.failed or {"error": answer.error}
            found.by_chance.append(Catch(scenario=scenario, failed=failed))
            continue
        again = await play(msgspec.structs.replace(order, seed=plan.seed + REPEAT_SEED))
        if not named & again.failed.keys():
            found.unrepeated.append(scenario)
            continue
        words = {kind: answer.failed[kind] for kind in sorted(named & again.failed.keys())}
        found.caught.append(Catch(scenario=scenario, failed=words))
        if not plan.matrix:
            break
    return found


def _alarms(clean: Sequence[PlantedAnswer], console: Console) -> list[Catch]:
    """Runs without mutations that failed."""
    failed = [one for one in clean if one.failed or one.error]
    for one in failed:
        words = one.error or "; ".join(one.failed.values())
        console.print(f"[red]✗[/] {one.scenario} fails without a mutation (seed {one.seed}): {words}", markup=True)
    return [Catch(scenario=one.scenario, failed=one.failed or {"error": one.error}) for one in failed]


@asynccontextmanager
async def _processes(plan: PlantedPlan) -> AsyncIterator[Any]:
    """Processes that play, as a coroutine function of an `PlantedOrder`."""
    free: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()
    every = []
    for _ in range(plan.parallel):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "offhook.gateway.cli.planted.process", f"{plan.speed:g}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment_without(TELEPHONE + MODEL) | {"OPENBLAS_NUM_THREADS": "1"},
            limit=2**24,
        )
        every.append(process)
        free.put_nowait(process)

    async def play(order: PlantedOrder) -> PlantedAnswer:
        process = await free.get()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(CALL_MAX_S):
                process.stdin.write(msgspec.json.encode(order) + b"\n")
                line = await process.stdout.readline()
        except (TimeoutError, ConnectionError):
            line = b""
        if not line:
            what = f"{order.scenario} with {order.mutation or 'no mutation'}"
            raise OffhookError(f"the process that played {what} ended, or was not done in {CALL_MAX_S:g} s")
        free.put_nowait(process)
        return msgspec.json.decode(line, type=PlantedAnswer)

    try:
        yield play
    finally:
        for process in every:
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*(process.wait() for process in every))


# -- showing


def _print(found: Found, console: Console) -> None:
    if found.caught:
        first = found.caught[0]
        kind, words = next(iter(first.failed.items()))
        console.print(f"[green]✓[/] {found.mutation}  [dim]{first.scenario}: {kind}: {words}[/]", markup=True)
        return
    tried = len(found.passed) + len(found.by_chance) + len(found.unrepeated)
    why = f"{tried} scenarios tried" if tried else "no scenario reaches it and has an expectation that names it"
    chance = f"; noticed by chance: {', '.join(c.scenario for c in found.by_chance)}" if found.by_chance else ""
    console.print(f"[red]✗[/] {found.mutation}  [dim]{found.about}[/]: not caught ({why}{chance})", markup=True)


def _show(report: PlantedReport, console: Console) -> None:
    """Which scenario catches which mutation, then recall and precision."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("mutation", "caught by", "expectation", "by chance", "passed"):
        table.add_column(column, justify="right" if column in ("by chance", "passed") else "left")
    for found in report.found:
        kinds = sorted({kind for catch in found.caught for kind in catch.failed})
        names = [catch.scenario for catch in found.caught]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        chance = str(len(found.by_chance) + len(found.unrepeated))
        table.add_row(found.mutation, shown or "[red]none[/]", ", ".join(kinds), chance, str(len(found.passed)))
    console.print(table)
    caught = sum(bool(one.caught) for one in report.found)
    by_scenario: dict[str, int] = defaultdict(int)
    for found in report.found:
        for catch in found.caught:
            by_scenario[catch.scenario] += 1
    console.print(
        f"recall {report.recall:.3f} ({caught} of {len(report.found)}, at least {RECALL_MIN:g}), "
        f"precision {report.precision:.3f}, {len(by_scenario)} scenarios catch something"
    )
    console.print(f"{len(report.false_alarms)} false alarms in {report.clean} calls without a mutation")
