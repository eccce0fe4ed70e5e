"""`offhook simulate` and `offhook rehearsal-model`: rehearsals from the command line."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import msgspec
from rich.console import Console
from rich.markup import escape

from offhook.gateway.errors import OperatorError
from offhook.gateway.files import write_whole
from offhook.gateway.rehearsal.cluster import run as cluster
from offhook.gateway.rehearsal.faults.cases import CASES
from offhook.gateway.rehearsal.faults.outside import faults_outside
from offhook.gateway.rehearsal.faults.run import chosen
from offhook.gateway.rehearsal.faults.run import faults as run_faults
from offhook.gateway.rehearsal.load.search import LoadPlan, show_load
from offhook.gateway.rehearsal.load.search import load as run_load
from offhook.gateway.rehearsal.model.script import Script, SendGoAway, read_script, script_from
from offhook.gateway.rehearsal.model.server import serve
from offhook.gateway.rehearsal.outside import OtherGateway, model_at, rehearse_outside
from offhook.gateway.rehearsal.results.baseline import (
    Comparison,
    compare,
    facts_of,
    read_baseline,
    show_comparison,
)
from offhook.gateway.rehearsal.results.page import write_page
from offhook.gateway.rehearsal.results.report import Report, report_of, write_report
from offhook.gateway.rehearsal.results.runs import ScenarioRuns, runs_needed
from offhook.gateway.rehearsal.results.tables import show, show_totals
from offhook.gateway.rehearsal.run import MODEL, TELEPHONE, GatewayFailed, environment_without, run_scenario, tail_of
from offhook.gateway.rehearsal.scenario.load import SCENARIOS, Scenario, load_scenario, scenario_file
from offhook.gateway.rehearsal.scenario.voices import voices_named
from offhook.gateway.rehearsal.thinking.party import check_models

__all__ = ["Outside", "cluster_faults", "faults", "load", "rehearsal_model", "simulate"]


@dataclass(frozen=True, slots=True)
class Outside:
    """Another gateway to rehearse, and where the rehearsal model listens for it, with a certificate in `model_ca`."""

    gateway: OtherGateway
    model_at: str = ""
    model_ca: Path | None = None


WITHOUT_COMPUTING = "The clock was stopped during computation: latencies do not include it."


async def simulate(
    files: Sequence[Path],
    out: Path,
    *,
    parallel: int = 4,
    repeat: int = 1,
    seed: int | None = None,
    speed: float = 1.0,
    json_path: Path | None = None,
    junit: Path | None = None,
    details: bool = False,
    baseline: Path | None = None,
    provider: str = "",
    voice: str = "",
    outside: Outside | None = None,
    real: bool = False,
) -> bool:
    """Rehearse these scenarios (by default all bundled ones); returns whether all expectations were met.

    With `baseline`, an earlier run's `json_path`, also whether nothing is worse than it was then.

    Each runs against its own gateway process, `parallel` at once. Each prints a line as it ends, and its failed
    expectations; results are in `out/<name>/` and on the page `out/index.html`. The last line has the counts. `seed`:
    that of the first of `repeat` runs; each further run adds 1. `speed` above 1: each scenario runs in one process
    with its gateway, on the quick clock. `provider`: that of every agent's model, instead of the agent file's.
    `voice` speaks instead of the scenarios' own. `outside`: the calls go to another gateway, one after the other.
    `real`: agents, and callers who think with their judges, are the models that the environment has keys for.
    """
    os.environ["NO_PROXY"] = environment_without(())["NO_PROXY"]  # a caller who thinks has its model in this process
    gateway = None if outside is None else outside.gateway
    environment = {"OFFHOOK_PROVIDER": provider} if provider else {}
    console = Console(highlight=False, soft_wrap=True)
    paths = [*files] or sorted(SCENARIOS.glob("*.call.yaml"))
    voices = voices_named(voice)
    scenarios = [load_scenario(path, voices) for path in paths]
    if provider == "openai" and not files:
        kept = [i for i, scenario in enumerate(scenarios) if not _of_one_protocol(scenario.script())]
        paths, scenarios = [paths[i] for i in kept], [scenarios[i] for i in kept]
    names = [scenario.name for scenario in scenarios]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise OperatorError(f"several scenarios are named {', '.join(twice)}: their results would overwrite each other")
    for scenario in scenarios:
        check_models(scenario, real=real)
    needed = [runs_needed(scenario.runs, scenario.must_pass, repeat) for scenario in scenarios]
    counts = {
        name: ScenarioRuns(scenario=name, runs=times, must_pass=must)
        for name, (times, must) in zip(names, needed, strict=True)
    }
    runs = [
        (path, scenario, n)
        for path, scenario in zip(paths, scenarios, strict=True)
        for n in range(counts[scenario.name].runs)
    ]
    earlier = None if baseline is None else await asyncio.to_thread(read_baseline, baseline)
    sources = dict(zip(names, map(scenario_file, paths), strict=True))
    facts = await asyncio.to_thread(
        facts_of, sources, seed=seed, repeat=repeat, speed=speed, provider=provider, voice=voice, real=real
    )
    slots = asyncio.Semaphore(parallel if gateway is None else 1)
    reports: list[tuple[str, Report]] = []
    running: list[str] = []
    status = console.status("") if console.is_terminal else None

    def progress() -> None:
        if status is not None:
            status.update(f"{len(reports)} of {len(runs)} done; running: {', '.join(running)}"[: console.width - 4])

    async def one(path: Path, scenario: Scenario, number: int) -> None:
        count = counts[scenario.name]
        name = scenario.name if count.runs == 1 else f"{scenario.name}-{number + 1}"
        async with slots:
            running.append(name)
            progress()
            try:
                run_seed = None if seed is None else seed + number
                if gateway is not None:
                    report = await rehearse_outside(
                        scenario, gateway, model, out / name, seed=run_seed, real_caller=real, clock=time.monotonic
                    )
                elif speed > 1:
                    report = await _quickly(path, out / name, speed, run_seed, voice, environment)
                else:
                    report = await run_scenario(
                        scenario,
                        out / name,
                        seed=run_seed,
                        environment=environment,
                        real_model=real,
                        clock=time.monotonic,
                    )
            except GatewayFailed as error:
                raise OperatorError(f"{name}: {error}") from None
            running.remove(name)
        reports.append((name, report))
        count.passed += report.ok
        progress()
        console.print(f"{'[green]✓' if report.ok else '[red]✗'}[/] {name}  [dim]{escape(scenario.about)}[/]")
        for words in _failures(report):
            console.print(f"    [red]{escape(words)}[/]")
        if details or not report.ok:
            show(report, console)

    async with AsyncExitStack() as stack:
        stack.enter_context(status or nullcontext())
        model = None
        if outside is not None and outside.model_at:
            model = await stack.enter_async_context(model_at(outside.model_at, outside.model_ca, time.monotonic))
        await asyncio.gather(*(one(*run) for run in runs))
    whole = report_of([c for _, r in reports for c in r.calls])
    whole.run, whole.scenarios = facts, list(counts.values())
    if speed > 1:
        whole.note = f"{WITHOUT_COMPUTING} {whole.note}"
    compared = None
    if baseline is not None and earlier is not None:
        compared = await asyncio.to_thread(compare, baseline, earlier, whole)
    page = out / "index.html"
    await asyncio.to_thread(write_page, reports, whole, page, compared)
    if json_path is not None:
        await asyncio.to_thread(write_report, whole, json_path)
    if junit is not None:
        await asyncio.to_thread(_write_junit, reports, counts, compared, junit)
    if len(reports) > 1:
        show_totals(whole, console)
    if unseen := sum(not v.seen for _, r in reports for call in r.calls for v in call.verdicts):
        console.print(f"[dim]{unseen} expectations not seen from outside: they need this project's gateway[/]")
    if speed > 1:
        console.print(f"[dim]{WITHOUT_COMPUTING}[/]")
    if compared is not None:
        show_comparison(compared, console)
    for scenario in scenarios:
        count = counts[scenario.name]
        if scenario.runs > 1 or 0 < count.passed < count.runs:
            console.print(f"{'[green]✓' if count.ok else '[red]✗'}[/] {escape(scenario.name)}: {count.words}")
    console.print(f"[dim]recordings and pictures: {page}[/]")
    if len(reports) > 1:  # again, below everything: a log is read from its end
        for name, report in reports:
            if not report.ok:
                console.print(f"[red]✗[/] {escape(name)}: {escape('; '.join(_failures(report)))}")
    passed, tolerated = sum(c.passed for c in counts.values()), sum(c.tolerated for c in counts.values())
    failed = len(reports) - passed - tolerated
    console.print(f"{passed} passed, {failed} failed" + (f", {tolerated} tolerated" if tolerated else ""))
    return not failed and (compared is None or compared.ok)


def _failures(report: Report) -> list[str]:
    """What was expected and did not happen, of all calls."""
    return [verdict.words for call in report.calls for verdict in call.verdicts if verdict.failed]


def _of_one_protocol(script: Script) -> bool:
    """Whether the scenario is about resumption handles or the notice before a session's end, which OpenAI lacks."""
    parts = [part.do for part in script.replies] + [fault.do for fault in script.faults]
    actions = [action for part in parts for action in part]
    return bool(script.refuse_resumes) or any(isinstance(action, SendGoAway) for action in actions)


