"""A gateway with some past calls, for programs that test its API: python -m tests.web.served_history FOLDER."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.media.wav import write_wav
from tests.rig.gateway import serving
from tests.store.made import NOON_MS, record

TOKEN = "only-for-this-test"


async def main(folder: Path) -> None:
    """Serve until it is killed; the URL is printed."""
    write_wav(folder / "CA3.wav", np.zeros(1_600, np.int16), 8_000)
    settings = {
        "OFFHOOK_API_TOKEN": TOKEN,
        "OFFHOOK_DATA_DIR": str(folder),
        "OFFHOOK_ADMIN_PORT": "0",
        "OFFHOOK_CALLS_PER_S": "0.01",
        "OFFHOOK_PUBLIC_URL": "https://voice.example.com",
        "OFFHOOK_TWILIO_BASE_URL": "http://127.0.0.1:9",
        "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
        "TWILIO_AUTH_TOKEN": "not-a-token",
    }
    agents = [parse_agent("name: desk\ninstructions: x\nnumbers: ['+15550200000']\n")]
    async with ModelServer(lambda _: Script(())) as model, serving(agents, settings, model=model) as (gateway, url):
        for i in range(30):
            gateway.records.keep(
                record(f"CA{i}", at_ms=NOON_MS + i, recording=str(folder / "CA3.wav") if i == 3 else "")
            )
        print(f"serving on {url}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
