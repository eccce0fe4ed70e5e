"""What a call costs: CPU of the gateway process per second of call, beside a bare relay of the same messages.

The relay accepts the carrier's stream, dials the model over the same TLS WebSocket library with the same setup,
and passes each message on as a ready one of the same size: no parsing, no conversion, no detector, no accounting.
What the gateway costs above it is what the gateway does. The SDK is the same relay over google-genai's public calls;
`openai` is the gateway with the other model.
Each runs as its own process on uvloop, in turn, under the same simulated calls; callers and model run in two further
processes. Everything shares this machine's cores.

    python -m tests.bench.bench_calls [CALLS ...] [--seconds S]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from functools import cache
from pathlib import Path
from typing import Any

from tests.rig.process import cpu_s, rss_mib, spawn
from tests.rig.sounds import sound

Session = tuple[Callable[[], Awaitable[None]], AsyncIterator[int]]  # send a frame; mu-law bytes of what is received
UP = json.dumps({"realtimeInput": {"audio": {"data": "A" * 856, "mimeType": "audio/pcm;rate=16000"}}})


# --- the model, a process of its own


async def model_main(ca_out: str) -> None:
    from offhook.gateway.rehearsal.model.script import Reply, Say, Script
    from offhook.gateway.rehearsal.model.server import ModelServer

    path, parent = sound("agent_of_course"), os.getppid()
    script = Script((Reply("text", (Say("hello", path),)),), default=Reply("caller", (Say("of course", path),)))
    async with ModelServer(script, keep_audio=False) as server:
        Path(ca_out).write_text(Path(server.ca_path).read_text())
        print(server.url, flush=True)
        while os.getppid() == parent:  # whichever way the benchmark ended
            await asyncio.sleep(1.0)


# --- the bare relay and google-genai's own calls, each a process of its own


@contextlib.asynccontextmanager
async def relayed() -> AsyncIterator[Session]:
    """The model by websockets alone: a ready message up, whose size alone is looked at down."""
    from websockets.asyncio.client import connect

    base = os.environ["GOOGLE_GEMINI_BASE_URL"].replace("https", "wss")
    url = f"{base}/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
    setup = {"setup": {"model": "models/gemini-3.8-live", "generationConfig": {"responseModalities": ["AUDIO"]}}}
    async with connect(
        url,
        ssl=tls(),
        additional_headers={"x-goog-api-key": "rehearsal"},
        compression=None,
        ping_interval=None,
        max_size=2**24,
    ) as model:
        await model.send(json.dumps(setup))
        await model.recv()
        await model.send(json.dumps({"realtimeInput": {"text": "Greet the caller."}}))

        async def received() -> AsyncIterator[int]:
            async for message in model:
                yield len(message) // 6 // 216 * 216  # 24 kHz PCM16 to 8 kHz mu-law: a sixth

        yield lambda: model.send(UP, text=True), received()


@contextlib.asynccontextmanager
async def by_the_sdk() -> AsyncIterator[Session]:
    """The model by google-genai's public calls, one client for the process, and nothing else."""
    from google.genai import types

    async with sdk_client().aio.live.connect(model="gemini-3.8-live", config={"response_modalities": ["AUDIO"]}) as s:
        await s.send_realtime_input(text="Greet the caller.")

        async def received() -> AsyncIterator[int]:
            while True:
                async for message in s.receive():
                    yield len(message.data or b"") // 6

        pcm = bytes(640)
        yield lambda: s.send_realtime_input(audio=types.Blob(data=pcm, mime_type="audio/pcm;rate=16000")), received()


@cache
def tls() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])


@cache
def sdk_client() -> Any:
    from google import genai
    from google.genai import types

    arguments = {"compression": None, "ping_interval": None, "max_size": 2**24, "ssl": tls()}
    return genai.Client(http_options=types.HttpOptions(api_version="v1beta", async_client_args=arguments))


