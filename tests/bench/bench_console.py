"""What a watched console costs the calls: CPU of a snapshot, and how long it holds the event loop at a time.

    python -m tests.bench.bench_console

100 calls in progress, 1,000 ended ones, every segment with an hour of samples: more than one process will see.
All figures are of this machine and this run.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any

from prometheus_client import CollectorRegistry

from gateway.console import Access, Console, LiveCall
from gateway.record import CallRecord, ToolRecord, TurnRecord
from metrics.catalogue import Metrics
from metrics.segments import SEGMENTS

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
    metrics = Metrics(CollectorRegistry(), clock=lambda: now_s[0])
    chance = random.Random(8)
    for second in range(3_600):
        now_s[0] = 100_000.0 + second
        for segment in SEGMENTS:
            if not segment.rig_only and (segment.per_frame or second % 5 == 0):
                for _ in range(10):
                    metrics.observe(segment, chance.lognormvariate(-1.5, 0.6), (segment.values or ("",))[0])
    live = [LiveCall("speaking", 60_000.0, record(f"live {i}")) for i in range(CALLS)]
    ended = OrderedDict((f"ended {i}", record(f"ended {i}")) for i in range(ENDED))
    return Console(
        Access("", metrics),
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


def main() -> None:
    async def measure() -> None:
        console = full_console()
        print(f"{CALLS} calls of {TURNS} turns, {ENDED} ended, an hour of samples in every segment; best of 20")
        print(f"{'window':8} {'whole ms':>9} {'longest stretch ms':>19} {'bytes':>8}")
        for window in ("1m", "5m", "1h"):
            runs = []
            for _ in range(20):
                console._made.clear()
                runs.append(slices_ms(console._snapshot(window)))
            whole_ms, longest_ms = min(sum(run) for run, _ in runs), min(max(run) for run, _ in runs)
            print(f"{window:8} {whole_ms:9.2f} {longest_ms:19.2f} {runs[0][1]:8,}")

    asyncio.run(measure())


if __name__ == "__main__":
    main()
