"""What a model link costs: CPU per call-second, against google-genai's own calls with nothing else.

    python -m tests.bench.bench_link [calls] [seconds]

Every call sends 50 frames of 20 ms and receives 25 chunks of 40 ms a second, over TLS, from a rehearsal model in
a process of its own. The paths take turns in this one process: a link on a mu-law line, one on a line with the
model's own formats (nothing is converted), and the SDK's public calls, which convert nothing either. A round without
any shows what driving the frames costs and is subtracted. The ratios count; the milliseconds are this machine's.
"""

import asyncio
import contextlib
import multiprocessing
import sys
import time
from collections.abc import Callable

import numpy as np
import uvloop  # as `offhook serve` does
from google.genai import types

from offhook.gateway.agent.spec import Agent
from offhook.gateway.conversation.events import Event, ModelReady
from offhook.gateway.models import AudioFormats, CallBrief, LinkCount, Speaker, Usage
from offhook.gateway.models.gemini.client import GeminiModel
from offhook.gateway.models.gemini.settings import GeminiSettings
from offhook.gateway.models.gemini.setup import live_config
from offhook.media import mulaw
from offhook.media.formats import MULAW_8K, PCM16_16K, PCM16_24K

ROUNDS = 3
AGENT = Agent(name="a")
SAMPLES = (np.random.default_rng(0).standard_normal(160) * 3000).astype(np.int16)
CODES = mulaw.encode(SAMPLES)
PCM = bytes(range(256)) * 2 + bytes(128)

Send = Callable[[], object]


class Counting:
    """A call that only counts the audio it receives."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.bytes_per_s = 48_000
        self.turn = 0
        self.ready = asyncio.Event()

    def event(self, event: Event) -> None:
        if isinstance(event, ModelReady):
            self.ready.set()

    def reply_audio(self, turn: int, codes: bytes) -> None:
        self.seconds += len(codes) / self.bytes_per_s

    def words(self, who: Speaker, turn: int | None, text: str, final: bool) -> None: ...
    def tool_call(self, call_id: str, name: str, arguments: dict) -> None: ...
    def usage(self, usage: Usage) -> None: ...
    def count(self, what: LinkCount, by: float = 1, reason: str = "") -> None: ...
    def segment(self, name: str, seconds: float) -> None: ...

    def task_failed(self, part: str, error: BaseException) -> None:
        raise SystemExit(f"{part}: {error!r}")

    def next_turn(self) -> int:
        self.turn += 1
        return self.turn

    def agent_has_floor(self) -> bool:
        return False


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


@contextlib.asynccontextmanager
async def a_link(model: GeminiModel, sink: Counting, formats: AudioFormats):
    loop = asyncio.get_running_loop()
    sink.bytes_per_s = formats.agent.rate_hz * formats.agent.bytes_per_sample
    link = model.link(CallBrief(agent=AGENT, clock=loop.time, formats=formats), sink)
    running = asyncio.create_task(link.run())
    codes = CODES if formats.caller == MULAW_8K else PCM
    await sink.ready.wait()

    def frame() -> None:
        link.caller_audio(codes, SAMPLES, loop.time())
        link.flush_audio()

    yield frame
    await link.close()
    await running


@contextlib.asynccontextmanager
async def the_sdk(model: GeminiModel, sink: Counting):
    """One task sends what is queued, one receives."""
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    config = types.LiveConnectConfig(**live_config(AGENT, (), ""))
    async with model._client.aio.live.connect(model=model.name_of(AGENT), config=config) as session:

        async def send() -> None:
            while True:
                blob = types.Blob(data=await queue.get(), mime_type="audio/pcm;rate=16000")
                await session.send_realtime_input(audio=blob)

        async def receive() -> None:
            while True:
                async for message in session.receive():
                    if message.data:
                        sink.reply_audio(1, message.data)

        tasks = [asyncio.create_task(send()), asyncio.create_task(receive())]
        yield lambda: queue.put_nowait(PCM)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def nothing(model: GeminiModel, sink: Counting):
    yield lambda: None


PATHS = {
    "driving alone": nothing,
    "link, mu-law line": lambda model, sink: a_link(model, sink, AudioFormats()),
    "link, as it is": lambda model, sink: a_link(model, sink, AudioFormats(PCM16_16K, PCM16_24K)),
    "SDK calls": the_sdk,
}


async def one_round(model: GeminiModel, path: Callable, calls: int, seconds: float) -> tuple[float, float]:
    """(CPU ms per call-second, share of the agent's audio received) while `calls` talk for `seconds`."""
    loop = asyncio.get_running_loop()
    sinks = [Counting() for _ in range(calls)]
    frames = round(seconds * 50)

    async def drive(send: Send) -> None:
        begin_s = loop.time()
        for i in range(frames):
            send()
            await asyncio.sleep(max(0.0, begin_s + (i + 1) * 0.02 - loop.time()))

    async with contextlib.AsyncExitStack() as stack:
        sends = [await stack.enter_async_context(path(model, sink)) for sink in sinks]
        await asyncio.sleep(0.5)
        received_s = sum(sink.seconds for sink in sinks)
        cpu_s = time.process_time()
        await asyncio.gather(*map(drive, sends))
        cpu_s = time.process_time() - cpu_s
        received_s = sum(sink.seconds for sink in sinks) - received_s
    return cpu_s * 1000 / (calls * seconds), received_s / calls / seconds


async def main(calls: int, seconds: float) -> None:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, seconds + 6), daemon=True)
    server.start()
    url, ca_path = ours.recv()
    model = GeminiModel(GeminiSettings(api_key="bench", base_url=url, ca_file=ca_path))
    await model.warm_up()
    spent: dict[str, list[float]] = {name: [] for name in PATHS}
    print(f"{calls} calls, {seconds:g} s a round; CPU ms per call-second")
    for n in range(ROUNDS):
        for name, path in PATHS.items():
            ms, share = await one_round(model, path, calls, seconds)
            spent[name].append(ms)
            print(f"  round {n + 1}  {name:18} {ms:7.3f}   received {share:4.0%} of real time")
    ours.send(None)
    server.join(5)
    await model.close()
    best = {name: min(values) for name, values in spent.items()}
    base = best.pop("driving alone")
    sdk_ms = best["SDK calls"] - base
    for name, ms in best.items():
        print(f"{name:18} alone {ms - base:.3f} ms, {(ms - base) / sdk_ms:.2f} of the SDK's calls")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main(int(arguments[0]) if arguments else 10, float(arguments[1]) if arguments[1:] else 4.0))
