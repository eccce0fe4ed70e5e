"""What a scrape every second does to the frames of the calls in progress.

Frame lateness: from the carrier handing a frame to its socket until the model has it, both in this process, the
gateway a process of its own between. Stretches with and without scrapes take turns within the same calls, so that
whatever else the machine does falls on both.

    python -m tests.bench.bench_scrape [--calls N] [--pairs N] [--seconds S]
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import secrets
import statistics
import tempfile
import time
from math import nan
from pathlib import Path

import aiohttp
import uvloop

from offhook.gateway.rehearsal.account import CONSOLE_TOKEN
from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.steps import Pause, Say, WaitForAgent
from offhook.gateway.rehearsal.run import PUBLIC_URL, gateway_process
from offhook.metrics.quantiles import Summary, exact
from tests.truth import AGENT, FRAME_AT_MODEL, Watched, buzz, sid_of, words


async def scrape(url: str, every_s: float, took_s: list[float]) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {CONSOLE_TOKEN}"}) as session:
        while True:
            began_s = time.monotonic()
            async with session.get(f"{url}/metrics") as response:
                await response.read()
            took_s.append(time.monotonic() - began_s)
            await asyncio.sleep(max(0.0, began_s + every_s - time.monotonic()))


async def measure(calls: int, pairs: int, seconds: float, folder: Path) -> None:
    (folder / "agent.yaml").write_text(AGENT)
    yes = Speak("Yes.", buzz(folder, 0), delay_ms=300, transcript="none")
    script = Script(default=Reply("caller", (yes,)))
    token = secrets.token_hex(16)
    async with (
        ModelServer(script) as model,
        gateway_process(
            folder / "agent.yaml",
            model,
            auth_token=token,
            log=folder / "log",
            environment={"OFFHOOK_MAX_CALLS": "200", "OFFHOOK_LOG_LEVEL": "error"},
        ) as url,
    ):
        line = str(words(folder))
        steps = (Pause(600), *((Say(line), WaitForAgent("end", timeout_ms=60_000), Pause(400)) * 100))
        flat = tuple(step for part in steps for step in (part if isinstance(part, tuple) else (part,)))
        placed = [Watched(url, flat, seed=i, public_url=PUBLIC_URL, auth_token=token) for i in range(calls)]
        tasks = []
        for call in placed:
            tasks.append(asyncio.create_task(call.run()))
            await asyncio.sleep(0.053)
        await asyncio.sleep(3)
        stretches: list[tuple[float, float, bool]] = []
        took_s: list[float] = []
        for index in range(2 * pairs):
            on = index % 4 in (1, 2)  # off on on off: a drift falls on both alike
            began_s = time.monotonic()
            scraping = asyncio.create_task(scrape(url, 1.0, took_s)) if on else None
            await asyncio.sleep(seconds)
            if scraping is not None:
                scraping.cancel()
                (ended,) = await asyncio.gather(scraping, return_exceptions=True)
                if not isinstance(ended, asyncio.CancelledError):
                    raise SystemExit(f"a scrape failed: {ended!r}")
            stretches.append((began_s, time.monotonic(), on))
        alive = sum(not task.done() for task in tasks)
        for call in placed:
            call.hang_up()
        await asyncio.gather(*tasks)
    sessions = {sid_of(session.setup): session for session in model.sessions if session.setup}
    frames: list[tuple[float, float]] = []  # sent, late
    for call in placed:
        if call.call_sid not in sessions:
            continue
        arrivals = sessions[call.call_sid].audio_arrivals
        ends = [end for _, end in arrivals]
        for number, sent_s in enumerate(call.sent_s.values(), 1):
            index = bisect.bisect_left(ends, number * FRAME_AT_MODEL)
            if index < len(ends):
                frames.append((sent_s, arrivals[index][0] - sent_s))
    middle_ms = statistics.median(took_s) * 1e3 if took_s else float("nan")
    print(f"{alive} of {calls} calls to the end, {len(sessions)} sessions")
    print(f"{len(took_s)} scrapes of {middle_ms:.1f} ms (median)")
    whole: dict[bool, list[float]] = {False: [], True: []}
    each: dict[bool, list[float]] = {False: [], True: []}
    for began_s, ended_s, on in stretches:
        late_s = [late for sent, late in frames if began_s <= sent < ended_s]
        found = exact(late_s)
        each[on].append(nan if found.p99 is None else found.p99)
        whole[on] += late_s
        print(f"  {'scraped' if on else 'not':8} {found.count:7} frames  {percentiles(found)}")
    for on, name in ((False, "not scraped"), (True, "scraped every second")):
        print(f"{name:21} {percentiles(exact(whole[on]))}")
    change_s = statistics.median(each[True]) - statistics.median(each[False])
    print(f"P99 of a stretch, median: {change_s * 1e3:+.2f} ms by scraping")


def percentiles(found: Summary) -> str:
    named = {"P50": found.p50, "P95": found.p95, "P99": found.p99}
    return "  ".join(f"{name} {'(few)' if q is None else f'{q * 1e3:.2f}':>6}" for name, q in named.items()) + " ms"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=8.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        uvloop.run(measure(asked.calls, asked.pairs, asked.seconds, Path(name)))
