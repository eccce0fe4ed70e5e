"""Listening in: what a frame of a mu-law call costs more, without a listener and with some, in microseconds of CPU.

python -m tests.bench.bench_listen
"""

from __future__ import annotations

import asyncio
import time

import aiohttp

from tests.carriers.softphone.desk import desk
from tests.rig.page import Page, streaming

FRAMES, ROUNDS = 2_000, 5


async def main() -> None:
    async with (
        desk(environ={"OFFHOOK_LISTENERS": "10"}, fields="listen_in: true") as (gateway, url, _),
        aiohttp.ClientSession() as http,
    ):
        page = Page(http, url)
        async with streaming(page, await page.begin()) as socket:
            (call,) = gateway.calls.values()
            await asyncio.sleep(1.0)
            codes = b"\x55" * 160
            for listeners in (0, 1, 10):
                listenings = [call.tap.open(f"operator {n}") for n in range(listeners)]
                best = float("inf")
                for _ in range(ROUNDS):
                    now_s, began_s = call.clock(), time.process_time()
                    for n in range(FRAMES):  # nothing else runs meanwhile
                        if call.hearing.tap is not None:
                            call.hearing.tap.caller(codes, now_s + n * 0.02, hidden=False)
                    best = min(best, time.process_time() - began_s)
                print(f"{listeners} listening: {1e6 * best / FRAMES:.2f} us a frame")
                for listening in listenings:
                    assert listening is not None
                    listening.leave()
            await socket.send_json({"type": "hang_up"})


if __name__ == "__main__":
    asyncio.run(main())
