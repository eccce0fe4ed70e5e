"""Azure's variant differs in the address, the key's header and the model's name: a session with the rehearsal model at
an address that has Azure's form. Azure itself was not tried.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.errors import ModelRefused
from offhook.gateway.models.openai.client import OpenAIModel, OpenAISettings
from offhook.gateway.models.openai.setup import session_config
from offhook.gateway.providers import check_agent
from offhook.gateway.rehearsal.model.script import Script
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.media.formats import MULAW_8K

HOST = "desk.openai.azure.com"
DEPLOYMENT = "our desk's voice"
AGENT = parse_agent(f"name: a\nmodel: {{provider: openai, name: {DEPLOYMENT!r}}}\n")


@pytest.fixture
def azure_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name resolves to this machine."""
    found = socket.getaddrinfo

    def getaddrinfo(host: Any, *more: Any, **others: Any) -> Any:
        return found("127.0.0.1" if host == HOST else host, *more, **others)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("azure_is_here")
@pytest.mark.parametrize("key", ["azure-key", "another-key"])
async def test_session_at_an_address_of_azures_form(key: str) -> None:
    async with ModelServer(Script(), tls=False, api_keys=frozenset({"azure-key"})) as server:
        port = server.url.rpartition(":")[2]
        environ = {"OPENAI_API_KEY": key, "OPENAI_BASE_URL": f"http://{HOST}:{port}/openai/v1"}
        model = OpenAIModel(OpenAISettings.read(environ))
        config = session_config(AGENT, (), "Be brief.", caller=MULAW_8K, line=MULAW_8K)
        if key != "azure-key":
            with pytest.raises(ModelRefused) as refused:
                async with model.session(DEPLOYMENT, config, asyncio.timeout(5)):
                    pass
            assert refused.value.code == 3000
            assert key not in refused.value.reason
            return
        async with model.session(DEPLOYMENT, config, asyncio.timeout(5)) as (_, expires_at):
            assert expires_at
        (session,) = server.sessions
        assert (session.path, session.auth, session.model) == ("/openai/v1/realtime", "key", DEPLOYMENT)
        assert session.setup["instructions"] == "Be brief."
        assert not server.violations


def test_any_deployment_name_is_taken_there() -> None:
    environ = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"https://{HOST}/openai/v1"}
    assert check_agent(AGENT, (), environ) == []
    assert check_agent(AGENT, (), {}) != []
