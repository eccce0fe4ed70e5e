"""Many calls on one core: the gateway on the machine's first, callers and model on its second.

    python -m tests.bench.bench_one_core [CALLS ...] [--seconds S]

What is added to a response, gaps, interruptions that silenced nobody, and how much of each core was used. The caller's
frames are timed from when they were due, so that the lateness of callers and model is in the figures; `rig` is that
lateness alone, of a timer of 20 ms in their process. Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from itertools import pairwise

from tests.bench.bench_peers import PLACED_EVERY_S, SETTLE_S, Figures, Side, measure, of

GATEWAY = Side("Offhook", ("taskset", "-c", "0", sys.executable, "-m", "offhook", "serve"), "/twilio/voice", False)
FRAME_S = 0.02


async def beside(calls: int, seconds: float) -> tuple[Figures, list[float], float]:
    """The figures, the rig's lateness in ms, and the share of its core that the rig used."""
    times: list[float] = []

    async def tick() -> None:
        while True:
            times.append(time.monotonic())
            await asyncio.sleep(FRAME_S)

    ticking = asyncio.create_task(tick())
    began_s, cpu_began_s = time.monotonic(), time.process_time()
    found = await measure(GATEWAY, calls, seconds)
    share = (time.process_time() - cpu_began_s) / (time.monotonic() - began_s)
    ticking.cancel()
    until_s = began_s + calls * PLACED_EVERY_S + SETTLE_S + seconds  # what follows compares what was recorded
    return found, [1000 * (b - a - FRAME_S) for a, b in pairwise(times) if b < until_s], share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("calls", nargs="*", type=int, default=[75, 100, 150])
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {1})
    os.environ["OFFHOOK_MAX_CALLS"] = "1000"
    print(
        "| calls | gateway's core | rig's core | up, ms: P50 / P95 / P99 | down, ms: P50 / P95 / P99 |"
        " rig, ms: P95 / P99 | longest gap, ms | missed interruptions |\n|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    for calls in arguments.calls:
        found, late_ms, share = asyncio.run(beside(calls, arguments.seconds))
        up, down = of(found.up, "p50", "p95", "p99"), of(found.down, "p50", "p95", "p99")
        cells = (
            f"{calls}",
            f"{found.cpu_ms * calls / 10:.0f} %",
            f"{share * 100:.0f} %",
            up,
            down,
            of(late_ms, "p95", "p99"),
            of(found.gaps, "max"),
            f"{found.missed} of {found.missed + len(found.silence)}",
        )
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
