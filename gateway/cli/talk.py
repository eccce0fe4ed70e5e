"""`offhook talk`: a gateway on loopback, and its page in the browser; without a key the rehearsal model answers."""

from __future__ import annotations

import asyncio
import time
import webbrowser
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from offhook.gateway.agent.load import load_agent
from offhook.gateway.cli.serve import serve
from offhook.gateway.config import settings_from
from offhook.gateway.models.gemini.settings import GeminiSettings
from offhook.gateway.providers import provider_of, with_provider

if TYPE_CHECKING:
    from offhook.gateway.rehearsal.model.script import Script

__all__ = ["environ_of", "has_key", "talk"]

KEPT = frozenset(
    ("OFFHOOK_PORT", "OFFHOOK_PROVIDER", "OFFHOOK_LOG_LEVEL", "OFFHOOK_PRICES", "OFFHOOK_SIMULATED_EFFECTS")
)
HELLO = "Hello. This is the rehearsal model. It answers from its script, whatever you say."
ANSWER = (
    "I heard you, and I always say this. Interrupt me whenever you like: the page shows how soon I fell silent, and "
    "how much of this you heard. Set a key to talk to the real model."
)


def has_key(environ: Mapping[str, str], provider: str = "gemini") -> bool:
    """Whether the environment has what this provider's model asks for."""
    if provider == "openai":
        return bool(environ.get("OPENAI_API_KEY"))
    found = GeminiSettings.found(environ)
    return bool(found.api_key or found.vertex)


def environ_of(environ: Mapping[str, str]) -> dict[str, str]:
    """For a gateway that this machine alone reaches. Of a deployment's settings, which may stand in the same file, it
    has `KEPT` alone: no public URL and no passwords, and it joins no other processes, database or webhooks.
    """
    own = {"OFFHOOK_INSECURE": "1", "OFFHOOK_HOST": "127.0.0.1"}
    loopback = ",".join(filter(None, (environ.get("NO_PROXY"), "127.0.0.1", "localhost")))
    shared = {
        name: value for name, value in environ.items() if name in KEPT or not name.startswith(("OFFHOOK_", "TWILIO_"))
    }
    return {"OFFHOOK_PORT": "0", **shared, **own, "NO_PROXY": loopback}


async def talk(path: Path, script: Path | None, environ: Mapping[str, str], *, open_page: bool = True) -> None:
    """Serve the agent of this file until stopped. `script`: a scenario whose `model` part answers instead of a model.

    Raises `OperatorError`.
    """
    agent, whole = load_agent(path), environ_of(environ)
    provider = provider_of(with_provider(agent, environ.get("OFFHOOK_PROVIDER", "")))
    async with AsyncExitStack() as stack:
        if script is not None or not has_key(environ, provider):
            from offhook.gateway.rehearsal.model.reached import model_environ
            from offhook.gateway.rehearsal.model.server import ModelServer

            answers = await asyncio.to_thread(_script, script)
            model = await stack.enter_async_context(ModelServer(answers, clock=time.monotonic))
            whole |= {**model_environ(model), "OFFHOOK_SIMULATED": "1"}
            key = "OPENAI_API_KEY to talk to OpenAI" if provider == "openai" else "GEMINI_API_KEY to talk to Gemini"
            print(f"the rehearsal model answers, from its script: set {key}", flush=True)

        def up(url: str) -> None:
            page = f"{url}/console/talk?agent={quote(agent.name)}"
            print(f"talk to {agent.name}: {page}", flush=True)
            if open_page:
                webbrowser.open(page)

        await serve(settings_from(whole), [agent], whole, up)


def _script(path: Path | None) -> Script:
    from offhook.gateway.rehearsal.model.script import Reply, Say, Script
    from offhook.gateway.rehearsal.phone.voice import VoiceError, wav_for
    from offhook.gateway.rehearsal.scenario.load import load_scenario

    if path is not None:
        return load_scenario(path).script()

    def say(text: str) -> Say:
        try:
            return Say(text, wav_for(text))
        except VoiceError:  # no recording and no espeak-ng: it hums, and the page shows the words
            return Say(text)

    return Script((Reply("text", (say(HELLO),)),), default=Reply("caller", (say(ANSWER),)))
