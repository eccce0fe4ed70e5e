"""A gateway with a database: a call that is asked for twice rings once, after a restart, too."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.phone.twilio_account import Callee
from offhook.gateway.rehearsal.quick_clock import run_quickly
from tests.carriers.twilio.telephone_rig import API_TOKEN, Exchange, exchange

TO = "+15550300006"
DESK = {"desk": ("fallback: {say: Nobody is there.}", Script(()))}


async def ask(x: Exchange, key: str, to: str = TO) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {API_TOKEN}", "Idempotency-Key": key}
    async with x.http.post(f"{x.url}/calls", json={"to": to}, headers=headers) as answer:
        return answer.status, await answer.json()


def test_a_key_outlives_the_gateway(tmp_path: Path) -> None:
    async def story() -> None:
        environ = {"OFFHOOK_DATA_DIR": str(tmp_path)}
        async with exchange(DESK, callees=lambda _: Callee(answers="busy"), environ=environ) as x:
            answers = await asyncio.gather(*(ask(x, "order 17") for _ in range(4)))
            assert {status for status, _ in answers} == {202}
            (id,) = {placed["id"] for _, placed in answers}
            state: dict[str, Any] = {}
            async with asyncio.timeout(20):
                while state.get("status") != "busy":
                    _, state = await x.api("GET", f"/calls/{id}")
                    await asyncio.sleep(0.05)
            assert len(x.twilio.placed) == 1
            assert (await ask(x, "order 17", "+15550300007"))[0] == 409
        async with exchange(DESK, environ=environ) as x:
            status, again = await ask(x, "order 17")
            assert (status, again) == (202, state)
            await ask(x, "order 18", "+15550300007")
            await x.until(lambda: x.twilio.placed)  # the oldest is placed first
            assert [call["to"] for call in x.twilio.placed] == ["+15550300007"]

    run_quickly(lambda _: story())
