"""Calls of a caller who thinks through a real gateway in this process, from short scripts of both sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offhook.gateway.rehearsal.account import CONSOLE_TOKEN
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.quick_clock import running_clock
from offhook.gateway.rehearsal.results.report import CallReport
from offhook.gateway.rehearsal.run import PUBLIC_URL, rehearse
from offhook.gateway.rehearsal.scenario.load import Scenario, parse_scenario
from offhook.gateway.rehearsal.thinking.party import party_for
from offhook.gateway.yamlfile import write_yaml
from tests.rig.gateway import serving

__all__ = ["hum", "played", "talk"]


def hum(text: str, ms: float = 500, **more: Any) -> dict[str, Any]:
    """A line that needs no synthesiser."""
    return {"say": text, "length_ms": ms, "delay_ms": 50, **more}


def talk(asks: list[Any], answers: list[Any], judges: list[Any], **more: Any) -> Scenario:
    """A scenario of these replies. `more`: further fields; those of `caller` are merged into it."""
    person = {"persona": "A guest.", "goal": "A table.", "script": {"replies": asks}, **more.pop("caller", {})}
    fields = {
        "name": "talk",
        "agent": {"name": "anna", "greeting": {"text": "Greet."}, **more.pop("agent_fields", {})},
        "caller": person,
        "model": {"replies": answers},
        "success": ["The agent offered a table.", "The agent named the time."],
        "judge": {"script": {"replies": judges}},
        **more,
    }
    return parse_scenario(write_yaml(fields))


async def played(scenario: Scenario, real: Mapping[str, str] | None = None) -> CallReport:
    """The report of the scenario's call. `real`: the environment with the keys of caller and judge."""
    clock = running_clock()
    environ = {"OFFHOOK_INSECURE": "1", "OFFHOOK_CONSOLE_TOKEN": CONSOLE_TOKEN, "OFFHOOK_PUBLIC_URL": PUBLIC_URL}
    async with (
        ModelServer(scenario.script(), clock=clock) as model,
        serving([scenario.agent], environ, model=model) as (_, url),
        party_for(scenario, real=real is not None, clock=clock, environ=real or {}) as party,
    ):
        [(_, report)] = await rehearse(scenario, url, model, auth_token=None, party=party, clock=clock)
    return report
