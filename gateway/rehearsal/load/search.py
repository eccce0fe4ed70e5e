"""`offhook load`: how many calls a gateway carries, and what it costs.

The number of calls is doubled until a step fails, then halved between the highest good and the lowest failed one. A
step is good when no call failed and the P99 of frame lateness is within 5 ms. *Frame lateness*: how much later than
the fastest frame of its call a caller's frame arrives at the model, measured from outside, with the lateness of
callers and model. A gateway elsewhere has another model and measures lateness itself: of each second of each call the
latest frame, from its receipt until it is forwarded (`offhook_uplink_forward_seconds`).

Callers, model and gateway are separate processes; a step reports when the callers' own timers were late.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from rich.console import Console
from rich.table import Table

from offhook.gateway import __version__
from offhook.gateway.config import settings_from
from offhook.gateway.errors import OperatorError
from offhook.gateway.files import write_whole
from offhook.gateway.rehearsal.account import CONSOLE_TOKEN, at_rest
from offhook.gateway.rehearsal.load.scrape import Late, Scrape, late_between, scrape
from offhook.gateway.rehearsal.load.worker import LATE_S, Mix, Order, Part, WorkerReport, mark_of
from offhook.gateway.rehearsal.outside import OtherGateway, check_outside
from offhook.gateway.rehearsal.quick_clock import Clock
from offhook.gateway.rehearsal.run import PUBLIC_URL, REST_TIMEOUT_S, GatewayFailed, gateway_process
from offhook.gateway.rehearsal.scenario.load import Scenario, load_scenario
from offhook.gateway.yamlfile import parse_yaml, read_yaml, write_yaml

__all__ = ["LATE_S", "LoadPlan", "LoadReport", "LoadStep", "Moment", "load", "next_calls", "show_load", "verdict_on"]

CLOCK_LATE_MS = 10.0  # the callers' own
LATE_SHARE = 0.01
GRAIN = 0.1  # the highest good number is found to a tenth
READY_S = 60.0
MISSING = 0.1  # of the calls wanted may be between two calls
FORWARD, LAG = "offhook_uplink_forward_seconds", "offhook_event_loop_lag_seconds"


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """The numbers of calls to try: from `start` to `most`, each held for `hold_s` after `ramp_s`."""

    start: int = 5
    most: int = 1_000
    hold_s: float = 30.0
    ramp_s: float = 10.0
    processes: int = 1


class LoadStep(msgspec.Struct, kw_only=True):
    """One number of calls, held for a while. CPU in milliseconds per second of call; percentiles in ms.

    `frames` decides the step; `worst` (the latest frame of each second) and `lag` (of the event loop) are measured by
    the gateway.
    """

    calls: int
    began_s: float
    ended_s: float
    average_calls: float
    ended: int
    failed: int
    frames: Late
    worst: Late
    lag: Late
    cpu_ms_per_call_s: float | None
    cpu_share: float | None
    memory_mib: float | None
    memory_kib_per_call: float | None
    descriptors_per_call: float | None
    frames_dropped: int
    callers_clock_p99_ms: float | None
    faults: list[str] = []

    @property
    def ok(self) -> bool:
        return not self.faults


class Moment(msgspec.Struct, kw_only=True):
    """A sample of the gateway's counters, once a second."""

    at_s: float
    wanted: int
    calls: float
    cpu_share: float
    memory_mib: float
    descriptors: float


class LoadReport(msgspec.Struct, kw_only=True):
    """How many calls a gateway carried. `first_failed` has its `reasons`; None if no step failed."""

    offhook: str = __version__
    conditions: dict[str, str]
    highest_good: int
    first_failed: int | None
    reasons: list[str]
    steps: list[LoadStep]
    moments: list[Moment]
    unseen: list[str] = []  # expectations that cannot be seen from outside
    left: dict[str, float] = {}  # gauges of a gateway started here that did not return to zero after the last call


def next_calls(tried: Sequence[tuple[int, bool]], plan: LoadPlan) -> int | None:
    """The number of calls to try next, None when the answer is known: doubled until a step fails, then bisected."""
    failed = min((calls for calls, ok in tried if not ok), default=None)
    good = max((calls for calls, ok in tried if ok and (failed is None or calls < failed)), default=0)
    if failed is None:
        return None if good >= plan.most else min(max(plan.start, 2 * good), plan.most)
    gap = failed - good
    return None if gap <= max(1, GRAIN * failed) else good + gap // 2