async def _quickly(
    path: Path,
    folder: Path,
    speed: float,
    seed: int | None,
    voice: str,
    environment: Mapping[str, str],
) -> Report:
    """Run a scenario and its gateway in one process. Raises `GatewayFailed`."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    arguments = [str(path), str(folder), str(speed), voice, *([] if seed is None else [str(seed)])]
    log = folder / "gateway.log"
    with log.open("wb") as log_file:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "offhook.gateway.cli.quickly",
            *arguments,
            env=environment_without(TELEPHONE + MODEL)
            | dict(environment),  # for libraries that read the process's own environment
            stdin=asyncio.subprocess.DEVNULL,
            stderr=log_file,
        )
    try:
        failed = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if failed:
        raise GatewayFailed(tail_of(log) or "its log is empty")
    return msgspec.json.decode(await asyncio.to_thread((folder / "report.json").read_bytes), type=Report)


def _write_junit(
    reports: Sequence[tuple[str, Report]],
    counts: Mapping[str, ScenarioRuns],
    compared: Comparison | None,
    path: Path,
) -> None:
    """One test case per run. A run that failed although enough of its scenario's passed is skipped, with the reason."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suite = ElementTree.Element("testsuite", name="offhook simulate")
    failures = skipped = 0
    for name, report in reports:
        seconds = sum(call.record.duration_ms for call in report.calls if call.record) / 1000
        case = ElementTree.SubElement(suite, "testcase", classname="offhook", name=name, time=f"{seconds:.3f}")
        count = counts[report.calls[0].scenario]
        failed = [v.words for call in report.calls for v in call.verdicts if v.failed]
        unseen = [v.words for call in report.calls for v in call.verdicts if not v.seen]
        judged = [
            v.words for call in report.calls if call.thinking for v in call.verdicts if v.expectation == "success"
        ]
        if failed and count.ok:
            skipped += 1
            ElementTree.SubElement(case, "skipped", message=f"tolerated, {count.words}: {failed[0]}")
        elif failed:
            failures += 1
            ElementTree.SubElement(case, "failure", message=failed[0]).text = "\n".join(failed)
        if lines := [*unseen, *judged]:
            ElementTree.SubElement(case, "system-out").text = "\n".join(lines)
    if compared is not None:
        case = ElementTree.SubElement(suite, "testcase", classname="offhook", name="baseline", time="0")
        if not compared.ok:
            failures += 1
            failure = ElementTree.SubElement(case, "failure", message=compared.failures[0])
            failure.text = "\n".join(compared.failures)
    for name, number in (("tests", len(suite)), ("failures", failures), ("skipped", skipped)):
        suite.set(name, str(number))
    write_whole(path, ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))