async def relay_main(dialled: Callable[[], AbstractAsyncContextManager[Session]]) -> None:
    from aiohttp import web

    async def media(request: web.Request) -> web.WebSocketResponse:
        carrier = web.WebSocketResponse(compress=False, autoping=True)
        await carrier.prepare(request)
        async with dialled() as (send, received):
            sid = ""
            ready: dict[int, str] = {}

            async def down() -> None:
                async for size in received:
                    if size and sid:
                        if size not in ready:
                            media = {
                                "event": "media",
                                "streamSid": sid,
                                "media": {"payload": "AIAA" * (size // 4)},
                            }  # loud
                            ready[size] = json.dumps(media)
                        await carrier.send_str(ready[size])

            task = asyncio.create_task(down())
            async for message in carrier:
                if not sid and '"start"' in message.data:
                    sid = json.loads(message.data)["streamSid"]
                elif '"media"' in message.data:
                    await send()
            task.cancel()
        return carrier

    app = web.Application()
    app.router.add_get("/twilio/media", media)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


# --- the measurement


async def calls_main(url: str, pid: int, calls: int, seconds: float) -> tuple[float, float]:
    """CPU milliseconds of `pid` per call-second while `calls` calls talk, and MiB per call."""
    from offhook.gateway.rehearsal.phone.call import SimulatedCall
    from offhook.gateway.rehearsal.phone.steps import Pause, Say, WaitForAgent

    line = str(sound("caller_hello_i_would"))
    turn = (WaitForAgent("end", timeout_ms=60_000), Pause(300), Say(line))
    empty_mib = rss_mib(pid)
    placed = []
    for index in range(calls):
        placed.append(SimulatedCall(url, turn * 20, direct=True, caller=f"+1555010{index:04d}"))
    tasks = []
    for call in placed:
        tasks.append(asyncio.create_task(call.run()))
        await asyncio.sleep(min(0.1, 5 / calls))  # people do not all dial in the same millisecond
    await asyncio.sleep(3)
    began_s, cpu_began_s = time.monotonic(), cpu_s(pid)
    await asyncio.sleep(seconds)
    took_s, used_s = time.monotonic() - began_s, cpu_s(pid) - cpu_began_s
    full_mib = rss_mib(pid)
    alive = sum(not task.done() for task in tasks)
    for call in placed:
        call.hang_up()
    await asyncio.gather(*tasks, return_exceptions=True)
    if alive < calls:
        print(f"  only {alive} of {calls} calls were alive at the end: figures below are of those", file=sys.stderr)
    return used_s * 1000 / took_s / max(1, alive), (full_mib - empty_mib) / calls


@contextlib.contextmanager
def gateway_environ(folder: str) -> Iterator[dict[str, str]]:
    """The environment of a gateway or relay that reaches the model, which runs meanwhile; files are in `folder`."""
    ca = f"{folder}/ca.pem"
    model, model_url = spawn(["-m", "tests.bench.bench_calls", "--model", ca], dict(os.environ))
    agent = Path(folder) / "agent.yaml"
    agent.write_text("name: bench\ngreeting: {text: Greet the caller.}\n")
    try:
        yield {
            **os.environ,
            "GOOGLE_GEMINI_BASE_URL": model_url,
            "SSL_CERT_FILE": ca,
            "GEMINI_API_KEY": "rehearsal",
            "OPENAI_BASE_URL": f"{model_url}/v1",
            "OPENAI_API_KEY": "rehearsal",
            "OFFHOOK_INSECURE": "1",
            "OFFHOOK_PORT": "0",
            "OFFHOOK_AGENT": str(agent),
            "OFFHOOK_MAX_CALLS": "1000",
            "OFFHOOK_LOG_LEVEL": "warning",
            "OPENBLAS_NUM_THREADS": "1",
        }
    finally:
        model.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", nargs="*", type=int, default=[10, 50])
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # as by `timeout`: what was started is ended
    with tempfile.TemporaryDirectory() as folder, gateway_environ(folder) as environ:
        kinds = {
            "gateway": ["-m", "offhook", "serve"],
            "openai": ["-m", "offhook", "serve"],
            "relay": ["-m", "tests.bench.bench_calls", "--relay"],
            "SDK": ["-m", "tests.bench.bench_calls", "--sdk"],
        }
        print("CPU ms per call-second")
        print(
            f"{'calls':>6} {'gateway':>8} {'openai':>8} {'relay':>8} {'ratio':>6} {'SDK':>8} {'ratio':>6}"
            f" {'gateway memory':>16}"
        )
        for calls in arguments.calls:
            figures = {}
            for kind, command in kinds.items():
                process, url = spawn(command, environ | {"OFFHOOK_PROVIDER": "openai" if kind == "openai" else ""})
                try:
                    figures[kind] = asyncio.run(calls_main(url, process.pid, calls, arguments.seconds))
                finally:
                    process.kill()
                    process.wait()
            gateway_ms, memory_mib = figures["gateway"]
            openai_ms, relay_ms, sdk_ms = (figures[kind][0] for kind in ("openai", "relay", "SDK"))
            print(
                f"{calls:6} {gateway_ms:8.2f} {openai_ms:8.2f} {relay_ms:8.2f} {gateway_ms / relay_ms:6.2f}"
                f" {sdk_ms:8.2f} {gateway_ms / sdk_ms:6.2f} {memory_mib:7.2f} MiB/call"
            )


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    import uvloop

    uvloop.run(coroutine)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--model"]:
        run(model_main(sys.argv[2]))
    elif sys.argv[1:2] == ["--relay"]:
        run(relay_main(relayed))
    elif sys.argv[1:2] == ["--sdk"]:
        run(relay_main(by_the_sdk))
    else:
        main()