def verdict_on(step: LoadStep, reasons: Mapping[str, int]) -> list[str]:
    """Why a step failed; empty if it passed."""
    faults = []
    if step.failed:
        most = ", ".join(f"{reason} ({n})" for reason, n in Counter(reasons).most_common(3))
        faults.append(f"{step.failed} of {step.ended} calls failed: {most}")
    if step.average_calls < (1 - MISSING) * step.calls:
        faults.append(f"only {step.average_calls:.0f} of {step.calls} calls were active")
    late = step.frames
    if late.p99_ms is not None and late.beyond > LATE_SHARE * late.n:
        share = f"{late.beyond} of {late.n} beyond {1000 * LATE_S:g} ms"
        faults.append(f"frame lateness P99 {late.p99_ms:.1f} ms ({share})")
    if step.frames_dropped:
        faults.append(f"{step.frames_dropped} frames were dropped")
    clock = step.callers_clock_p99_ms
    if clock is not None and clock > CLOCK_LATE_MS:
        faults.append(
            f"the timers of the callers were late (P99 {clock:.1f} ms): this machine cannot simulate more calls"
        )
    return faults


async def load(
    files: Sequence[Path],
    out: Path,
    plan: LoadPlan,
    *,
    clock: Clock,
    url: str = "",
    environ: Mapping[str, str] = os.environ,
    outside: OtherGateway | None = None,
    model_at: str = "",
    model_ca: Path | None = None,
) -> LoadReport:
    """Find the capacity of the gateway at `url`, of another one `outside`, or of one started here with the rehearsal
    model. `model_at`, `model_ca`: where the rehearsal model answers for the other gateway.

    Progress goes to standard error. A gateway elsewhere has other agents and another model: a call to it fails when a
    protocol is violated or the agent is never heard. Raises `OperatorError`.
    """
    scenarios = [load_scenario(path) for path in files or [Path("demo")]]
    for scenario in scenarios:
        scenario.check_steps("a load")
        if scenario.script().carries_on or scenario.others is not None:
            raise OperatorError(
                f"{scenario.name} is for one call at a time (carries_on, outbound, others): remove it from the load"
            )
    paths = [_path_of(path) for path in files or [Path("demo")]]
    out.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - before there is a call
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        model, token = None, ""
        if outside is not None:
            for scenario in scenarios:
                check_outside(scenario)
            if model_at and len(scenarios) > 1:
                raise OperatorError("--model-at answers from the script of one scenario: name one")
            parts = [Part(scenario=str(p), dials=s.dials) for p, s in zip(paths, scenarios, strict=True)]
            ca = str(model_ca.resolve()) if model_ca else ""  # noqa: ASYNC240 - before there is a call
            mix = Mix(parts=parts, url=outside.url, judged=False, outside=outside, model_at=model_at, model_ca=ca)
            if model_at:
                model = await stack.enter_async_context(_model(mix, out))
                await model.answer()
        elif url:
            settings = settings_from(environ)
            mix = Mix(
                parts=[Part(scenario=str(p), dials=s.dials) for p, s in zip(paths, scenarios, strict=True)],
                url=url.rstrip("/"),
                public_url=settings.public_url,
                auth_token=settings.twilio_auth_tokens[0] if settings.twilio_auth_tokens else None,
                judged=False,
            )
            token = settings.console_token
        else:
            mix, model = await stack.enter_async_context(_our_gateway(scenarios, paths, out))
            token = mix.console_token
        path = out / "mix.json"
        path.touch(mode=0o600)
        path.write_bytes(msgspec.json.encode(mix))
        stack.callback(path.unlink)
        callers = [await stack.enter_async_context(_worker("callers", path)) for _ in range(plan.processes)]
        for worker in callers:
            await worker.answer()
        watch = _Watch(session, mix.url, token, clock, blind=outside is not None)
        await watch.look()
        watching = asyncio.create_task(watch.run())
        try:
            steps = await _search(callers, model, watch, plan, console)
            left: dict[str, float] = {}
            unseen = await _unseen(callers)
            if model is not None and outside is None and not watch.gone:
                left = await at_rest(mix.url, REST_TIMEOUT_S, clock)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    failed = min((step.calls for step in steps if not step.ok), default=None)
    report = LoadReport(
        conditions=_conditions(plan, scenarios, outside.url if outside else url),
        unseen=unseen,
        highest_good=max((s.calls for s in steps if s.ok and (failed is None or s.calls < failed)), default=0),
        first_failed=failed,
        reasons=next((step.faults for step in steps if step.calls == failed), []),
        steps=steps,
        moments=watch.moments,
        left=left,
    )
    body = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
    await asyncio.to_thread(write_whole, out / "load.json", body)
    return report


