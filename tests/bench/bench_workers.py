"""Workers: how evenly calls are spread, and what handing a connection over costs.

    python -m tests.bench.bench_workers [--calls 300] [--workers 4]

`--calls` calls through `offhook serve --workers N`: each a signed webhook and a stream that stays open, 32 at once, so
that the workers accept and choose at the same moment. Then the hand-over alone, between two routings in one process:
from the decision to the other's receipt, and its CPU time. All processes share this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp

from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.twilio_wire import sign, signed_socket_url
from offhook.gateway.workers.page import Page
from offhook.gateway.workers.routing import Routing
from tests.rig.counting import AGENT, counting_script
from tests.rig.process import cpu_s
from tests.rig.workers import AUTH_TOKEN, PUBLIC, Served, workers

AT_ONCE = 32
ROUNDS = 2_000


def shown(name: str, values_ms: list[float]) -> str:
    ordered = sorted(values_ms)
    p99 = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
    return f"{name:36} P50 {ordered[len(ordered) // 2]:7.2f}  P99 {p99:7.2f}  max {ordered[-1]:7.2f} ms"


class Caller:
    """Places calls and keeps their streams open."""

    def __init__(self, served: Served, http: aiohttp.ClientSession) -> None:
        self._served, self._http = served, http
        self.streams: list[aiohttp.ClientWebSocketResponse] = []
        self.nodes: Counter[str] = Counter()
        self.webhook_ms: list[float] = []
        self.handshake_ms: list[float] = []

    async def place(self, number: int) -> None:
        fields = {"CallSid": f"CA{number:032x}", "AccountSid": "AC" + "0" * 32, "From": "+15550001", "To": "+15550002"}
        headers = {"X-Twilio-Signature": sign(PUBLIC + "/twilio/voice", fields, AUTH_TOKEN)}
        began_s = time.perf_counter()
        async with self._http.post(self._served.url + "/twilio/voice", data=fields, headers=headers) as answer:
            document = await answer.text()
        self.webhook_ms.append(1000 * (time.perf_counter() - began_s))
        found = re.search(r'url="wss://[^/]+(/twilio/n/([^/]+)/media)"', document)
        token = re.search(r'name="token" value="([^"]+)"', document)
        if found is None or token is None:
            self.nodes["refused"] += 1
            return
        self.nodes[found[2]] += 1
        signed = sign(signed_socket_url(PUBLIC.replace("https", "wss") + found[1]), {}, AUTH_TOKEN)
        began_s = time.perf_counter()
        stream = await self._http.ws_connect(self._served.url + found[1], headers={"X-Twilio-Signature": signed})
        self.handshake_ms.append(1000 * (time.perf_counter() - began_s))
        self.streams.append(stream)
        start = {
            "event": "start",
            "sequenceNumber": "1",
            "streamSid": f"MZ{number:032x}",
            "start": {
                "accountSid": fields["AccountSid"],
                "callSid": fields["CallSid"],
                "streamSid": f"MZ{number:032x}",
                "tracks": ["inbound"],
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                "customParameters": {"token": token[1]},
            },
        }
        await stream.send_str(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        await stream.send_str(json.dumps(start))


async def spread(args: argparse.Namespace) -> None:
    environ = {"OFFHOOK_MAX_CALLS": str(args.calls + 10), "OFFHOOK_DRAIN_S": "0"}
    with tempfile.TemporaryDirectory() as folder:
        async with ModelServer(counting_script()) as model:
            opened = workers(Path(folder), AGENT, model, args.workers, environ)
            served = await asyncio.to_thread(opened.__enter__)
            try:
                connector = aiohttp.TCPConnector(limit=0)
                async with aiohttp.ClientSession(connector=connector) as http:
                    caller, room = Caller(served, http), asyncio.Semaphore(AT_ONCE)

                    async def one(number: int) -> None:
                        async with room:
                            await caller.place(number)

                    await asyncio.gather(*(one(number) for number in range(args.calls)))
                    await asyncio.sleep(1.0)
                    active = await asyncio.to_thread(served.series, "offhook_calls_active")
                    moved = await asyncio.to_thread(served.series, 'offhook_calls_moved_total{direction="taken"')
                    print(f"webhooks per worker   {dict(sorted(caller.nodes.items()))}")
                    print(f"streams per worker    {active}; taken over {sum(moved.values()):.0f}")
                    print(shown("webhook answered", caller.webhook_ms))
                    print(shown("stream's handshake", caller.handshake_ms))
                    for stream in caller.streams:
                        await stream.close()
            finally:
                await asyncio.to_thread(opened.__exit__, None, None, None)


async def hand_over() -> None:
    """Two routings on one loop: the figure is the transfer's, without another process' loop being busy."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page, names = Page(folder / "page", 2, create=True), ("w-0", "w-1")
        sender, receiver = (Routing(folder, names, slot, page, time.monotonic) for slot in (0, 1))
        sender.open()
        receiver.open()
        page.beat(1, time.monotonic())
        arrived = asyncio.Event()

        def received(descriptor: int, head: bytes, gone: object) -> None:
            os.close(descriptor)
            arrived.set()

        receiver.received = received
        ours, theirs = socket.socketpair()
        head = b"GET /twilio/n/w-1/media HTTP/1.1\r\n" + 20 * b"X-Header: value of some length\r\n" + b"\r\n"
        took_ms = []
        used_s = cpu_s(os.getpid())
        for _ in range(ROUNDS):
            began_s = time.perf_counter()
            assert sender.send(head, ours.fileno(), lambda taken: None)
            await arrived.wait()
            took_ms.append(1000 * (time.perf_counter() - began_s))
            arrived.clear()
        used_ms = 1000 * (cpu_s(os.getpid()) - used_s) / ROUNDS
        for one in (sender, receiver):
            one.close()
        ours.close()
        theirs.close()
    print(shown(f"hand-over alone, {ROUNDS} times", took_ms))
    print(f"{'CPU of both sides':36} {1000 * used_ms:.0f} us each")


async def main(args: argparse.Namespace) -> None:
    print(f"{args.calls} calls, {args.workers} workers, Python {platform.python_version()}, {os.cpu_count()} cores")
    await spread(args)
    await hand_over()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--workers", type=int, default=4)
    asyncio.run(main(parser.parse_args()))
