"""What a watched console costs the calls: CPU of a snapshot, and how long it holds the event loop at a time.

    python -m tests.bench.bench_console [--calls N]

First a snapshot by itself: 100 calls in progress, 1,000 ended ones, every segment with an hour of samples, which is
more than one process will see. Then a gateway process under N simulated calls, in turn unwatched and watched by ten:
its CPU, and how late its timers ran (every 250 ms, as the gateway measures it). All figures are of this machine and
this run; callers and model share its cores.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry

from offhook.gateway.labels import LABELS
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import Pause, Say, WaitForAgent
from offhook.gateway.store.memory import MemoryRecords
from offhook.gateway.store.record import CallRecord, ToolRecord, TurnRecord
from offhook.gateway.web.access import Access
from offhook.gateway.web.console import Console, LiveCall
from offhook.gateway.web.limits import Limits
from offhook.metrics.catalogue import Metrics
from offhook.metrics.segments import SEGMENTS
from tests.rig.process import cpu_s, spawn
from tests.rig.sounds import sound

CALLS, ENDED, TURNS = 100, 1_000, 40


def record(sid: str) -> CallRecord:
    """A call of forty turns."""
    segments = {"model_first_event": 400.0, "model_first_audio": 800.0, "output_onset_sent": 10.0, "turn_gap": 850.0}
    turns = [
        TurnRecord(number=i, generation=i, caller_ended_ms=9_000.0 * i, reply_started_ms=1.0, segments=segments)
        for i in range(1, TURNS + 1)
    ]
    tools = [ToolRecord(call_id=str(i), name="find", requested_ms=9_000.0 * i, finished_ms=1.0) for i in range(10)]
    return CallRecord(
        call_sid=sid, caller="+15551234567", started_at="2026-03-01T10:00:00+00:00", turns=turns, tool_calls=tools
    )


def full_console() -> Console:
    """With every segment's windows full."""
    now_s = [0.0]
    metrics = Metrics(CollectorRegistry(), LABELS, clock=lambda: now_s[0])
    chance = random.Random(8)
    for second in range(3_600):
        now_s[0] = 100_000.0 + second
        for segment in SEGMENTS:
            if not segment.rig_only and (segment.per_frame or second % 5 == 0):
                for _ in range(10):
                    metrics.observe(segment, chance.lognormvariate(-1.5, 0.6), (segment.values or ("",))[0])
    live = [LiveCall("speaking", 60_000.0, record(f"live {i}")) for i in range(CALLS)]
    ended = MemoryRecords()
    for i in range(ENDED):
        ended.keep(record(f"ended {i}"))
    return Console(
        Access("", Limits(metrics, time.monotonic), metrics, time.monotonic, insecure=True),
        metrics,
        ended,
        live=lambda: live,
        live_record=lambda sid: None,
        draining=lambda: False,
        about={"version": "bench", "capacity": CALLS, "agents": [], "simulated": True},
    )


def slices_ms(making: Coroutine[Any, Any, bytes]) -> tuple[list[float], int]:
    """Each stretch between two times that the loop may turn; bytes of what was made."""
    found = []
    while True:
        begin_s = time.perf_counter()
        try:
            making.send(None)
        except StopIteration as made:
            found.append((time.perf_counter() - begin_s) * 1000)
            return found, len(made.value)
        found.append((time.perf_counter() - begin_s) * 1000)


def alone() -> None:
    """A snapshot by itself."""

    async def measure() -> None:
        console = full_console()
        print(f"{CALLS} calls of {TURNS} turns, {ENDED} ended, an hour of samples in every segment; best of 20")
        print(f"{'window':8} {'whole ms':>9} {'longest stretch ms':>19} {'bytes':>8}")
        for window in ("1m", "5m", "1h"):
            runs = []
            for _ in range(20):
                console._cached.clear()
                runs.append(slices_ms(console._snapshot(window)))
            whole_ms, longest_ms = min(sum(run) for run, _ in runs), min(max(run) for run, _ in runs)
            print(f"{window:8} {whole_ms:9.2f} {longest_ms:19.2f} {runs[0][1]:8,}")

    asyncio.run(measure())


async def lag(session: aiohttp.ClientSession, url: str) -> list[tuple[float, float]]:
    """(le, cumulative count) of the event loop's lag so far."""
    async with session.get(f"{url}/metrics") as answer:
        text = await answer.text()
    return [(float(le), float(n)) for le, n in re.findall(r'event_loop_lag_seconds_bucket{le="([^"]+)"} (\S+)', text)]


def at_share(before: list[tuple[float, float]], after: list[tuple[float, float]], share: float) -> float:
    """Upper boundary, ms, of the bucket with the percentile of what came between the two."""
    counts = [(le, n - m) for (le, n), (_, m) in zip(after, before, strict=True)]
    return next(le for le, n in counts if n >= share * counts[-1][1]) * 1000


async def watched(url: str, pid: int, calls: int) -> None:
    """Unwatched and watched in turn, three times 15 s each."""
    line = str(sound("caller_hello_i_would"))
    turn = (WaitForAgent("end", timeout_ms=60_000), Pause(300), Say(line))
    placed = [SimulatedCall(url, turn * 30, direct=True) for _ in range(calls)]
    tasks = [asyncio.create_task(call.run()) for call in placed]
    await asyncio.sleep(8)

    async def watch(session: aiohttp.ClientSession) -> None:
        async with session.get(f"{url}/console/events?window=5m") as stream:
            async for _ in stream.content.iter_any():
                pass

    timeout = aiohttp.ClientTimeout(None)
    print(f"{calls} calls     CPU ms per call and s   timers late by: P50 ms   P95 ms   P99 ms")
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=2**20) as session:
        for _ in range(3):
            for watchers in (0, 10):
                watching = [asyncio.create_task(watch(session)) for _ in range(watchers)]
                await asyncio.sleep(1)
                before, cpu_before_s, began_s = await lag(session, url), cpu_s(pid), time.monotonic()
                await asyncio.sleep(15)
                used_s, took_s = cpu_s(pid) - cpu_before_s, time.monotonic() - began_s
                after = await lag(session, url)
                late = "  ".join(f"{at_share(before, after, share):7.1f}" for share in (0.5, 0.95, 0.99))
                print(f"{watchers:2} watch {used_s * 1000 / took_s / calls:20.2f} {'':22} {late}")
                for task in watching:
                    task.cancel()
                await asyncio.gather(*watching, return_exceptions=True)
    for call in placed:
        call.hang_up()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20)
    calls = parser.parse_args().calls
    alone()
    with tempfile.TemporaryDirectory() as folder:
        ca, agent = f"{folder}/ca.pem", Path(folder) / "agent.yaml"
        agent.write_text("name: bench\ngreeting: {text: Greet the caller.}\n")
        model, model_url = spawn(["-m", "tests.bench.bench_calls", "--model", ca], dict(os.environ))
        environ = {
            **os.environ,
            "GOOGLE_GEMINI_BASE_URL": model_url,
            "SSL_CERT_FILE": ca,
            "GEMINI_API_KEY": "rehearsal",
            "OFFHOOK_INSECURE": "1",
            "OFFHOOK_PORT": "0",
            "OFFHOOK_AGENT": str(agent),
            "OFFHOOK_LOG_LEVEL": "warning",
            "OPENBLAS_NUM_THREADS": "1",
        }
        process, url = spawn(["-m", "offhook", "serve"], environ)
        try:
            asyncio.run(watched(url, process.pid, calls))
        finally:
            for one in (process, model):
                one.kill()
                one.wait()


if __name__ == "__main__":
    main()
