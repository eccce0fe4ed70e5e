"""Frames while tools block: how late the gateway sends callers' frames on, with and without tools in their threads.

Each caller's turn starts a tool that holds its thread for five seconds: asleep (a library that waits), or computing
in Python (which holds the interpreter lock but for a switch every few milliseconds). The gateway is its own process,
as served; its own histograms are read before and after. Callers and model share the machine's cores with it.

    python -m tests.bench.bench_tool_blocking [--calls N] [--seconds S]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from tests.rig.process import spawn
from tests.rig.sounds import sound

TOOL_S = 5.0
CASES = ("no tool", "asleep", "computing", "no tool again")
SEGMENTS = ("uplink_forward", "event_loop_lag")


def asleep() -> str:
    """A library that waits."""
    time.sleep(TOOL_S)
    return "done"


def computing() -> str:
    """A library that computes."""
    ends_s = time.monotonic() + TOOL_S
    while time.monotonic() < ends_s:
        sum(range(1000))
    return "done"


async def model_main(ca_out: str, tool: str) -> None:
    from offhook.gateway.rehearsal.model.script import CallTool, Reply, Say, Script
    from offhook.gateway.rehearsal.model.server import ModelServer

    say = Say("of course", sound("agent_saturday"))
    does = (say, CallTool(tool)) if tool in ("asleep", "computing") else (say,)
    script = Script((Reply("text", (say,)),), default=Reply("caller", does))
    async with ModelServer(script, keep_audio=False) as server:
        Path(ca_out).write_text(Path(server.ca_path).read_text())
        print(server.url, flush=True)
        await asyncio.Event().wait()


def buckets(url: str, segment: str) -> dict[float, float]:
    """Upper bound -> samples up to it, so far."""
    with urllib.request.urlopen(f"{url}/metrics") as response:
        text = response.read().decode()
    rows = re.findall(rf'^offhook_{segment}_seconds_bucket{{le="([^"]+)"}} (\S+)', text, re.M)
    return {float(bound): float(count) for bound, count in rows}


def percentile_ms(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """The bound below which this share of the samples since `before` lies."""
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    wanted = share * max(counts.values(), default=0.0)
    return next((bound * 1000 for bound, count in counts.items() if count >= wanted), float("nan"))


async def talk(url: str, calls: int, seconds: float) -> list[tuple[float, float]]:
    """P50 and P99 in ms of each segment, while the calls talk."""
    from offhook.gateway.rehearsal.phone.call import SimulatedCall
    from offhook.gateway.rehearsal.phone.steps import Pause, Say, WaitForAgent

    line = str(sound("caller_yes"))
    turn = (WaitForAgent("end", timeout_ms=60_000), Pause(300), Say(line))
    placed = [SimulatedCall(url, turn * 20, direct=True, caller=f"+1555010{i:04d}") for i in range(calls)]
    tasks = []
    for call in placed:
        tasks.append(asyncio.create_task(call.run()))
        await asyncio.sleep(0.1)
    await asyncio.sleep(6)  # the first turn is over, and its tool at work
    before = {segment: await asyncio.to_thread(buckets, url, segment) for segment in SEGMENTS}
    await asyncio.sleep(seconds)
    figures = []
    for segment in SEGMENTS:
        after = await asyncio.to_thread(buckets, url, segment)
        figures.append(tuple(percentile_ms(before[segment], after, share) for share in (0.5, 0.99)))
    for call in placed:
        call.hang_up()
    await asyncio.gather(*tasks, return_exceptions=True)
    return figures  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    print(f"{arguments.calls} calls; worst frame of each second and call; ms{'':14} P50     P99")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            ca, agent = f"{folder}/ca.pem", Path(folder) / "agent.yaml"
            model, model_url = spawn(["-m", "tests.bench.bench_tool_blocking", "--model", ca, case], dict(os.environ))
            agent.write_text(
                "name: bench\ngreeting: {text: Greet the caller.}\ntools:\n"
                + "".join(
                    f"- {{function: 'tests.bench.bench_tool_blocking:{tool}', announce: silent, on_barge_in: finish}}\n"
                    for tool in ("asleep", "computing")
                )
            )
            environ = {
                **os.environ,
                "GOOGLE_GEMINI_BASE_URL": model_url,
                "SSL_CERT_FILE": ca,
                "GEMINI_API_KEY": "rehearsal",
                "OFFHOOK_INSECURE": "1",
                "OFFHOOK_PORT": "0",
                "OFFHOOK_AGENT": str(agent),
                "OFFHOOK_LOG_LEVEL": "error",
                "OPENBLAS_NUM_THREADS": "1",
            }
            gateway, url = spawn(["-m", "offhook", "serve"], environ)
            try:
                figures = asyncio.run(talk(url, arguments.calls, arguments.seconds))
            finally:
                for process in (gateway, model):
                    process.kill()
                    process.wait()
            for segment, (p50, p99) in zip(SEGMENTS, figures, strict=True):
                print(f"{case:>14}  {segment:36} {p50:7.2f} {p99:7.2f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--model"]:
        asyncio.run(model_main(*sys.argv[2:4]))
    else:
        main()
