"""What a model link costs: CPU per call-second on the session's socket against the SDK's public calls.

    python tests/bench/bench_link.py [calls] [seconds]

Every call sends 50 frames of 20 ms and receives 25 chunks of 40 ms a second, over TLS, from a rehearsal model in
a process of its own. The two paths take turns in this one process; a round without links shows what the driving
of the frames costs and is taken off. The ratio is what counts; the milliseconds are this machine's.
"""

import asyncio
import contextlib
import multiprocessing
import sys
import time

from offhook.gateway.agent.spec import Agent
from offhook.gateway.conversation.events import Event, ModelReady

try:
    from uvloop import run as runner  # as `offhook serve` does
except ImportError:
    runner = asyncio.run

from offhook.gateway.models.gemini.client import GeminiSettings, Models

ROUNDS = 3
PCM = bytes(range(256)) * 2 + bytes(128)


class Counting:
    """A call that only counts what it is given."""

    def __init__(self) -> None:
        self.bytes = self.generation = 0
        self.ready = asyncio.Event()

    def model_event(self, event: Event) -> None:
        if isinstance(event, ModelReady):
            self.ready.set()

    def model_audio(self, generation: int, pcm: bytes) -> None:
        self.bytes += len(pcm)

    def model_text(self, generation: int, text: str) -> None: ...
    def caller_text(self, text: str, finished: bool) -> None: ...
    def model_tool_call(self, call_id: str, name: str, arguments: dict) -> None: ...
    def model_usage(self, usage: dict) -> None: ...
    def model_segment(self, name: str, seconds: float) -> None: ...

    def next_generation(self) -> int:
        self.generation += 1
        return self.generation


def serve(pipe, length_s: float) -> None:
    """The other end, in its own process."""
    from offhook.gateway.rehearsal.model.script import Reply, Say, Script
    from offhook.gateway.rehearsal.model.server import ModelServer

    say = Say("", length_ms=length_s * 1000, delay_ms=0, chunk_ms=(40,), speed=1.0, transcript="none")

    async def run() -> None:
        script = Script(replies=(Reply("start", (say,)),), hears_above_dbfs=0.0)
        async with ModelServer(script, keep_audio=False) as server:
            pipe.send((server.url, server.ca_path))
            await asyncio.get_running_loop().run_in_executor(None, pipe.recv)

    asyncio.run(run())


async def one_round(models: Models | None, calls: int, seconds: float) -> tuple[float, int]:
    """(CPU ms per call-second, bytes received) while `calls` talk for `seconds`; without links, the driving alone."""
    loop = asyncio.get_running_loop()
    sinks = [Counting() for _ in range(calls)]
    links = [models.link(Agent(name="a"), (), sink, {}, loop.time) for sink in sinks] if models else []
    running = [asyncio.create_task(link.run()) for link in links]
    for sink in sinks[: len(links)]:
        await sink.ready.wait()
    frames = round(seconds * 50)

    async def drive(send) -> None:
        begin_s = loop.time()
        for i in range(frames):
            send(PCM)
            await asyncio.sleep(max(0.0, begin_s + (i + 1) * 0.02 - loop.time()))

    await asyncio.sleep(0.5)
    received = sum(sink.bytes for sink in sinks)
    cpu_s = time.process_time()
    await asyncio.gather(*(drive(link.send_audio) for link in links or []), *(drive(len) for _ in sinks[len(links) :]))
    cpu_s = time.process_time() - cpu_s
    received = sum(sink.bytes for sink in sinks) - received
    for link in links:
        await link.close()
    await asyncio.gather(*running)
    return cpu_s * 1000 / (calls * seconds), received


async def main(calls: int, seconds: float) -> None:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, seconds + 3), daemon=True)
    server.start()
    url, ca_path = ours.recv()
    settings = GeminiSettings(api_key="bench", base_url=url, ca_file=ca_path)
    paths = {
        "driving alone": None,
        "session socket": Models(settings),
        "SDK calls": Models(settings, use_socket=False),
    }
    for models in paths.values():
        if models:
            await models.warm_up()
    spent: dict[str, list[float]] = {name: [] for name in paths}
    print(f"{calls} calls, {seconds:g} s a round; CPU ms per call-second")
    for n in range(ROUNDS):
        for name, models in paths.items():
            ms, received = await one_round(models, calls, seconds)
            spent[name].append(ms)
            kb_s = received / 1000 / calls / seconds
            print(f"  round {n + 1}  {name:15} {ms:7.3f}   received {kb_s:5.1f} kB/s a call")
    ours.send(None)
    server.join(5)
    best = {name: min(values) for name, values in spent.items()}
    base = best["driving alone"]
    socket_ms, sdk_ms = best["session socket"] - base, best["SDK calls"] - base
    print(
        f"the link alone: socket {socket_ms:.3f}, SDK {sdk_ms:.3f}; "
        f"the socket costs {socket_ms / sdk_ms:.2f} of the SDK"
    )
    print(f"with the driving: {best['session socket'] / best['SDK calls']:.2f}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        runner(main(int(arguments[0]) if arguments else 10, float(arguments[1]) if arguments[1:] else 4.0))
