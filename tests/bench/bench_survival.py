"""What a caller loses when a gateway is killed.

    python -m tests.bench.bench_survival [--calls 24] [--runs 3] [--delay 0]

Three gateways behind HAProxy over Redis (`--live sqlite`: a file in shared memory) and `--calls` calls in mid-sentence;
one gateway is killed with -9, or by `--fault`: SIGSTOP, SIGTERM. `--delay`: ms that the carrier takes for each document
and each handshake. All processes share this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path

from offhook.gateway.rehearsal.model.server import ModelServer
from tests.rig.cluster import Cluster, cluster
from tests.rig.redis import redis_server
from tests.rig.storm import AGENT, COUNTING, Storm, StormCall, counting_script, owner_of


def shown(name: str, values: list[float]) -> str:
    ordered = sorted(values)
    if not ordered:
        return f"{name:34} none"
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    figures = (ordered[len(ordered) // 2], p95, ordered[-1])
    return f"{name:34} P50 {figures[0]:6.0f}  P95 {figures[1]:6.0f}  max {figures[2]:6.0f} ms  of {len(ordered)}"


async def run(rig: Cluster, model: ModelServer, args: argparse.Namespace) -> list[StormCall]:
    model.sessions.clear()
    storm = Storm(rig, model, args.calls, talk_s=args.talk, delay_ms=args.delay)
    await storm.begin(spread_s=args.spread)
    victim = storm.busiest()
    before = [one for one in storm.calls if owner_of(one.call) == victim]
    await asyncio.sleep(0.5)
    rig.gateways[victim].signal(getattr(signal, args.fault))
    if args.fault == "SIGSTOP":
        await asyncio.sleep(6.0)
        rig.gateways[victim].signal(signal.SIGCONT)
    calls = list((await storm.end()).values())
    if args.fault != "SIGSTOP":
        rig.gateways[victim].end()
        rig.gateways[victim].start()
        await rig.up(rig.gateways[victim])
        await asyncio.sleep(1.5)  # the balancer's checks
    moved = [one for one in calls if one.moved]
    lost = [one for one in calls if one.call.truth.ended_by != "caller"]
    twice = [one for one in calls if len(one.records) != 1]
    repeated = [one for one in moved if not told_well(one)]
    print(
        f"run: {len(before)} of {len(calls)} calls on {victim}; moved {len(moved)}, lost {len(lost)}, resumed "
        f"{sum(one.resumed for one in moved)}, records other than one {len(twice)}, prompts amiss {len(repeated)}",
        flush=True,
    )
    return calls


def told_well(one: StormCall) -> bool:
    """The model was told once what was heard, a beginning of what had been said."""
    told = [text for text in one.told if 'heard: "' in text]
    return len(told) == 1 and COUNTING.startswith(told[0].partition('heard: "')[2].partition('"')[0])


async def main(args: argparse.Namespace) -> None:
    calls: list[StormCall] = []
    environ = {"OFFHOOK_MAX_CALLS": "200", "OFFHOOK_DRAIN_S": "0"}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        live = stack.enter_context(redis_server(folder)).url if args.live == "redis" else f"sqlite:{folder}/live.db"
        async with (
            ModelServer(counting_script()) as model,
            cluster(folder, AGENT, model, live, environ=environ) as rig,
        ):
            for _ in range(args.runs):
                calls += await run(rig, model, args)
    moved = [one for one in calls if one.moved]
    print(f"\n{args.fault}, {args.live}, Python {platform.python_version()}, {args.calls} calls at once")
    print(f"moved {len(moved)}; lost {sum(one.call.truth.ended_by != 'caller' for one in calls)} of {len(calls)}")
    over_ms = 2 * args.delay  # one document, one handshake
    for name, values in (
        ("closed -> next stream up", [1000 * one.stream_s for one in moved if one.stream_s is not None]),
        ("closed -> caller's audio at model", [1000 * one.audio_s for one in moved if one.audio_s is not None]),
        ("closed -> agent heard again", [1000 * one.agent_s for one in moved if one.agent_s is not None]),
    ):
        print(shown(name, values))
    if args.delay:
        over = [1000 * one.audio_s - over_ms for one in moved if one.audio_s is not None]
        print(shown(f"  over the carrier's {over_ms:.0f} ms", over))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=24)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--talk", type=float, default=6.0)
    parser.add_argument("--spread", type=float, default=0.08)
    parser.add_argument("--live", choices=("redis", "sqlite"), default="redis")
    parser.add_argument("--fault", choices=("SIGKILL", "SIGSTOP", "SIGTERM"), default="SIGKILL")
    asyncio.run(main(parser.parse_args()))