async def load(files: Sequence[Path], out: Path, plan: LoadPlan, url: str = "", outside: Outside | None = None) -> bool:
    """Find how many calls a gateway carries: tables, `out/load.json`, `out/load.png`.

    Whether it carried any, and released all.
    """
    clock = time.monotonic
    if outside is None:
        report = await run_load(files, out, plan, url=url, clock=clock)
    else:
        there, address, ca = outside.gateway, outside.model_at, outside.model_ca
        report = await run_load(files, out, plan, clock=clock, outside=there, model_at=address, model_ca=ca)
    from offhook.gateway.rehearsal.load.picture import draw_load  # matplotlib, once no call is measured any more

    await asyncio.to_thread(draw_load, report, out / "load.png")
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, 130)
    show_load(report, console)
    console.print(f"[dim]files    {out / 'load.json'}, {out / 'load.png'}[/]")
    return report.highest_good > 0 and not report.left


async def faults(
    numbers: Sequence[int], *, quick: bool, parallel: int, json_path: Path | None, outside: Outside | None = None
) -> bool:
    """Run the fault cases, a line for each; the last line has the counts. Returns whether all passed.

    `outside`: of another gateway those that can be caused from outside, one after the other.
    """
    console = Console(highlight=False, soft_wrap=True)
    cases, clock = chosen(CASES, numbers, quick), time.monotonic
    if outside is None:
        report = await run_faults(cases, parallel=parallel, console=console, clock=clock)
    else:
        async with AsyncExitStack() as stack:
            model = None
            if outside.model_at:
                model = await stack.enter_async_context(model_at(outside.model_at, outside.model_ca, clock))
            report = await faults_outside(cases, outside.gateway, model, console=console, clock=clock)
    if json_path is not None:
        body = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
        await asyncio.to_thread(write_whole, json_path, body)
    run = [case for case in report.cases if not case.skipped]
    good, calls = sum(case.ok for case in run), sum(case.calls for case in run)
    skipped = f", {len(report.cases) - len(run)} not possible" if len(run) < len(report.cases) else ""
    console.print(f"{good} of {len(run)} cases good, {calls} calls{skipped}")
    return report.ok and bool(run)