async def _unseen(callers: Sequence[_Worker]) -> list[str]:
    """What no caller can judge of another gateway; the calls end."""
    reports = [await worker.order(0, 0.0) for worker in callers]
    return sorted({words for report in reports for words in report.unseen})


async def _search(
    callers: Sequence[_Worker], model: _Worker | None, watch: _Watch, plan: LoadPlan, console: Console
) -> list[LoadStep]:
    steps: list[LoadStep] = []
    while (calls := next_calls([(step.calls, step.ok) for step in steps], plan)) is not None:
        console.print(f"[dim]{calls} calls: reached within {plan.ramp_s:g} s, held for {plan.hold_s:g} s ...[/]")
        step, reasons = await _step(calls, callers, model, watch, plan)
        step.faults = verdict_on(step, reasons)
        steps.append(step)
        late = f"P99 {step.frames.p99_ms:.1f} ms" if step.frames.p99_ms is not None else "too few frames for a P99"
        cost = f", {step.cpu_ms_per_call_s:.1f} ms CPU per second of call" if step.cpu_ms_per_call_s else ""
        console.print(f"{'[green]✓' if step.ok else '[red]✗'}[/] {calls} calls: {late}{cost}")
        for fault in step.faults:
            console.print(f"    [red]{fault}[/]")
        if watch.gone:
            break
    return steps


