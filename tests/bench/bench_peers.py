"""Offhook beside its peers, on the same calls: what a call costs, what is added to a response, and what callers hear.

Each runs as a process of its own, in turn, with the rehearsal's callers and model in this one: the bare relay and
google-genai's own calls of `bench_calls`, this gateway, and Pipecat in its own environment, in the shape that its
generator gives a bot for Gemini Live and Twilio. Every call has turns in which the caller waits for the end of the
reply, and others in which the caller speaks over it.

- up: a frame on the carrier's clock -> its audio at the model, for every frame. The relay sends no caller's audio.
- down: the model's first audio of a reply -> the carrier's first message of it.
- silence: the caller's first sound over the agent -> the agent is silent at the carrier.
- gap: the longest hole inside a reply; unheard: what callers did not hear of the replies that the model completed.

    python -m tests.bench.bench_peers [--calls 20] [--seconds 45] [--peers PYTHON]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from math import inf
from pathlib import Path

from offhook.gateway.rehearsal.model.reached import model_environ
from offhook.gateway.rehearsal.model.record import SessionRecord
from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.outside import OtherGateway, OtherModel, rehearse_outside, target_of
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import Pause, Say, SayOver, WaitForAgent
from offhook.gateway.rehearsal.phone.truth import CallTruth
from offhook.gateway.rehearsal.results.measured import aligned, call_report
from offhook.gateway.rehearsal.results.report import LINE_SEGMENTS, CallReport, Report, report_of
from offhook.gateway.rehearsal.scenario.load import load_scenario
from offhook.metrics.quantiles import exact
from tests.rig.process import cpu_s, rss_mib
from tests.rig.sounds import sound

BOT = Path(__file__).parent / "peers" / "pipecat_bot.py"
# Of the bundled ones, those about any agent with this tool.
SCENARIOS = ("tool", "barge-in-model", "barge-in-stop", "line-bunched", "keys", "line-jitter")
AGENT = """
name: bench
greeting: {text: Greet the caller.}
tools: [{function: "tests.bench.peers.tables:find_table"}]
"""
PLACED_EVERY_S = 0.137  # no whole number of frames
SETTLE_S = 5.0  # after the last call was placed
ANSWER_S = 1.0  # in which an interruption silences the agent, if at all


@dataclass(frozen=True, slots=True)
class Side:
    """A program under test. `entry`: the path of its webhook, or of its media socket."""

    name: str
    command: tuple[str, ...]
    entry: str
    direct: bool
    hears_interruptions: bool = True


@dataclass(slots=True)
class Figures:
    """Milliseconds, but for `cpu_ms` per call-second and `memory_mib` per call."""

    cpu_ms: float = 0.0
    memory_mib: float = 0.0
    up: list[float] = field(default_factory=list)
    down: list[float] = field(default_factory=list)
    silence: list[float] = field(default_factory=list)
    missed: int = 0  # interruptions that silenced nobody
    gaps: list[float] = field(default_factory=list)
    unheard: list[float] = field(default_factory=list)


def sides(peers: Path) -> list[Side]:
    here = sys.executable
    return [
        Side("bare relay", (here, "-m", "tests.bench.bench_calls", "--relay"), "/twilio/media", True, False),
        Side("google-genai's calls", (here, "-m", "tests.bench.bench_calls", "--sdk"), "/twilio/media", True, False),
        Side(f"Offhook {version('offhook')}", (here, "-m", "offhook", "serve"), "/twilio/voice", False),
        Side(f"Pipecat {version_of(peers, 'pipecat-ai')}", (str(peers), str(BOT)), "/", False),
    ]


def version_of(python: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@asynccontextmanager
async def running(side: Side, model: ModelServer) -> AsyncIterator[tuple[int, OtherGateway]]:
    """The process of a side, which reaches this model, and its address."""
    with tempfile.TemporaryDirectory() as folder:
        agent = Path(folder) / "agent.yaml"
        agent.write_text(AGENT)
        environ = {
            **os.environ,
            **model_environ(model),
            "PYTHONPATH": str(Path.cwd()),
            "OFFHOOK_INSECURE": "1",
            "OFFHOOK_PORT": "0",
            "OFFHOOK_AGENT": str(agent),
            "OFFHOOK_LOG_LEVEL": "error",
            "OPENBLAS_NUM_THREADS": "1",
            "LOG_LEVEL": "ERROR",
        }
        process = await asyncio.create_subprocess_exec(
            *side.command, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            assert process.stdout is not None
            url = (await process.stdout.readline()).decode().strip().rpartition(" ")[2]
            entry = (url.replace("http", "ws", 1) if side.direct else url) + side.entry
            yield process.pid, target_of(entry, "", "", [])
        finally:
            process.kill()
            await process.wait()


async def measure(side: Side, calls: int, seconds: float) -> Figures:
    path, line = sound("agent_of_course"), str(sound("caller_hello_i_would"))
    script = Script((Reply("text", (Speak("hello", path),)),), default=Reply("caller", (Speak("of course", path),)))
    talk = (WaitForAgent("end", timeout_ms=60_000), Pause(300), Say(line), SayOver(line, after_ms=900))
    async with ModelServer(script) as model, running(side, model) as (pid, gateway):
        placed = [
            SimulatedCall(
                gateway.url,
                talk * 60,
                entry=gateway.url,
                public_url=gateway.public_url,
                carrier=Carrier(status_callbacks=False),
            )
            for _ in range(calls)
        ]
        return await _figures(side, placed, model, pid, seconds)


async def simulated(side: Side, repeats: int) -> Report:
    """The scenarios, one call at a time, as `offhook simulate --url` plays them."""
    clock = asyncio.get_running_loop().time
    model = OtherModel()
    calls: list[CallReport] = []
    with tempfile.TemporaryDirectory() as folder:
        async with ModelServer(model.script_of) as model.server, running(side, model.server) as (_, gateway):
            for name in SCENARIOS * repeats:
                scenario = load_scenario(name)
                report = await rehearse_outside(scenario, gateway, model, Path(folder), seed=len(calls), clock=clock)
                calls += report.calls
    return report_of(calls)


async def _figures(side: Side, placed: list[SimulatedCall], model: ModelServer, pid: int, seconds: float) -> Figures:
    figures = Figures()
    empty_mib = rss_mib(pid)
    tasks = []
    for call in placed:
        tasks.append(asyncio.create_task(call.run()))
        await asyncio.sleep(PLACED_EVERY_S)
    await asyncio.sleep(SETTLE_S)
    clock = asyncio.get_running_loop().time
    began_s, cpu_began_s = clock(), cpu_s(pid)
    await asyncio.sleep(seconds)
    figures.cpu_ms = 1000 * (cpu_s(pid) - cpu_began_s) / (clock() - began_s) / len(placed)
    figures.memory_mib = (rss_mib(pid) - empty_mib) / len(placed)
    for call in placed:
        call.hang_up()
    truths = await asyncio.gather(*tasks)
    sessions = sorted(model.sessions, key=lambda session: session.opened_at_s)
    if len(sessions) != len(truths):
        raise SystemExit(f"{side.name}: {len(sessions)} model sessions for {len(truths)} calls")
    for truth, session in zip(truths, sessions, strict=True):
        _add(figures, side, truth, session)
    return figures


def _add(figures: Figures, side: Side, truth: CallTruth, session: SessionRecord) -> None:
    offset = aligned(truth, session)
    if offset is not None:
        samples = session.audio_rate_hz // 8_000 * 2  # bytes of a sample of the line
        for at_s, received in session.audio_arrivals:
            sent_s = truth.began_s + (received / samples + offset) / 8_000
            figures.up.append(1000 * (at_s - sent_s))
    line = call_report(truth, None, session, by_marks=False).line
    figures.gaps += [reply.longest_gap_ms for reply in line.replies]
    if side.hears_interruptions:
        for spoken, barge_in in zip((u for u in truth.spoken if u.over_agent), line.barge_ins, strict=True):
            if barge_in.onset_to_silence_ms is not None:
                figures.silence.append(barge_in.onset_to_silence_ms)
            elif spoken.end_s + ANSWER_S < truth.ended_s:
                figures.missed += 1
    began_s = [reply.first_audio_at_s for reply in session.replies if reply.first_audio_at_s is not None]
    for reply in session.replies:
        if (first_s := reply.first_audio_at_s) is None:
            continue
        until_s = min((s for s in began_s if s > first_s), default=inf)
        arrived = [media for media in truth.media if first_s <= media.at_s < until_s]
        if not arrived:
            continue
        figures.down.append(1000 * (arrived[0].at_s - first_s))
        cut = any(first_s < clear.at_s < until_s for clear in truth.clears) or until_s == inf
        if reply.ended == "complete" and not cut:
            first, last = arrived[0].position, arrived[-1].position + arrived[-1].samples
            heard = sum(max(0, min(last, r.position + r.samples) - max(first, r.position)) for r in truth.played)
            figures.unheard.append(max(0.0, reply.audio_ms - heard / 8))


def of(values: list[float], *which: str) -> str:
    """These percentiles, as a cell of a table; empty where there are too few values for one."""
    quantiles = exact(values)
    return " / ".join("" if (q := getattr(quantiles, w)) is None else f"{q:.1f}" for w in which) if values else ""


def row(name: str, found: Figures) -> str:
    silence = of(found.silence, "p50", "p95") + (f" ({found.missed} missed)" if found.missed else "")
    cells = (
        f"{found.cpu_ms:.1f}",
        of(found.up, "p50", "p95", "p99"),
        of(found.down, "p50", "p95", "p99"),
        silence,
        of(found.gaps, "max"),
        of(found.unheard, "p50", "max"),
        f"{found.memory_mib:.2f}",
    )
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--repeats", type=int, default=4, help="Times each scenario is played.")
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers/bin/python"))
    parser.add_argument("--json", type=Path, help="Write the samples to this file.")
    arguments = parser.parse_args()
    if not arguments.peers.exists():
        raise SystemExit(f"{arguments.peers} is not there: `make bench-peers` makes it")
    print(
        f"{datetime.now(UTC):%d %B %Y}; {arguments.calls} calls for {arguments.seconds:g} s each; "
        f"{os.cpu_count()} processors; Python {platform.python_version()}; google-genai {version('google-genai')} "
        f"here, {version_of(arguments.peers, 'google-genai')} in Pipecat's environment"
    )
    print(
        "| | CPU, ms per call-second | up, ms: P50 / P95 / P99 | down, ms: P50 / P95 / P99 | "
        "silence, ms: P50 / P95 | longest gap, ms | unheard, ms: P50 / max | memory, MiB per call |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    samples = {}
    for side in sides(arguments.peers):
        found = asyncio.run(measure(side, arguments.calls, arguments.seconds))
        print(row(side.name, found), flush=True)
        samples[side.name] = {name: getattr(found, name) for name in Figures.__slots__}
    if arguments.json:
        arguments.json.write_text(json.dumps(samples))
    gateways = [side for side in sides(arguments.peers) if side.hears_interruptions]
    reports = {side.name: asyncio.run(simulated(side, arguments.repeats)) for side in gateways}
    print(f"\nScenarios {', '.join(SCENARIOS)}, {arguments.repeats} times each, one call at a time")
    print("| | " + " | ".join(reports) + " |\n|---|" + "---:|" * len(reports))
    passed = (f"{r.totals.calls - r.totals.failed} of {r.totals.calls}" for r in reports.values())
    print("| calls that met what can be seen | " + " | ".join(passed) + " |")
    for name in LINE_SEGMENTS:
        cells = []
        for report in reports.values():
            quantiles = report.totals.segments.get(name)
            figures = (quantiles.p50_ms, quantiles.p95_ms, quantiles.max_ms) if quantiles else ()
            cells.append(" / ".join("" if ms is None else f"{ms:.0f}" for ms in figures))
        print(f"| {name}, ms: P50 / P95 / max | " + " | ".join(cells) + " |")
    for gateway, report in reports.items():
        for call in report.calls:
            for verdict in call.verdicts:
                if verdict.failed:
                    print(f"{gateway}, {call.scenario}: {verdict.words}")


if __name__ == "__main__":
    main()
