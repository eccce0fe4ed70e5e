"""A host that vanishes closes no stream: its calls are brought to another node by REST, or ended there on request."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from offhook.gateway.rehearsal.cluster.calls import owner_of
from offhook.gateway.rehearsal.cluster.processes import AUTH_TOKEN, PUBLIC, cluster
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.twilio_account import SimulatedTwilio
from tests.needs import require
from tests.rig.counting import AGENT, counting_script

pytestmark = pytest.mark.wall_clock
API_TOKEN = "api-token-canary-1234"


async def test_calls_of_a_dead_host_are_reached(tmp_path: Path) -> None:
    require("haproxy")
    async with (
        ModelServer(counting_script()) as model,
        SimulatedTwilio(public_url=PUBLIC, auth_token=AUTH_TOKEN) as twilio,
        cluster(
            tmp_path,
            AGENT,
            model,
            f"sqlite:{tmp_path}/live.db",
            count=2,
            environ={**twilio.environ(), "OFFHOOK_API_TOKEN": API_TOKEN},
            watched=False,
        ) as rig,
    ):
        twilio.gateway_url = rig.url
        calls = [twilio.inbound() for _ in range(4)]
        tasks = [asyncio.create_task(call.run()) for call in calls]
        async with asyncio.timeout(20):
            while not all(call.truth.agent for call in calls):
                await asyncio.sleep(0.05)
        dead = owner_of(calls[0])
        lost = [call for call in calls if owner_of(call) == dead]
        (other,) = set(rig.gateways) - {dead}
        rig.gateways[dead].signal(signal.SIGSTOP)  # as a host that is gone: nothing is closed, nothing answers
        headers = {"Authorization": f"Bearer {API_TOKEN}"}
        url = f"{rig.gateways[other].url}/calls/{lost[0].call_sid}/hang_up"
        async with rig.http.post(url, headers=headers, json={}) as answer:
            assert answer.status == 200, await answer.text()
        async with asyncio.timeout(5):
            while not lost[0].over:
                await asyncio.sleep(0.02)
        assert lost[0].truth.ended_by == "rest"
        async with asyncio.timeout(20):
            while not all(owner_of(call) == other and call.truth.streams[-1].started_s for call in lost[1:]):
                await asyncio.sleep(0.1)
        assert not any(call.over for call in lost[1:])
        steered = [request for request in twilio.requests if request.method == "POST"]
        assert sorted(request.path for request in steered) == sorted(f"/Calls/{call.call_sid}.json" for call in lost)
        for call in calls:
            call.hang_up()
        rig.gateways[dead].end()  # the carrier's reports to it wait no longer
        await asyncio.gather(*tasks)
        console = f"{rig.gateways[other].admin_url}/console/api/calls/{lost[0].call_sid}"
        async with rig.http.get(console, headers={"Authorization": "Bearer console-token-canary"}) as answer:
            record = await answer.json()
        assert record["end_reason"] == "agent_hung_up"