async def _step(
    calls: int, callers: Sequence[_Worker], model: _Worker | None, watch: _Watch, plan: LoadPlan
) -> tuple[LoadStep, dict[str, int]]:
    share = [calls // len(callers) + (n < calls % len(callers)) for n in range(len(callers))]
    watch.wanted = calls
    for worker, mine in zip(callers, share, strict=True):
        await worker.order(mine, plan.ramp_s)  # the report of what happened before the step is dropped
    await asyncio.sleep(plan.ramp_s + 2.0)
    before = await watch.look()
    moments_from = len(watch.moments)
    if model is not None:
        await model.request(b"")
    await asyncio.sleep(plan.hold_s)
    arrived = msgspec.convert(await model.request(b""), Late) if model is not None else None
    after = await watch.look()
    tallies = [await worker.order(mine, 0.0) for worker, mine in zip(callers, share, strict=True)]
    reasons: Counter[str] = Counter()
    for tally in tallies:
        reasons.update(tally.reasons)
    moments = watch.moments[moments_from:]
    average = sum(m.calls for m in moments) / len(moments) if moments else float(sum(t.live for t in tallies))
    clocks = [tally.clock_p99_ms for tally in tallies if tally.clock_p99_ms is not None]
    step = LoadStep(
        calls=calls,
        began_s=before.at_s - watch.began_s if before else 0.0,
        ended_s=watch.clock() - watch.began_s,
        average_calls=average,
        ended=sum(tally.ended for tally in tallies),
        failed=sum(tally.failed for tally in tallies),
        frames=Late(0, None, None, 0),
        worst=Late(0, None, None, 0),
        lag=Late(0, None, None, 0),
        cpu_ms_per_call_s=None,
        cpu_share=None,
        memory_mib=None,
        memory_kib_per_call=None,
        descriptors_per_call=None,
        frames_dropped=0,
        callers_clock_p99_ms=max(clocks, default=None),
    )
    if before is not None and after is not None:
        took_s = after.at_s - before.at_s
        cpu_s = after.get("process_cpu_seconds_total") - before.get("process_cpu_seconds_total")
        step.worst = step.frames = late_between(before, after, FORWARD, LATE_S)
        step.lag = late_between(before, after, LAG, LATE_S)
        step.cpu_share = cpu_s / took_s
        step.memory_mib = after.get("process_resident_memory_bytes") / 2**20
        step.frames_dropped = round(_dropped(after) - _dropped(before))
        if average:
            grown = after.get("process_resident_memory_bytes") - watch.first.get("process_resident_memory_bytes")
            opened = after.get("process_open_fds") - watch.first.get("process_open_fds")
            step.cpu_ms_per_call_s = 1000.0 * cpu_s / took_s / average
            step.memory_kib_per_call = grown / 1024 / average
            step.descriptors_per_call = opened / average
    if arrived is not None:
        step.frames = arrived
    if watch.gone:
        reasons["the gateway does not respond any more"] += 1
        step.failed += 1
    return step, dict(reasons)


DROPS = ("uplink_full", "model_down")  # within a call: frames after its end and of a flushed reply do not count


def _dropped(seen: Scrape) -> float:
    """Caller frames dropped in calls."""
    return sum(seen.get(f'offhook_frames_dropped_total{{reason="{reason}"}}') for reason in DROPS)


class _Watch:
    """Scrapes the gateway's counters once a second. `gone`: it responded before and does not any more."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, token: str, clock: Clock, *, blind: bool = False
    ) -> None:
        self._session, self._url, self._token = session, url, token
        self.clock = clock
        self.began_s = clock()
        self.wanted = 0
        self.moments: list[Moment] = []
        self.first = Scrape(self.began_s, {})
        self.blind, self.gone = blind, False

    async def look(self) -> Scrape | None:
        """The counters now; None if they are not accessible."""
        if self.blind:
            return None
        try:
            seen = await scrape(self._session, self._url, self.clock, self._token)
        except aiohttp.ClientResponseError as error:
            self.blind = True
            print(
                f"offhook: {self._url}/metrics answered {error.status}: set OFFHOOK_CONSOLE_TOKEN to the gateway's; "
                "without it its lateness, CPU and memory are not measured",
                file=sys.stderr,
            )
            return None
        except (aiohttp.ClientError, TimeoutError, OSError):
            if not self.first.values:
                raise OperatorError(f"no gateway responds at {self._url}: start one, or omit --url") from None
            self.gone = True
            return None
        if not self.first.values:
            self.first = seen
        return seen

    async def run(self) -> None:
        last = await self.look()
        while not self.blind:
            await asyncio.sleep(1.0)
            seen = await self.look()
            if seen is None or last is None:
                last = seen
                continue
            cpu_s = seen.get("process_cpu_seconds_total") - last.get("process_cpu_seconds_total")
            self.moments.append(
                Moment(
                    at_s=seen.at_s - self.began_s,
                    wanted=self.wanted,
                    calls=seen.get("offhook_calls_active"),
                    cpu_share=cpu_s / (seen.at_s - last.at_s),
                    memory_mib=seen.get("process_resident_memory_bytes") / 2**20,
                    descriptors=seen.get("process_open_fds"),
                )
            )
            last = seen


# -- the processes


@dataclass(slots=True)
class _Worker:
    """A worker process: requests on its standard input, responses on its standard output, one per line."""

    process: asyncio.subprocess.Process

    async def answer(self) -> Any:
        assert self.process.stdout is not None
        async with asyncio.timeout(READY_S):
            line = await self.process.stdout.readline()
        if not line:
            raise GatewayFailed("a worker process ended unexpectedly: see its output above")
        return msgspec.json.decode(line)

    async def request(self, line: bytes) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        await self.process.stdin.drain()
        return await self.answer()

    async def order(self, calls: int, ramp_s: float) -> WorkerReport:
        return msgspec.convert(await self.request(msgspec.json.encode(Order(calls=calls, ramp_s=ramp_s))), WorkerReport)


@asynccontextmanager
async def _worker(kind: str, mix: Path) -> AsyncIterator[_Worker]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "offhook.gateway.rehearsal.load.worker", kind, str(mix)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    try:
        yield _Worker(process)
    finally:
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            async with asyncio.timeout(15.0):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _model(mix: Mix, out: Path) -> AbstractAsyncContextManager[_Worker]:
    """The process of the rehearsal model."""
    path = out / "model.json"
    path.write_bytes(msgspec.json.encode(mix))
    return _worker("model", path)


@dataclass(frozen=True, slots=True)
class _ModelAt:
    url: str
    ca_path: str


@asynccontextmanager
async def _our_gateway(
    scenarios: Sequence[Scenario], paths: Sequence[Path], out: Path
) -> AsyncIterator[tuple[Mix, _Worker]]:
    """A gateway process with the agents of all scenarios, each with its own number, and the model's process."""
    parts = [Part(scenario=str(path), dials=f"+1555020{n:04d}") for n, path in enumerate(paths)]
    agents = []
    for n, (scenario, part) in enumerate(zip(scenarios, parts, strict=True)):
        path = out / f"agent-{n}.yaml"
        path.write_text(_agent_for_load(scenario, n, part.dials), encoding="utf-8")
        agents.append(path)
    auth_token = secrets.token_hex(16)
    async with _model(Mix(parts=parts), out) as model:
        url, ca_path = await model.answer()
        environment = {
            "OFFHOOK_AGENT": ",".join(map(str, agents)),
            "OFFHOOK_MAX_CALLS": str(_as_many_as_descriptors()),
            "OFFHOOK_LOG_LEVEL": "warning",
            "OFFHOOK_DRAIN_S": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        async with gateway_process(
            agents[0],
            _ModelAt(url, ca_path),
            auth_token=auth_token,
            log=out / "gateway.log",
            environment=environment,
        ) as gateway_url:
            mix = Mix(
                parts=parts,
                url=gateway_url,
                public_url=PUBLIC_URL,
                auth_token=auth_token,
                console_token=CONSOLE_TOKEN,
            )
            yield mix, model


def _as_many_as_descriptors() -> int:
    """A limit of calls that the search does not reach, and the gateway's limit of file descriptors allows."""
    import resource  # not on Windows

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 100_000 if hard == resource.RLIM_INFINITY else max(10, min(100_000, hard // 8))


def _agent_for_load(scenario: Scenario, part: int, dials: str) -> str:
    """The scenario's agent with its own name and number, and a mark for the model in the instructions."""
    if scenario.agent_file is not None:
        fields, directory = read_yaml(scenario.agent_file).value, scenario.agent_file.parent
    else:
        fields, directory = parse_yaml(scenario.agent_text).value, scenario.directory
    greeting = fields.get("greeting")
    if isinstance(greeting, dict) and greeting.get("sound"):
        greeting["sound"] = str(directory.resolve() / greeting["sound"])
    for tool in fields.get("tools") or ():
        if str(tool.get("filler", "")).lower().endswith(".wav"):
            tool["filler"] = str(directory.resolve() / tool["filler"])
    instructions = f"{fields.get('instructions', '')}\n{mark_of(part)}"
    fields |= {"name": f"{fields.get('name', 'agent')}-{part}", "numbers": [dials], "instructions": instructions}
    return write_yaml(fields)


def _path_of(path: Path) -> Path:
    """An absolute path, unless it is the name of a bundled scenario."""
    return path.resolve() if os.path.exists(path) else path


def _conditions(plan: LoadPlan, scenarios: Sequence[Scenario], url: str) -> dict[str, str]:
    return {
        "machine": f"{os.cpu_count()} cores, {_cpu_model()}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "gateway": url or "one process; callers and model in further processes of the same machine",
        "calls": ", ".join(scenario.name for scenario in scenarios),
        "held": f"{plan.hold_s:g} s each, reached within {plan.ramp_s:g} s",
        "at": datetime.now().strftime("%Y-%m-%d %H:%M"),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


# -- showing


def show_load(report: LoadReport, console: Console) -> None:
    """The steps as a table, then the answer."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    heads = ("calls", "ended", "failed", "lateness P50", "P99", "frames", "CPU/call", "memory/call", "fds/call")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for step in sorted(report.steps, key=lambda step: step.calls):
        table.add_row(
            f"{'[green]✓' if step.ok else '[red]✗'}[/] {step.calls}",
            str(step.ended),
            str(step.failed),
            _figure(step.frames.p50_ms, "ms"),
            _figure(step.frames.p99_ms, "ms"),
            str(step.frames.n),
            _figure(step.cpu_ms_per_call_s, "ms/s"),
            _figure(step.memory_kib_per_call, "KiB", 0),
            _figure(step.descriptors_per_call, ""),
        )
    console.print(table)
    console.print()
    console.print(f"[bold]highest number of calls carried: {report.highest_good}[/]")
    if report.first_failed is not None:
        console.print(f"first that failed: {report.first_failed}: {'; '.join(report.reasons)}")
    if report.unseen:
        console.print(
            f"[dim]{len(report.unseen)} expectations not seen from outside: they need this project's gateway[/]"
        )
    for gauge, left in report.left.items():
        console.print(f"[red]{gauge} is {left:g} although no call is left[/]")
    for name, value in report.conditions.items():
        console.print(f"[dim]{name:8} {value}[/]")


def _figure(value: float | None, unit: str, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f} {unit}".strip()
