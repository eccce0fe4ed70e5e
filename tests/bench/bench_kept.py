"""What keeping calls costs the call path: lateness of the event loop and of frames while 50 calls end and start.

    python -m tests.bench.bench_kept [CALLS] [--seconds S] [--life S]

Each caller hangs up after a few seconds and calls again. In turn without anything kept, with records in SQLite, with
encrypted recordings, with webhooks to a receiver, and with all of these. A task in the gateway's loop, due each 5 ms,
has the lateness; `uplink_forward` (a frame received -> handed to the model's socket) is the gateway's own metric. As
root the gateway has real-time priority, so that callers and model, which share its cores, do not make it late.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
from aiohttp import web

from tests.bench.bench_calls import gateway_environ
from tests.rig.process import cpu_s, spawn

KEYS = "bench:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
DUE_S = 0.005
SETTLE_S = 5.0
BUCKET = re.compile(r'offhook_uplink_forward_seconds_bucket{.*?le="([^"]+)".*?} (\S+)')


def gateway_main(out: str) -> None:
    """`offhook serve`; each line of `out` is a wall time and how late the loop was then, ms."""
    from offhook.gateway.cli.main import main
    from offhook.gateway.ticker import Ticker

    with contextlib.suppress(OSError):  # not root: callers and model, on the same cores, then count as lateness
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))
    run: Callable = Ticker.run

    async def probe() -> None:
        with Path(out).open("w") as lines:  # noqa: ASYNC230
            late: list[tuple[float, float]] = []
            due_s = time.monotonic()
            while True:
                due_s = max(due_s + DUE_S, time.monotonic())
                await asyncio.sleep(due_s - time.monotonic())
                late.append((time.time(), (time.monotonic() - due_s) * 1000))
                if len(late) >= 200:
                    lines.write("".join(f"{at_s:.3f} {ms:.3f}\n" for at_s, ms in late))
                    lines.flush()
                    late.clear()

    async def with_probe(self: Ticker) -> None:
        task = asyncio.create_task(probe())
        await run(self)
        task.cancel()

    Ticker.run = with_probe  # type: ignore[method-assign]
    sys.argv[1:] = ["serve"]
    main()


async def buckets(http: aiohttp.ClientSession, url: str) -> dict[float, float]:
    async with http.get(f"{url}/metrics") as answer:
        text = await answer.text()
    found: dict[float, float] = {}
    for limit, count in BUCKET.findall(text):
        found[float(limit)] = found.get(float(limit), 0.0) + float(count)
    return found


def p99_ms(before: dict[float, float], after: dict[float, float]) -> float:
    """The upper limit of the bucket with the 99th percentile."""
    counts = {limit: count - before.get(limit, 0.0) for limit, count in sorted(after.items())}
    whole = max(counts.values(), default=0.0)
    return next((limit * 1000 for limit, count in counts.items() if count >= 0.99 * whole), float("nan"))


async def churn(
    url: str, pid: int, calls: int, life_s: float, seconds: float
) -> tuple[int, float, float, float, float]:
    """Calls ended, P99 of `uplink_forward`, the wall times between which it was measured, the CPU seconds."""
    from offhook.gateway.rehearsal.phone.call import SimulatedCall
    from offhook.gateway.rehearsal.phone.steps import HangUp, Pause

    ended = 0

    async def caller(index: int) -> None:
        nonlocal ended
        await asyncio.sleep(index * life_s / calls)
        while True:
            steps = (Pause(int(life_s * 1000)), HangUp())
            await SimulatedCall(url, steps, direct=True, caller=f"+1555010{index:04d}").run()
            ended += 1

    tasks = [asyncio.create_task(caller(index)) for index in range(calls)]
    async with aiohttp.ClientSession() as http:
        await asyncio.sleep(SETTLE_S)
        before, began_s, ended, cpu = await buckets(http, url), time.time(), 0, cpu_s(pid)
        await asyncio.sleep(seconds)
        cpu, after, ends_s, count = cpu_s(pid) - cpu, await buckets(http, url), time.time(), ended
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return count, p99_ms(before, after), began_s, ends_s, cpu


async def receiver() -> tuple[web.AppRunner, str, list[int]]:
    got = [0]

    async def received(request: web.Request) -> web.Response:
        await request.read()
        got[0] += 1
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/hook", received)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/hook", got


async def measure(folder: Path, environ: dict[str, str], arguments: argparse.Namespace, kept: str) -> None:
    runner, hook, got = await receiver()
    out = folder / "late"
    if kept in ("records", "webhooks", "all"):
        environ = environ | {"OFFHOOK_DATA_DIR": str(folder / "data")}
    if kept in ("recordings", "all"):
        agent = folder / "kept.yaml"
        agent.write_text(
            f"name: bench\ngreeting: {{text: Greet.}}\nrecording: {{enabled: true, directory: {folder}/wav}}\n"
        )
        environ = environ | {"OFFHOOK_AGENT": str(agent), "OFFHOOK_RECORDING_KEYS": KEYS}
    if kept in ("webhooks", "all"):
        environ = environ | {
            "OFFHOOK_WEBHOOK_URL": hook,
            "OFFHOOK_WEBHOOK_SECRET": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
            "OFFHOOK_WEBHOOK_PRIVATE": "1",
        }
    process, url = await asyncio.to_thread(spawn, ["-m", "tests.bench.bench_kept", "--gateway", str(out)], environ)
    try:
        count, forward_ms, began_s, ends_s, cpu = await churn(
            url, process.pid, arguments.calls, arguments.life, arguments.seconds
        )
        await asyncio.sleep(1.5)
    finally:
        process.kill()
        process.wait()
        await runner.cleanup()
    lines = [tuple(map(float, line.split())) for line in out.read_text().splitlines()]
    late = sorted(ms for at_s, ms in lines if began_s <= at_s <= ends_s)
    over = sum(ms > 5.0 for ms in late)
    print(
        f"{kept} kept: {count} calls ended; loop late: P50 {late[len(late) // 2]:.2f} "
        f"P99 {late[int(len(late) * 0.99)]:.2f} P99.9 {late[int(len(late) * 0.999)]:.2f} max {late[-1]:.2f} ms, "
        f"{over} of {len(late)} over 5 ms; uplink_forward P99 <= {forward_ms:.2f} ms; webhooks {got[0]}; "
        f"{cpu / (ends_s - began_s):.1%} of a core",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", nargs="?", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--life", type=float, default=5.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, gateway_environ(folder) as environ:
        for kept in ("nothing", "records", "recordings", "webhooks", "all"):
            place = Path(folder) / kept
            place.mkdir()
            asyncio.run(measure(place, environ, arguments, kept))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--gateway"]:
        gateway_main(sys.argv[2])
    else:
        main()
