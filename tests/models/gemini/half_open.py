"""A line that dies without a word: run in a network of its own, whose loopback is switched off in mid-call.

`unshare -rn python tests/models/gemini/half_open.py` prints how long the link took to notice and what it did then.
"""

from __future__ import annotations

import asyncio
import subprocess
import time

from offhook.gateway.conversation.events import ModelDown, ModelReady
from offhook.gateway.models.gemini import wire as gemini_wire
from offhook.gateway.rehearsal.model.script import Script
from tests.models.gemini.link_rig import eventually, linked


def loopback(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


async def main() -> None:
    gemini_wire.UNACKNOWLEDGED_MAX_MS = 1_500
    loopback("up")
    # The server does not notice either: it refuses to resume what it takes for a session in use.
    async with linked(Script(), violations=True) as rig:

        async def talk() -> None:
            while True:
                rig.say(bytes(640))
                await asyncio.sleep(0.02)

        talking = asyncio.create_task(talk())
        await eventually(lambda: rig.link.handle)
        loopback("down")
        down_s = time.monotonic()
        await rig.sink.until_event(ModelDown, timeout_s=30)
        print(f"noticed after {time.monotonic() - down_s:.1f} s")
        loopback("up")
        await rig.sink.until_event(ModelReady, 2, timeout_s=30)
        await eventually(lambda: rig.server.sessions[-1].audio_bytes > 16_000)
        print(f"heard again after {time.monotonic() - down_s:.1f} s", *rig.link.faults, sep="\n")
        talking.cancel()


if __name__ == "__main__":
    asyncio.run(main())
