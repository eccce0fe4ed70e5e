"""Two sides change a call at once: our REST request and the end of its stream. Over HTTP, many calls at a time.

The same in virtual time, a thousand of each: tests/carriers/twilio/test_steering.py.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import WaitForEnd
from tests.carriers.twilio.telephone_rig import GREETING, Exchange, exchange

CALLS = 16
AGENTS = {"desk": ("greeting: {text: Greet.}\nfallback: {say: Nobody is there.}", Script((GREETING,)))}


async def raced(x: Exchange, rng: random.Random) -> tuple[list[str], str]:
    """Put on hold by REST at the moment at which the stream dies or is about to, then handed on."""
    dies_s = rng.uniform(0.3, 1.2)
    call = x.call("desk", WaitForEnd(30_000), carrier=Carrier(drop_after_s=dies_s))
    running = asyncio.create_task(call.run())
    await x.until(lambda: call.truth.streams)
    await asyncio.sleep(max(0.0, dies_s + rng.uniform(-0.15, 0.1)))
    first, second = await asyncio.gather(
        x.api("POST", f"/calls/{call.call_sid}/hold", {}),
        x.api("POST", f"/calls/{call.call_sid}/transfer", {"to": "+15550170001"}),
    )
    assert {first[0], second[0]} <= {200, 409}
    if second[0] == 200 and first[0] == 200:  # held before it was handed on: the end waits for nobody
        await x.api("POST", f"/calls/{call.call_sid}/resume")
    truth = await running
    record = await x.record(call.call_sid)
    return [a.verb for a in truth.announced], record.end_reason


async def test_racing_hold_and_loss_transfers_once() -> None:
    rng = random.Random(7)
    async with exchange(AGENTS) as x:
        outcomes = await asyncio.gather(*(raced(x, random.Random(rng.random())) for _ in range(CALLS)))
        await x.until(lambda: not x.gateway.calls)
        assert x.gateway.admission.calls == 0
        assert not [labels for labels in x.counted("calls_total") if "internal_error" in labels]
    verbs = Counter(verb for announced, _ in outcomes for verb in announced)
    print(dict(verbs), Counter(reason for _, reason in outcomes))
    for announced, reason in outcomes:
        assert announced.count("dial") == 1, (announced, reason)
        assert announced[-1] == "hangup", (announced, reason)
        assert reason == "transferred"
