"""A soak: a served gateway under calls with faults for an hour, and what it has left of them.

Callers, rehearsal model and gateway are processes of their own, as in `offhook load`. The calls are bundled scenarios,
among them lines that break, jitter and send rubbish and tools that fail, and some whose model drops its connection,
closes with an error or announces that it goes away. After a short warm-up all calls end; from there on

- every call ends, and none breaks a rule of the protocols or never hears the agent,
- once the last one has ended, no call, task or file descriptor is left beyond those after the warm-up,
- over the last half of the time resident memory grows by less than 10 MB an hour. Records are bounded (1,000) and the
  bound is reached before.

    python -m tests.bench.soak [--calls 20] [--minutes 60]

A sample a minute, and the verdict, are in out/soak.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp
import msgspec
import numpy as np

from offhook.gateway.files import write_whole
from offhook.gateway.rehearsal.load import search
from offhook.gateway.rehearsal.load.scrape import Scrape, scrape
from offhook.gateway.rehearsal.scenario.load import load_scenario
from offhook.gateway.store.memory import MAX_RECORDS

__all__ = ["Soak", "slope_mb_an_hour", "verdict"]

OUT = Path("out/soak.json")
SLOPE_MAX_MB_AN_HOUR = 10.0
SAMPLE_S = 60.0
WARM_UP_S, SETTLE_S = 60.0, 60.0
UNANSWERED_MAX = 100
BUNDLED = (
    "demo", "barge-in-hold", "barge-in-model", "barge-in-twice", "hang-up-in-greeting", "keys", "line-breaks",
    "line-jitter", "line-keeps-breaking", "line-loses-marks", "line-reads-slowly", "line-rubbish", "model-in-crumbs",
    "model-large-message", "tool", "tool-fails", "tool-too-slow", "webhook-twice", "hang-up-in-tool", "noisy-line",
)  # fmt: skip
# Model connections that fail, again in each new session of the call.
MODEL_FAULTS = {
    "model-aborts": "{at_s: 3, do: [abort]}",
    "model-closes": "{at_s: 4, do: [{close: 1011}]}",
    "model-goes-away": "{at_s: 2, do: [{go_away: 2}]}",
    "model-stalls": "{at_s: 3, do: [{stall_ms: 1500}]}",
}
SCENARIO = """
name: {name}
agent: {{name: soaked, greeting: {{text: Greet the caller.}}}}
caller:
  steps:
    - wait_for_agent: {{at: end, timeout_ms: 30000}}
    - say: Uh-huh.
    - pause_ms: 4000
    - say: Uh-huh.
    - pause_ms: 3000
    - hang_up
model:
  replies: [{{on: text, say: Hello., length_ms: 900}}]
  default: {{on: caller, say: Of course., length_ms: 1200}}
  faults: [{fault}]
"""
# In the gateway's process: its number, and on SIGUSR1 the names of its pending tasks.
PROBE = """
import os, signal, sys
if sys.orig_argv[-1:] == ["serve"]:
    def tell(*_):
        import asyncio, json
        names = [task.get_name() for task in asyncio.all_tasks(asyncio.get_running_loop())]
        with open({folder!r} + "/tasks.part", "w") as out:
            json.dump(names, out)
        os.replace({folder!r} + "/tasks.part", {folder!r} + "/tasks")
    signal.signal(signal.SIGUSR1, tell)
    with open({folder!r} + "/pid", "w") as out:
        out.write(str(os.getpid()))
"""


@dataclass
class Sample:
    """The gateway at one moment. `late_ms`: P99 of the callers' own timers, which says how busy the machine was."""

    minute: float
    calls: int
    ended: int
    failed: int
    rss_mb: float
    descriptors: int
    late_ms: float | None
    unanswered: int  # scrapes within 5 s, so far


@dataclass
class Soak:
    """What came of it. `before`, `after`: calls, tasks and descriptors without a call."""

    calls: int
    minutes: float
    date: str
    machine: str
    samples: list[Sample] = field(default_factory=list)
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    tasks_left: dict[str, int] = field(default_factory=dict)
    slope_mb_an_hour: float | None = None
    counted: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    finished: bool = False


def slope_mb_an_hour(samples: Sequence[tuple[float, float]]) -> float | None:
    """The trend (least squares) of (minute, megabytes); None for fewer than three samples."""
    if len(samples) < 3:
        return None
    minutes, megabytes = zip(*samples, strict=True)
    return 60.0 * float(np.polyfit(minutes, megabytes, 1)[0])


def verdict(soak: Soak) -> list[str]:
    """What the soak did not keep."""
    found = []
    ended, failed = sum(s.ended for s in soak.samples), sum(s.failed for s in soak.samples)
    if failed or not ended:
        found.append(f"{failed} of {ended} calls failed")
    for name, before in soak.before.items():
        if (after := soak.after.get(name, before)) > before:
            found.append(f"{name}: {before} before, {after} after")
    if soak.slope_mb_an_hour is not None and soak.slope_mb_an_hour >= SLOPE_MAX_MB_AN_HOUR:
        found.append(f"memory grew by {soak.slope_mb_an_hour:.1f} MB an hour")
    early = sum(sample.ended for sample in soak.samples if sample.minute <= soak.minutes / 2)
    if soak.slope_mb_an_hour is not None and early < MAX_RECORDS:
        found.append(f"{early} calls in the first half: the records still grew, so the slope is no proof")
    return found


