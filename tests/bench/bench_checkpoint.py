"""What checkpoints cost: `python -m tests.bench.bench_checkpoint [--calls 50] [--seconds 20] [--lateness]`.

One gateway process with `--calls` calls that talk, over SQLite in shared memory: its CPU, its checkpoints. Then one
checkpoint of such a call, built, sealed and written in this process, by the CPU clock. The share is the product of
both, which is steadier than the difference of two runs. `--lateness`: the lateness of the callers' frames at the model,
with checkpoints and without, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.live import Write
from offhook.gateway.live.sqlite import SqliteLive
from offhook.gateway.rehearsal.cluster.processes import AUTH_TOKEN, FLEET_KEY, PUBLIC, cluster
from offhook.gateway.rehearsal.load.worker import Lateness
from offhook.gateway.rehearsal.model.script import Script, script_from
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, Step
from tests.rig.counting import AGENT
from tests.rig.gateway import serving
from tests.rig.process import cpu_s

TURNS = 8


def talkative() -> Script:
    answers = [
        {"on": "caller", "do": [{"say": f"This is answer number {n}, and it has some more words."}]}
        for n in range(TURNS)
    ]
    return script_from({"replies": [{"on": "text", "do": [{"say": "Hello, what can I do for you?"}]}, *answers]})


def steps(seconds: float) -> list[Step]:
    said: list[Step] = [Pause(2000)]
    for n in range(int(seconds // 6)):
        said += [Say(f"question number {n}, please"), Pause(4500)]
    return [*said, HangUp()]


async def share(calls: int, seconds: float, *, kept: bool = True) -> tuple[float, float, float]:
    """CPU per call-second of the gateway in ms, its checkpoints per call-second, and lateness P99 of frames in ms.

    `kept`: there is a live store.
    """
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        async with (
            ModelServer(talkative(), keep_audio=False, keep_arrivals=True) as model,
            cluster(folder, AGENT, model, f"sqlite:{folder}/live.db" if kept else "", count=1) as rig,
        ):
            (gateway,) = rig.gateways.values()
            placed = [
                asyncio.create_task(
                    SimulatedCall(gateway.url, steps(seconds), public_url=PUBLIC, auth_token=AUTH_TOKEN).run()
                )
                for _ in range(calls)
            ]
            await asyncio.sleep(5.0)
            lateness = Lateness()
            lateness.since(model.sessions)
            assert gateway.process is not None
            line = 'offhook_checkpoints_total{result="kept"}'
            before = cpu_s(gateway.process.pid), await rig.metric("gw0", line), time.monotonic()
            await asyncio.sleep(seconds - 6.0)
            used_s, written, lasted_s = (
                cpu_s(gateway.process.pid) - before[0],
                await rig.metric("gw0", line) - before[1],
                time.monotonic() - before[2],
            )
            late = lateness.since(model.sessions)
            await asyncio.gather(*placed)
    return 1000 * used_s / lasted_s / calls, written / lasted_s / calls, late.p99_ms or 0.0


async def one() -> tuple[float, float, float, int]:
    """Microseconds of one checkpoint: built and encoded, sealed, written in a batch of 32; and its bytes."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        environ = {"OFFHOOK_INSECURE": "1", "OFFHOOK_LIVE": f"sqlite:{name}/a.db", "OFFHOOK_FLEET_KEY": FLEET_KEY}
        agents = [parse_agent(AGENT)]
        async with ModelServer(talkative()) as model, serving(agents, environ, model=model) as (gateway, url):
            call = SimulatedCall(url, steps(30.0))
            task = asyncio.create_task(call.run())
            await asyncio.sleep(22.0)
            survival = gateway.switchboard.moves._survivals[call.call_sid]
            built_us = timed(lambda: survival._call and survival.head())
            whole_us = timed(survival.checkpoint)
            stage, head = survival.checkpoint()
            store = SqliteLive(f"{name}/b.db", time.time)
            await store.open()
            writes = [Write(f"CA{n}", "a", 1, stage, head) for n in range(32)]
            began_s, rounds = time.process_time(), 200
            for _ in range(rounds):
                await store.write(writes)
            written_us = 1e6 * (time.process_time() - began_s) / rounds / len(writes)
            await store.close()
            call.hang_up()
            await task
    return built_us, whole_us, written_us, len(head)


def timed(work: Callable[[], object], times: int = 2_000) -> float:
    began_s = time.thread_time()
    for _ in range(times):
        work()
    return 1e6 * (time.thread_time() - began_s) / times


async def main(args: argparse.Namespace) -> None:
    built_us, whole_us, written_us, size = await one()
    print(
        f"one checkpoint: head {built_us:.0f} us, encoded and sealed {whole_us:.0f} us, "
        f"written {written_us:.0f} us, {size} B"
    )
    if args.lateness:
        for _ in range(2):
            for kept in (False, True):
                cpu_ms, _, p99_ms = await share(args.calls, args.seconds, kept=kept)
                name = "with" if kept else "without"
                print(f"{name} a live store: frame lateness P99 {p99_ms:.1f} ms, {cpu_ms:.2f} ms of CPU")
        return
    cpu_ms, rate, _ = await share(args.calls, args.seconds)
    cost_ms = rate * (whole_us + written_us) / 1000
    print(f"{args.calls} calls: {cpu_ms:.2f} ms of CPU and {rate:.2f} checkpoints per call-second")
    print(f"share of the gateway's CPU: {100 * cost_ms / cpu_ms:.2f} %")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--lateness", action="store_true")
    given = parser.parse_args()
    if given.seconds < 8.0:
        parser.error("--seconds: at least 8, of which the calls talk for six before anything is measured")
    asyncio.run(main(given))
