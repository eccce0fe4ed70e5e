"""What a call costs: CPU of the gateway process per second of call, beside a bare relay of the same messages.

The relay accepts the carrier's stream, dials the model over the same TLS WebSocket library with the same setup,
and passes each message on as a ready one of the same size: no parsing, no conversion, no detector, no accounting.
What the gateway costs above it is what the gateway does; once with Gemini, once with OpenAI. Each runs as its own
process, in turn, under the same
simulated calls; callers and model run in two further processes. Everything shares this machine's cores.

    python -m tests.bench.bench_calls [CALLS ...] [--seconds S]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import sys
import tempfile
import time
from pathlib import Path

from tests.rig.process import cpu_s, rss_mib, spawn
from tests.rig.sounds import sound

UP = json.dumps({"realtimeInput": {"audio": {"data": "A" * 856, "mimeType": "audio/pcm;rate=16000"}}})


# --- the model, a process of its own


async def model_main(ca_out: str) -> None:
    from offhook.gateway.rehearsal.model.script import Reply, Say, Script
    from offhook.gateway.rehearsal.model.server import ModelServer

    path = sound("agent_of_course")
    script = Script((Reply("text", (Say("hello", path),)),), default=Reply("caller", (Say("of course", path),)))
    async with ModelServer(script, keep_audio=False) as server:
        Path(ca_out).write_text(Path(server.ca_path).read_text())
        print(server.url, flush=True)
        await asyncio.Event().wait()


# --- the bare relay, a process of its own


async def relay_main() -> None:
    from aiohttp import web
    from websockets.asyncio.client import connect

    base = os.environ["GOOGLE_GEMINI_BASE_URL"].replace("https", "wss")
    url = f"{base}/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    setup = {"setup": {"model": "models/gemini-3.8-live", "generationConfig": {"responseModalities": ["AUDIO"]}}}

    async def media(request: web.Request) -> web.WebSocketResponse:
        carrier = web.WebSocketResponse(compress=False, autoping=True)
        await carrier.prepare(request)
        headers = {"x-goog-api-key": "rehearsal"}
        async with connect(
            url, ssl=context, additional_headers=headers, compression=None, ping_interval=None, max_size=2**24
        ) as model:
            await model.send(json.dumps(setup))
            await model.recv()
            await model.send(json.dumps({"realtimeInput": {"text": "Greet the caller."}}))
            sid = ""
            ready: dict[int, str] = {}

            async def down() -> None:
                async for message in model:
                    size = len(message) // 6 // 216 * 216  # 24 kHz PCM16 to 8 kHz mu-law: a sixth
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
                    await model.send(UP, text=True)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", nargs="*", type=int, default=[10, 50])
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ca = f"{folder}/ca.pem"
        model, model_url = spawn(["-m", "tests.bench.bench_calls", "--model", ca], dict(os.environ))
        agent = Path(folder) / "agent.yaml"
        agent.write_text("name: bench\ngreeting: {text: Greet the caller.}\n")
        environ = {
            **os.environ,
            "GOOGLE_GEMINI_BASE_URL": model_url,
            "SSL_CERT_FILE": ca,
            "GEMINI_API_KEY": "rehearsal",
            "OFFHOOK_INSECURE": "1",
            "OFFHOOK_PORT": "0",
            "OFFHOOK_AGENT": str(agent),
            "OFFHOOK_MAX_CALLS": "1000",
            "OFFHOOK_LOG_LEVEL": "warning",
            "OPENBLAS_NUM_THREADS": "1",
        }
        environ |= {"OPENAI_BASE_URL": f"{model_url}/v1", "OPENAI_API_KEY": "rehearsal"}
        serve = ["-m", "offhook", "serve"]
        kinds = {"gateway": serve, "openai": serve, "relay": ["-m", "tests.bench.bench_calls", "--relay"]}
        print(f"{'calls':>6} {'gemini':>16} {'openai':>16} {'relay':>16} {'ratios':>12} {'memory':>24}")
        for calls in arguments.calls:
            figures = {}
            for kind, command in kinds.items():
                process, url = spawn(command, environ | {"OFFHOOK_PROVIDER": "openai" if kind == "openai" else ""})
                try:
                    figures[kind] = asyncio.run(calls_main(url, process.pid, calls, arguments.seconds))
                finally:
                    process.kill()
                    process.wait()
            (gateway_ms, memory_mib), (openai_ms, openai_mib) = figures["gateway"], figures["openai"]
            relay_ms, _ = figures["relay"]
            print(
                f"{calls:6} {gateway_ms:9.2f} ms/s/call {openai_ms:6.2f} ms/s/call {relay_ms:6.2f} ms/s/call"
                f" {gateway_ms / relay_ms:5.2f} {openai_ms / relay_ms:5.2f}"
                f" {memory_mib:6.2f} {openai_mib:6.2f} MiB/call"
            )
        model.kill()


def run(coroutine: object) -> None:
    import uvloop

    uvloop.run(coroutine)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--model"]:
        run(model_main(sys.argv[2]))
    elif sys.argv[1:2] == ["--relay"]:
        run(relay_main())
    else:
        main()
