"""Softphone calls: CPU of the gateway per second of call, beside as many calls over the simulated carrier's wire.

Both hear the same replies and stay silent, in turn, each kind at a gateway process of its own. The pages are those of
`tests/rig/page.py`: a Chromium for each call would take the machine that is measured.

    python -m tests.bench.bench_softphone [--calls 10] [--seconds 20]
    python -m tests.bench.bench_softphone --interrupt 25    # in Chromium: onset to silence at the loudspeaker
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp

from offhook.gateway.rehearsal.model.script import Reply, Say
from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause
from tests.carriers.softphone.desk import desk, microphone
from tests.rig.chromium import own_chromium
from tests.rig.page import Page, streaming
from tests.rig.process import cpu_s, spawn

SETTLE_S = 3.0
EVERY_S = 4.0  # from one interruption to the next
Call = Callable[[str, float], Coroutine[Any, Any, None]]


async def page_call(url: str, seconds: float) -> None:
    async with aiohttp.ClientSession() as http:
        page = Page(http, url)
        async with streaming(page, await page.begin()) as socket:
            await asyncio.sleep(seconds)
            await socket.send_json({"type": "hang_up"})


async def telephone_call(url: str, seconds: float) -> None:
    await SimulatedCall(url, (Pause(1000 * seconds), HangUp()), direct=True).run()


async def measured(url: str, pid: int, call: Call, calls: int, seconds: float) -> float:
    """ms of CPU per second of call, once all calls are up."""
    tasks = []
    for _ in range(calls):
        tasks.append(asyncio.create_task(call(url, SETTLE_S + seconds + 2.0)))
        await asyncio.sleep(0.1)
    await asyncio.sleep(SETTLE_S)
    before_s = cpu_s(pid)
    await asyncio.sleep(seconds)
    used_s = cpu_s(pid) - before_s
    assert not any(task.done() for task in tasks), "a call ended early"
    await asyncio.gather(*tasks)
    return 1000 * used_s / (calls * seconds)


async def interrupted(times: int) -> None:
    """One call in Chromium, whose caller interrupts again and again. The page reports a clear once its loudspeaker is
    silent: rendering stopped, and the device's own latency passed.
    """
    with tempfile.TemporaryDirectory() as folder:
        spoken = ((3.0 + EVERY_S * n, "wait_stop") for n in range(times))
        mic = microphone(Path(folder) / "mic.wav", *spoken)
        greeting = Reply("text", (Say("Hello.", length_ms=20_000),))
        more = Reply("caller", (Say("As I said.", length_ms=20_000),))
        async with desk(greeting, default=more) as (gateway, url, _), own_chromium(mic) as browser:
            page = await browser.new_page()
            await page.goto(f"{url}/console/talk?agent=desk")
            await page.get_by_role("button", name="Call", exact=True).click()
            await page.get_by_role("status").filter(has_text="On the line").wait_for()
            (call,) = gateway.calls.values()
            await asyncio.sleep(5.0 + EVERY_S * times)
            await page.get_by_role("button", name="Hang up").click()
            await call.over()
    for name in ("bargein_silence", "bargein_detect", "bargein_stop"):
        values = sorted(one.segments[name] for one in call.record.barge_ins if name in one.segments)
        p50, p95 = (values[min(len(values) - 1, int(share * len(values)))] for share in (0.5, 0.95))
        print(f"{name}: {len(values)} times, P50 {p50:.0f} ms, P95 {p95:.0f} ms, longest {values[-1]:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--interrupt", type=int, default=0)
    given = parser.parse_args()
    if given.interrupt:
        asyncio.run(interrupted(given.interrupt))
        return
    with tempfile.TemporaryDirectory() as folder:
        ca, agent = f"{folder}/ca.pem", Path(folder, "agent.yaml")
        agent.write_text("name: desk\ngreeting: {text: Greet the caller.}\n")
        model, model_url = spawn(["-m", "tests.bench.bench_calls", "--model", ca], dict(os.environ))
        environ = {
            **os.environ,
            "GOOGLE_GEMINI_BASE_URL": model_url,
            "SSL_CERT_FILE": ca,
            "GEMINI_API_KEY": "rehearsal",
            "OFFHOOK_INSECURE": "1",
            "OFFHOOK_PORT": "0",
            "OFFHOOK_AGENT": str(agent),
            "OFFHOOK_SOFTPHONE_CALLS": "1000",
            "OFFHOOK_LOG_LEVEL": "warning",
        }
        figures = {}
        for kind, call in (("telephone", telephone_call), ("softphone", page_call)):
            process, url = spawn(["-m", "offhook", "serve"], environ)
            try:
                figures[kind] = asyncio.run(measured(url, process.pid, call, given.calls, given.seconds))
            finally:
                process.kill()
                process.wait()
            print(f"{kind}: {figures[kind]:.2f} ms of CPU per second of call, {given.calls} calls", flush=True)
        model.kill()
        print(f"softphone / telephone: {figures['softphone'] / figures['telephone']:.2f}")


if __name__ == "__main__":
    main()
