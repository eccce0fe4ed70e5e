"""The demo of a call that outlives its process: one of two workers is killed in mid-sentence."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.quick_clock import Clock, running_clock
from offhook.gateway.rehearsal.results.report import Report, write_report
from offhook.gateway.rehearsal.results.tables import show
from offhook.gateway.rehearsal.run import Progress, gateway_process, live_line, run_scenario
from offhook.gateway.rehearsal.scenario.load import Scenario, load_scenario
from offhook.media.mulaw import RATE_HZ

__all__ = ["Killer", "demo", "kill_scenario", "run_kill"]

WORKERS = 2
INTO_S = 2.5  # how far into the agent's sentence
STARTED = re.compile(r"worker (\S+): process (\d+)")


class Killer:
    """Kills the worker that has the call, while the agent answers the caller. `log`: the gateway's."""

    def __init__(self, log: Path, clock: Clock) -> None:
        self._log, self._clock = log, clock
        self.call: SimulatedCall | None = None
        self.victim, self.killed_s = "", 0.0
        self._task: asyncio.Task[None] | None = None

    def watch(self, call: SimulatedCall) -> None:
        self.call = call
        self._task = asyncio.ensure_future(self._kill(call))

    async def _kill(self, call: SimulatedCall) -> None:
        truth = call.truth
        while not self._in_mid_sentence(call):  # noqa: ASYNC110  the call has no event for it
            await asyncio.sleep(0.02)
        self.victim = urlsplit(truth.streams[-1].url).path.split("/")[3]
        pids = dict(STARTED.findall(self._log.read_text(encoding="utf-8")))
        os.kill(int(pids[self.victim]), signal.SIGKILL)
        self.killed_s = self._clock()

    def _in_mid_sentence(self, call: SimulatedCall) -> bool:
        truth = call.truth
        if not truth.spoken or not truth.agent or not truth.streams:
            return False
        speaks = truth.agent[-1]
        return speaks.open and speaks.start_s > truth.spoken[-1].end_s and self._clock() - speaks.start_s > INTO_S

    def words(self) -> str:
        """What the caller went through."""
        assert self.call is not None
        if not self.killed_s:
            return "no worker was killed: the agent did not speak for long enough"
        truth = self.call.truth
        into_s = self.killed_s - (truth.streams[0].started_s or truth.began_s)
        said = [f"{self.victim} was killed (SIGKILL) {into_s:.1f} s into the call, in mid-sentence"]
        up = [s.started_s for s in truth.streams if s.started_s is not None and s.started_s > self.killed_s]
        heard_s = [truth.began_s + run.place / RATE_HZ for run in truth.played]
        heard = [at_s for at_s in heard_s if at_s > self.killed_s]
        if up:
            said.append(f"the next stream was up {1000 * (min(up) - self.killed_s):.0f} ms later")
        if heard:
            said.append(f"the agent was heard again after {min(heard) - self.killed_s:.2f} s")
        return "; ".join(said)


def kill_scenario() -> Scenario:
    """The call of `offhook demo --kill`."""
    return load_scenario(Path(__file__).parent / "demo-kill.call.yaml")


async def run_kill(scenario: Scenario, out: Path, progress: Progress | None = None) -> tuple[Report, Killer]:
    """The call on two workers, one of which is killed."""
    if not hasattr(os, "fork"):
        raise OperatorError("demo --kill needs Linux or macOS")
    killer = Killer(out / "gateway.log", running_clock())
    report = await run_scenario(
        scenario,
        out,
        progress=progress,
        watch=killer.watch,
        gateway=partial(gateway_process, workers=WORKERS),
    )
    return report, killer


async def demo(out: Path, json: Path | None = None) -> None:
    """`offhook demo --kill`: as `offhook demo`. SystemExit(1) if it failed."""
    console = Console()
    console.print("A simulated call on two workers; the one that has it is killed while the agent speaks.")
    with live_line(console) as progress:
        report, killer = await run_kill(kill_scenario(), out, progress)
    show(report, console)
    console.print(killer.words(), highlight=False, soft_wrap=True)
    if json is not None:
        write_report(report, json)
    if not report.ok or not killer.killed_s:
        raise SystemExit(1)
