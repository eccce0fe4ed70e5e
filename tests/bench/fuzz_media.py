"""Fuzz the media endpoint of a running gateway: structure-aware, seeded.

Whatever a peer sends over as many sockets as it likes: no exception escapes, every call it starts is over in the
end, and memory does not grow. Sound messages are taken apart, bent and mixed; some bytes are broken below them.
The model is left out (a link that goes nowhere): what is fuzzed is the carrier's side.

`python -m tests.bench.fuzz_media [seconds [seed]]`; ten minutes of it: 600. The suite runs a slice of some seconds.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import logging
import os
import random
import struct
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.app import Gateway
from offhook.gateway.config import settings_from
from offhook.gateway.conversation.events import ModelReady
from offhook.gateway.store.memory import MemoryRecords
from tests.bench.bending import bent, bent_bytes, bent_text

__all__ = ["Report", "fuzz"]

WORKERS = 8


@dataclass
class Report:
    """What came of it. `escaped`: exceptions that got out; memory at the start, after a quarter, at the end."""

    sockets: int = 0
    messages: int = 0
    escaped: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    start_bytes: int = 0
    warm_bytes: int = 0
    end_bytes: int = 0
    counted: dict[str, int] = field(default_factory=dict)


class NoModel:
    """A model link that is up and silent."""

    def __init__(self, call: Any) -> None:
        self._call, self._over = call, asyncio.Event()
        self.counts: Counter[str] = Counter()
        self.faults: deque[str] = deque()

    async def run(self) -> None:
        self._call.event(ModelReady(time.monotonic()))
        await self._over.wait()

    async def close(self) -> None:
        self._over.set()

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


async def fuzz(seconds: float, seed: int) -> Report:
    """So many seconds of it."""
    report = Report()

    class Escapes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info or record.levelno >= logging.ERROR:
                text = record.getMessage()
                report.escaped.append(f"{record.name}: {text}: {record.exc_info[1]!r}" if record.exc_info else text)

    handler = Escapes()
    logging.getLogger().addHandler(handler)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: report.escaped.append(str(context)))
    environ = {"GEMINI_API_KEY": "none", "OFFHOOK_INSECURE": "1", "OFFHOOK_PORT": "0", "OFFHOOK_MAX_CALLS": "50"}
    agent = parse_agent("name: fuzzed\nidle: {prompt_after_s: 0, goodbye_after_s: 0}\nbarge_in: {dtmf: true}\n")
    gateway = Gateway(settings_from(environ), [agent], environ)
    gateway.models["gemini"].link = lambda brief, call: NoModel(call)  # type: ignore[method-assign,assignment]
    try:
        async with gateway.listening() as url:
            host, _, port = url.removeprefix("http://").rpartition(":")
            until_s = time.monotonic() + seconds
            warm_s = time.monotonic() + seconds / 4
            report.start_bytes = memory_bytes()

            async def work(number: int) -> None:
                rng, turn = random.Random(f"{seed}/{number}"), 0
                while time.monotonic() < until_s:
                    turn += 1
                    await one_socket(rng, host, int(port), f"CA{number:03d}{turn:09d}", report)

            workers = [asyncio.create_task(work(n)) for n in range(WORKERS)]
            while time.monotonic() < warm_s:
                await asyncio.sleep(0.05)
            gc.collect()
            report.warm_bytes = memory_bytes()
            await asyncio.gather(*workers)
            async with asyncio.timeout(30):
                while gateway.calls:
                    await asyncio.sleep(0.05)
            assert isinstance(gateway.records, MemoryRecords)
            for record in gateway.records.recent(len(gateway.records)):
                gateway.records.forget(record.call_sid)
            gc.collect()
            report.end_bytes = memory_bytes()
            report.left_over = [
                t.get_name() for t in asyncio.all_tasks() if t.get_name().startswith(("call ", "carrier "))
            ]
            for line in gateway.metrics.render().decode().splitlines():
                name, _, value = line.rpartition(" ")
                if name.startswith("offhook_input_errors_total{") and float(value):
                    report.counted[name.partition("{")[2].rstrip("}")] = int(float(value))
    finally:
        logging.getLogger().removeHandler(handler)
    return report


def memory_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- one socket: a stream as Twilio's, somewhere along which things go wrong


async def one_socket(rng: random.Random, host: str, port: int, call_sid: str, report: Report) -> None:
    report.sockets += 1
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return
    upgrade = (
        f"GET /twilio/media HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    reading = asyncio.create_task(drain(reader))
    try:
        writer.write(bent_bytes(rng, upgrade) if rng.random() < 0.05 else upgrade)
        for message in conversation(rng, call_sid):
            if writer.is_closing() or reading.done():
                break
            report.messages += 1
            writer.write(frames(rng, message))
            if rng.random() < 0.3:
                await writer.drain()
                await asyncio.sleep(0 if rng.random() < 0.9 else rng.random() * 0.02)
        await writer.drain()
    except (ConnectionError, OSError):
        pass
    finally:
        if rng.random() < 0.5:
            writer.transport.abort()
        writer.close()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(65_536):
        pass


def conversation(rng: random.Random, call_sid: str) -> list[str]:
    """The texts of one stream: in order, then shuffled a little, bent a little, some left out."""
    stream_sid = "MZ" + call_sid[2:]
    start = {
        "event": "start", "sequenceNumber": "1", "streamSid": stream_sid,
        "start": {
            "accountSid": "AC1", "streamSid": stream_sid, "callSid": call_sid, "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}, "customParameters": {},
        },
    }  # fmt: skip
    said: list[Any] = [{"event": "connected", "protocol": "Call", "version": "1.0.0"}, start]
    for n in range(rng.randrange(60)):
        kind, sequence = rng.random(), str(n + 2)
        common = {"sequenceNumber": sequence, "streamSid": stream_sid}
        if kind < 0.8:
            size = 160 if rng.random() < 0.8 else rng.choice((1, 159, 161, 320, 1_600, 7_919, 8_000))
            payload = base64.b64encode(rng.randbytes(size)).decode()
            media = {"track": "inbound", "chunk": str(n + 1), "timestamp": str(n * 20), "payload": payload}
            said.append({"event": "media", **common, "media": media})
        elif kind < 0.9:
            name = rng.choice(("r1.2400.0", "c1", "c9999999", "r1.0.1", "hello", "r" + "9" * 400))
            said.append({"event": "mark", **common, "mark": {"name": name}})
        else:
            said.append(
                {"event": "dtmf", **common, "dtmf": {"track": "inbound_track", "digit": rng.choice("0123456789*#AZ")}}
            )
    if rng.random() < 0.6:
        said.append({"event": "stop", "streamSid": stream_sid, "stop": {"callSid": call_sid}})
    if rng.random() < 0.3:
        at = rng.randrange(len(said))
        said[at:at] = [said[rng.randrange(len(said))] for _ in range(rng.randrange(4))]
    if rng.random() < 0.2:
        del said[rng.randrange(len(said))]
    texts = []
    for value in said:
        bend_it = rng.random() < 0.12
        text = json.dumps(bent(rng, value) if bend_it else value)
        texts.append(bent_text(rng, text) if rng.random() < 0.05 else text)
    return texts


def frames(rng: random.Random, text: str) -> bytes:
    """The text as WebSocket frames: as a rule one, now and then what the protocol forbids."""
    data = text.encode("utf-8", "surrogatepass")
    how = rng.random()
    if how < 0.93:
        return frame(1, data)
    if how < 0.95 and len(data) > 2:
        cut = rng.randrange(1, len(data))
        return frame(1, data[:cut], fin=False) + frame(0, data[cut:], fin=rng.random() < 0.8)
    if how < 0.96:
        return frame(2, data)
    if how < 0.97:
        return frame(9, data[:100]) * rng.randrange(1, 20) + frame(1, data)
    if how < 0.975:
        return frame(rng.choice((3, 7, 11, 15)), data[:50])
    if how < 0.98:
        return frame(8, struct.pack("!H", rng.choice((0, 999, 1000, 1005, 4999, 65535))) + data[:200])
    if how < 0.985:
        return frame(1, b" " * 70_000)
    if how < 0.99:
        return rng.randbytes(rng.randrange(1, 200))
    return bent_bytes(rng, frame(1, data))


def frame(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
    first = opcode | (0x80 if fin else 0)
    if len(data) < 126:
        head = struct.pack("!BB", first, 0x80 | len(data))
    elif len(data) < 65_536:
        head = struct.pack("!BBH", first, 0x80 | 126, len(data))
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, len(data))
    return head + bytes(4) + data


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    logging.disable(logging.WARNING)
    report = asyncio.run(fuzz(seconds, seed))
    print(f"seed {seed}: {report.sockets} sockets, {report.messages} messages in {seconds:g} s")
    for labels, count in sorted(report.counted.items()):
        print(f"  {labels}: {count}")
    memory = (report.start_bytes, report.warm_bytes, report.end_bytes)
    print("memory at the start, after a quarter, at the end: " + ", ".join(f"{n / 2**20:.1f} MiB" for n in memory))
    for line in dict.fromkeys(report.escaped):
        print(f"ESCAPED: {line[:300]}")
    for line in report.left_over:
        print(f"LEFT OVER: {line}")
    return bool(report.escaped or report.left_over)


if __name__ == "__main__":
    raise SystemExit(main())
