"""What the gateway adds to the response time: the gateway as its own process, callers and model in this one.

Up: a caller's frame on the carrier's clock -> its audio at the model, for every frame. Down: the model's first audio
of a reply -> the carrier has its first media message. Both include the lateness of callers and model, which share
this machine: upper bounds. The model's own delays are in neither.

    python -m tests.bench.bench_response [CALLS] [--seconds S]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from pathlib import Path

from offhook.gateway.rehearsal.model.reached import model_environ
from offhook.gateway.rehearsal.model.script import Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, Say, WaitForAgent
from offhook.metrics.quantiles import exact
from tests.rig.process import spawn
from tests.rig.sounds import sound

FRAME_S = 0.02


async def measure(calls: int, turns: int) -> tuple[list[float], list[float]]:
    """Seconds up, per frame; seconds down, per reply."""
    path = sound("agent_thank_you")
    script = Script((Reply("text", (Speak("hello", path),)),), default=Reply("caller", (Speak("yes", path),)))
    line = str(sound("caller_uh_huh"))
    async with ModelServer(script) as model:
        with tempfile.TemporaryDirectory() as folder:
            agent = Path(folder) / "agent.yaml"
            agent.write_text("name: bench\ngreeting: {text: Greet the caller.}\n")
            environ = {
                **os.environ,
                **model_environ(model),
                "OFFHOOK_INSECURE": "1",
                "OFFHOOK_PORT": "0",
                "OFFHOOK_AGENT": str(agent),
                "OFFHOOK_LOG_LEVEL": "error",
            }
            process, url = await asyncio.to_thread(spawn, ["-m", "offhook", "serve"], environ)
            try:
                talk = (WaitForAgent("end"), Pause(200), Say(line)) * turns
                placed = [SimulatedCall(url, (*talk, WaitForAgent("end"), HangUp())) for _ in range(calls)]
                tasks = []
                for call in placed:
                    tasks.append(asyncio.create_task(call.run()))
                    await asyncio.sleep(0.137)
                truths = await asyncio.gather(*tasks)
            finally:
                process.terminate()
                process.wait()
    up, down = [], []
    for session, truth in zip(model.sessions, truths, strict=True):
        for at_s, received in session.audio_arrivals:
            frame = received // 640
            up.append(at_s - (truth.began_s + frame * FRAME_S))
        arrivals = [m.at_s for m in truth.media]
        for reply in session.replies:
            if reply.first_audio_at_s is not None:
                down.append(next(at_s for at_s in arrivals if at_s >= reply.first_audio_at_s) - reply.first_audio_at_s)
    return up, down


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", nargs="?", type=int, default=10)
    parser.add_argument("--turns", type=int, default=6)
    arguments = parser.parse_args()
    up, down = asyncio.run(measure(arguments.calls, arguments.turns))
    print(f"{arguments.calls} calls at once; milliseconds; both phone legs and the carrier's edge lie outside")
    for name, figures in (("up, per frame", up), ("down, per reply", down)):
        summary = exact(figures)
        shown = [f"{1000 * q:7.2f}" if q is not None else "   (few)" for q in (summary.p50, summary.p95, summary.p99)]
        print(f"{name:16} n={summary.count:6}  p50 {shown[0]}  p95 {shown[1]}  p99 {shown[2]}")


if __name__ == "__main__":
    main()