async def cluster_faults(numbers: Sequence[int], *, quick: bool, seed: int, calls: int, json_path: Path | None) -> bool:
    """Run the fault cases of a fleet, lines for each; the last line has the counts. Returns whether all passed."""
    console = Console(highlight=False, soft_wrap=True)
    plan = cluster.Plan(seed=seed, calls=calls)
    fleets = cluster.QUICK_FLEETS if quick else 1
    report = await cluster.faults(cluster.chosen(numbers, quick), plan, fleets=fleets, console=console)
    if json_path is not None:
        body = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
        await asyncio.to_thread(write_whole, json_path, body)
    good, moved = sum(case.ok for case in report.cases), sum(case.moved for case in report.cases)
    console.print(
        f"{good} of {len(report.cases)} cases good, {sum(case.calls for case in report.cases)} calls, {moved} moved"
    )
    return report.ok


async def rehearsal_model(
    host: str, port: int, script: Path | None, ca_out: Path | None, provider: str = "", *, tls: bool = True
) -> None:
    """Serve the rehearsal model alone until cancelled. `script`: JSON or a scenario's YAML with a `model` part.

    `provider`: whose clients the printed URL is for; the server speaks to all of them.
    """
    if script is None:
        loaded = script_from({"default": {"say": "Hello. This is the rehearsal model."}})
    elif script.suffix == ".json":
        loaded = await asyncio.to_thread(read_script, script)
    else:
        loaded = load_scenario(script).script()
    assert isinstance(loaded, Script)
    path = "/v1" if provider == "openai" else ""
    await serve(host, port, loaded, ca_out, path=path, tls=tls, clock=time.monotonic)
