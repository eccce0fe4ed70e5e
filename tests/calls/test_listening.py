"""Where a gateway listens."""

from __future__ import annotations

import socket

import aiohttp
import pytest

from offhook.gateway.agent.load import parse_agent
from tests.rig.gateway import serving

ENVIRON = {"TWILIO_AUTH_TOKEN": "t", "OFFHOOK_PUBLIC_URL": "https://voice.example.com", "GEMINI_API_KEY": "k"}


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return socket.has_dualstack_ipv6()
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(("host", "families"), [("::", ["127.0.0.1", "[::1]"]), ("[::]", ["127.0.0.1", "[::1]"])])
async def test_all_addresses_are_those_of_both_families(host: str, families: list[str]) -> None:
    agent = parse_agent("name: a")
    async with serving([agent], {**ENVIRON, "OFFHOOK_HOST": host}) as (_, url), aiohttp.ClientSession() as http:
        port = url.rpartition(":")[2]
        for family in families:
            async with http.get(f"http://{family}:{port}/livez") as answer:
                assert (answer.status, await answer.text()) == (200, "alive\n")
