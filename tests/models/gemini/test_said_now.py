"""`{{now}}` in an agent's instructions: the date and time in the agent's time zone."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from offhook.gateway.agent.spec import Agent
from offhook.gateway.models.gemini.link import said_now

FORMAT = "%A %d %B %Y, %H:%M %Z"


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", "Europe/Berlin"])
def test_now_is_in_the_agents_time_zone(zone: str) -> None:
    before = datetime.now(ZoneInfo(zone)).strftime(FORMAT)
    now = said_now(Agent(name="a", timezone=zone), {})["now"]
    assert now in (before, datetime.now(ZoneInfo(zone)).strftime(FORMAT))


def test_now_without_a_time_zone_is_the_machines() -> None:
    before = datetime.now().astimezone().strftime(FORMAT)
    now = said_now(Agent(name="a"), {})["now"]
    assert now in (before, datetime.now().astimezone().strftime(FORMAT))
