"""`offhook talk`: a gateway, its page and, without a key, a model that answers from its script."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import aiohttp
import pytest

from offhook.gateway.cli.talk import environ_of, has_key
from offhook.gateway.config import settings_from
from tests.rig.page import Page, streaming


@pytest.mark.parametrize(
    ("environ", "provider", "has"),
    [
        ({}, "gemini", False),
        ({"GEMINI_API_KEY": "k"}, "gemini", True),
        ({"GOOGLE_API_KEY": "k"}, "gemini", True),
        ({"GOOGLE_GENAI_USE_VERTEXAI": "1"}, "gemini", True),
        ({"GEMINI_API_KEY": "k"}, "openai", False),
        ({"OPENAI_API_KEY": "k"}, "openai", True),
    ],
)
def test_a_key_decides_who_answers(environ: dict[str, str], provider: str, has: bool) -> None:
    assert has_key(environ, provider) is has


def test_gateway_listens_on_loopback_alone() -> None:
    settings = settings_from(environ_of({"OFFHOOK_HOST": "0.0.0.0", "OFFHOOK_PUBLIC_URL": "https://voice.example.com"}))
    assert (settings.host, settings.public_url, settings.insecure, settings.port) == ("127.0.0.1", "", True, 0)


def test_a_deployments_settings_are_left_out() -> None:
    deployed = {
        "OFFHOOK_CONSOLE_TOKEN": "console-token-of-16",
        "OFFHOOK_CONSOLE_READ_TOKEN": "read-token-of-16-characters",
        "OFFHOOK_LIVE": "redis://fleet:6379/0",
        "OFFHOOK_FLEET_KEY": "fleet-key-of-16-characters",
        "OFFHOOK_DATA_DIR": "/var/lib/offhook",
        "OFFHOOK_DATABASE_URL": "postgresql://db/calls",
        "OFFHOOK_WEBHOOK_URL": "https://crm.example.com",
        "TWILIO_AUTH_TOKEN": "token",
        "SHOP_KEY": "of a tool",
        "OFFHOOK_PORT": "8123",
    }
    kept = environ_of(deployed)
    assert kept["SHOP_KEY"] == "of a tool"
    settings = settings_from(kept)
    assert settings.port == 8123
    assert not any((settings.console_token, settings.console_read_token, settings.live, settings.fleet_key))
    assert not any((settings.data_dir, settings.database_url, settings.webhook_url, settings.twilio_auth_tokens))


@pytest.mark.wall_clock
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("provider", ["gemini", "openai"])
async def test_agent_is_heard_without_a_key(tmp_path: Path, provider: str) -> None:
    (tmp_path / "agent.yaml").write_text(
        f"name: front desk\ninstructions: Answer.\ngreeting: {{text: Greet.}}\nmodel: {{provider: {provider}}}\n"
    )
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GEMINI", "GOOGLE", "OPENAI", "OFFHOOK"))
    }
    command = [sys.executable, "-m", "offhook", "talk", str(tmp_path / "agent.yaml"), "--no-open"]
    process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(40), aiohttp.ClientSession() as http:
            lines = []
            while not (found := re.search(r"^talk to front desk: (http://\S+?)/console/talk\?", "".join(lines), re.M)):
                lines.append((await process.stdout.readline()).decode())
                assert lines[-1], lines
            assert "the rehearsal model answers, from its script" in "".join(lines)
            page = Page(http, found[1])
            async with streaming(page, await page.begin("front desk")) as socket:
                await page.until_heard(0.5)
                await socket.send_json({"type": "hang_up"})
    finally:
        process.terminate()
        assert await process.wait() == 0
