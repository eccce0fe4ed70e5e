"""A real gateway in this process, which listens on a port of its own and talks to a rehearsal model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.agent.spec import Agent
from offhook.gateway.app import Gateway
from offhook.gateway.config import settings_from
from offhook.gateway.live import LiveStore
from offhook.gateway.models.gemini.client import GeminiModel
from offhook.gateway.models.gemini.recovery import Patience
from offhook.gateway.rehearsal.model.reached import model_environ
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.quick_clock import running_clock
from tests.rig.sounds import SOUNDS

__all__ = ["FLEET_KEY", "node_environ", "numbered_agents", "serving"]

FLEET_KEY = "fleet-key-canary-1"


def node_environ(name: str, live: str = "") -> dict[str, str]:
    """The environment of a node of a fleet. `live`: the address of the live store, where `serving` is given none."""
    return {
        "OFFHOOK_INSECURE": "1",
        "OFFHOOK_REPLICA": name,
        "OFFHOOK_FLEET_KEY": FLEET_KEY,
        **({"OFFHOOK_LIVE": live} if live else {}),
    }


def numbered_agents(fields: Mapping[str, str]) -> tuple[dict[str, str], list[Agent]]:
    """One agent per name, and each agent's phone number by its name. `fields`: YAML beside name, numbers and
    instructions. The instructions are "plan NAME.", so that `id_after("plan", setup)` finds the script of a session.
    """
    numbers = {name: f"+1555020{i:04d}" for i, name in enumerate(fields)}
    agents = [
        parse_agent(
            f"name: {name}\nnumbers: ['{numbers[name]}']\ninstructions: 'plan {name}.'\n{yaml}\n",
            directory=str(SOUNDS),
        )
        for name, yaml in fields.items()
    ]
    return numbers, agents


@asynccontextmanager
async def serving(
    agents: Iterable[Agent],
    environ: Mapping[str, str],
    *,
    model: ModelServer | None = None,
    patience: Patience | None = None,
    live: LiveStore | None = None,
) -> AsyncIterator[tuple[Gateway, str]]:
    """The gateway and its URL, while it listens, on the running loop's clock. It reads `environ`, not the process'
    environment. `patience`: how long a lost model connection is retried, where a test cannot wait. `live`: the live
    store, in place of the one that `environ` names.
    """
    whole = {
        **({} if model is None else model_environ(model)),
        "OFFHOOK_PORT": "0",
        "OFFHOOK_SIMULATED": "1",
        **environ,
    }
    gateway = Gateway(settings_from(whole), list(agents), whole, running_clock(), live=live)
    if patience is not None and "gemini" in gateway.models:
        gemini = gateway.models["gemini"]
        assert isinstance(gemini, GeminiModel)
        gemini.patience = patience
    async with gateway.listening() as url:
        yield gateway, url
