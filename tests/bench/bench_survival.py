"""What a caller loses when a process of the fleet fails: `offhook faults --cluster`, again and again, with figures.

    python -m tests.bench.bench_survival 51 [--calls 24] [--runs 9] [--delay 300] [--away 60]

Three gateways behind HAProxy over Redis and its replica, and `--calls` calls, half of which talk; one fault per run.
The numbers are those of the cases. `--delay`: ms that the carrier takes for each document and each handshake.
`--until`: no run begins later than this many seconds. All processes share this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import msgspec

from offhook.gateway.rehearsal.cluster.run import FleetResult, Plan, chosen, figures, fleet


async def main(args: argparse.Namespace) -> None:
    # A listener must have something to hear while Redis is away: a word takes about half a second.
    plan = Plan(
        calls=args.calls,
        delay_ms=args.delay,
        away_s=args.away,
        goes_on_s=args.goes_on,
        words=60 + round(2.5 * args.away),
    )
    began_s = time.monotonic()
    results: list[FleetResult] = []
    with nullcontext(args.keep) if args.keep else tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        async with fleet(plan, Path(folder)) as whole:
            for number in range(args.runs):
                for case in chosen(args.cases, quick=True):
                    if time.monotonic() - began_s > args.until:
                        break
                    result = await whole.run(case, msgspec.structs.replace(plan, seed=args.seed + number))
                    results.append(result)
                    moved = f"{result.moved} of {result.calls} moved, rig late by {result.late_ms:.0f} ms"
                    print(f"{case.number} seed {result.seed}: {moved}, {result.faults}", flush=True)
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"\nPython {platform.python_version()}, {os.cpu_count()} cores, load {load}; delay {args.delay:.0f} ms")
    for number in args.cases:
        mine = [result for result in results if result.number == number]
        moves = [move for result in mine for move in result.moves]
        calls, lost = sum(result.calls for result in mine), sum(result.lost for result in mine)
        faults = sum(len(result.faults) for result in mine)
        print(f"{number} {chosen([number], quick=False)[0].name}: {len(mine)} runs, {calls} calls, {len(moves)} moves")
        print(f"  {lost} lost, {faults} findings of the checks")
        for line in figures(moves):
            print(f"  {line}")
        if args.delay and moves:
            over = sorted(1000 * move.audio_s - 2 * args.delay for move in moves if move.audio_s is not None)
            print(f"  P95 of the caller's audio over the carrier's delay: {over[round(0.95 * (len(over) - 1))]:.0f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", type=int, nargs="+")
    parser.add_argument("--calls", type=int, default=24)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--away", type=float, default=2.0)
    parser.add_argument("--goes-on", type=float, default=2.0)
    parser.add_argument("--keep", default="", help="an empty folder for the logs, which stay there")
    parser.add_argument("--until", type=float, default=200.0)
    asyncio.run(main(parser.parse_args()))
