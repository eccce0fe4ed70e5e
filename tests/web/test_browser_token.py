"""`POST /console/token`: a browser talks to Gemini itself, with an agent's setup and no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from offhook.gateway.agent.spec import Agent
from offhook.gateway.app import Gateway
from offhook.gateway.config import settings_from
from offhook.gateway.models.gemini.client import GeminiModel
from offhook.gateway.models.gemini.settings import GeminiSettings
from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.quick_clock import running_clock

AGENT = Agent(name="desk", voice="Puck", instructions="Only weather.")


@asynccontextmanager
async def listening(**extra: str) -> AsyncIterator[tuple[str, ModelServer, dict[str, str]]]:
    async with ModelServer(Script()) as model:
        environ = {
            "GOOGLE_GEMINI_BASE_URL": model.url,
            "SSL_CERT_FILE": model.ca_path,
            "GEMINI_API_KEY": "rehearsal",
            "OFFHOOK_INSECURE": "1",
            "OFFHOOK_PORT": "0",
            **extra,
        }
        async with Gateway(settings_from(environ), [AGENT], environ, running_clock()).listening() as url:
            yield url, model, environ


def asked(body: object = None, headers: dict[str, str] | None = None, **extra: str) -> tuple[int, str, str]:
    """(status, body, the setup that a browser with this token got)."""

    async def ask() -> tuple[int, str, str]:
        async with listening(**extra) as (url, model, environ), aiohttp.ClientSession() as http:
            async with http.post(f"{url}/console/token", json=body or {}, headers=headers) as answer:
                if answer.status != 200:
                    return answer.status, await answer.text(), ""
                assert answer.headers["Cache-Control"] == "no-store"
                given = await answer.json()
            with_token = {**environ, "GEMINI_API_KEY": given["token"], "GOOGLE_GENAI_API_VERSION": "v1beta"}
            browser = GeminiModel(GeminiSettings.read(with_token))
            wished = {"response_modalities": ["AUDIO"], "system_instruction": "Anything goes."}
            async with browser.session(given["model"], wished, asyncio.timeout(5)):
                pass
            await browser.close()
            return 200, str(given), str(model.sessions[-1].setup)

    return asyncio.run(ask())


def test_off_unless_switched_on() -> None:
    status, said, _ = asked()
    assert status == 404
    assert "OFFHOOK_BROWSER_TOKENS=1" in said


def test_token_opens_only_a_session_of_the_agent() -> None:
    status, given, setup = asked({"agent": "desk"}, OFFHOOK_BROWSER_TOKENS="1")
    assert status == 200
    assert "auth_tokens/" in given
    assert "rehearsal" not in given  # the key itself
    assert "Only weather." in setup
    assert "Anything goes" not in setup


def test_an_agent_nobody_knows_is_refused() -> None:
    status, said, _ = asked({"agent": "nobody"}, OFFHOOK_BROWSER_TOKENS="1")
    assert (status, said) == (400, "no such agent: one of desk\n")


def test_only_for_those_who_may_see_the_console() -> None:
    on = {"OFFHOOK_BROWSER_TOKENS": "1", "OFFHOOK_CONSOLE_TOKEN": "open sesame, please"}
    assert asked(**on)[0] == 401
    assert asked(headers={"Authorization": "Bearer wrong"}, **on)[0] == 401
    assert asked(headers={"Authorization": "Bearer open sesame, please"}, **on)[0] == 200