async def soak(calls: int, minutes: float) -> Soak:
    """Run it; out/soak.json is written every minute."""
    result = Soak(calls, minutes, time.strftime("%Y-%m-%d %H:%M"), f"{os.cpu_count()} cores, Python {sys.version[:7]}")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="offhook-soak-")))
        (folder / "sitecustomize.py").write_text(PROBE.format(folder=str(folder)))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
        paths = [Path(name) for name in BUNDLED]
        for name, fault in MODEL_FAULTS.items():
            paths.append(folder / f"{name}.call.yaml")
            paths[-1].write_text(SCENARIO.format(name=name, fault=fault))
        scenarios = [load_scenario(path) for path in paths]
        mix, model = await stack.enter_async_context(search._our_gateway(scenarios, paths, folder))
        mix.judged = False  # expectations are of one call at a time; rules and an audible agent are held
        order = folder / "mix.json"
        order.write_bytes(msgspec.json.encode(mix))
        callers = await stack.enter_async_context(search._worker("callers", order))
        await callers.answer()
        http = await stack.enter_async_context(aiohttp.ClientSession())
        gateway = _Gateway(http, mix.url, mix.console_token, folder)

        await callers.order(calls, 10.0)
        await asyncio.sleep(WARM_UP_S)
        await callers.order(0, 0.0)
        result.before, _ = await gateway.idle()
        began_s = time.monotonic()
        await callers.order(calls, 10.0)
        reasons: Counter[str] = Counter()
        while (left_s := began_s + 60 * minutes - time.monotonic()) > 0:
            await asyncio.sleep(min(SAMPLE_S, left_s))
            told = await callers.order(calls, 0.0)
            await model.request(b"")  # it keeps the arrival of every frame until asked
            reasons.update(told.reasons)
            seen = await gateway.look()
            result.samples.append(
                Sample(
                    minute=round((time.monotonic() - began_s) / 60, 2),
                    calls=told.live,
                    ended=told.ended,
                    failed=told.failed,
                    rss_mb=seen.get("process_resident_memory_bytes") / 1e6,
                    descriptors=int(seen.get("process_open_fds")),
                    late_ms=told.clock_p99_ms,
                    unanswered=gateway.unanswered,
                )
            )
            result.reasons = dict(reasons)
            await _write(result)
            await asyncio.to_thread(shutil.copy, folder / "gateway.log", OUT.with_suffix(".log"))
        await callers.order(0, 0.0)
        result.after, names = await gateway.idle()
        result.tasks_left = dict(Counter(names))
        seen = await gateway.look()
        for name in ("offhook_calls_total", "offhook_model_reconnects_total", "offhook_input_errors_total"):
            result.counted |= {k: v for k, v in seen.values.items() if k.partition("{")[0] == name and v}
    late = [(s.minute, s.rss_mb) for s in result.samples if s.minute > minutes / 2]
    result.slope_mb_an_hour = slope_mb_an_hour(late)
    result.faults, result.finished = verdict(result), True
    await _write(result)
    return result


class _Gateway:
    """The gateway's process, from outside."""

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str, folder: Path) -> None:
        self._http, self._url, self._token, self._folder = http, url, token, folder
        self.unanswered = 0

    async def look(self) -> Scrape:
        """Its metrics. A loaded machine may take longer than a scrape may: tried again, and counted."""
        while True:
            try:
                return await scrape(self._http, self._url, time.monotonic, self._token)
            except TimeoutError:
                self.unanswered += 1
                if self.unanswered > UNANSWERED_MAX:
                    raise

    async def idle(self) -> tuple[dict[str, int], list[str]]:
        """Calls, tasks and descriptors once they stand still without a call; the names of the tasks."""
        until_s, last = time.monotonic() + SETTLE_S, {"calls": -1}
        while True:
            await asyncio.sleep(5.0)
            seen = await self.look()
            names = await asyncio.to_thread(self._tasks)
            now = {"calls": int(seen.get("offhook_calls_active")), "tasks": len(names)}
            now["descriptors"] = int(seen.get("process_open_fds"))
            if (now == last and not now["calls"]) or time.monotonic() > until_s:
                return now, names
            last = now

    def _tasks(self) -> list[str]:
        report = self._folder / "tasks"
        with contextlib.suppress(FileNotFoundError):
            report.unlink()
        os.kill(int((self._folder / "pid").read_text()), signal.SIGUSR1)
        for _ in range(200):
            if report.exists():
                return list(json.loads(report.read_text()))
            time.sleep(0.05)
        raise TimeoutError("the gateway does not answer the signal")


async def _write(result: Soak) -> None:
    OUT.parent.mkdir(exist_ok=True)
    await asyncio.to_thread(write_whole, OUT, json.dumps(asdict(result), indent=1).encode() + b"\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60.0)
    arguments = parser.parse_args()
    result = asyncio.run(soak(arguments.calls, arguments.minutes))
    ended = sum(sample.ended for sample in result.samples)
    slope = result.slope_mb_an_hour
    grew = "too short for a slope" if slope is None else f"{slope:+.1f} MB an hour in the last half"
    print(f"{ended} calls in {result.minutes:g} minutes, {arguments.calls} at a time; memory {grew}")
    print(f"before {result.before}, after {result.after}")
    for reason, count in result.reasons.items():
        print(f"  {count:5}  {reason}")
    for fault in result.faults:
        print(f"NOT KEPT: {fault}")
    return bool(result.faults)


if __name__ == "__main__":
    raise SystemExit(main())
