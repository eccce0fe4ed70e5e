"""The demo's appointment book: the example practice's own, looked through slowly, as it is with such systems."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from offhook.gateway.rehearsal.examples import appointments
from offhook.gateway.rehearsal.examples.appointments import Service

__all__ = ["find_times"]

SLOW_S = 8.0
QUICK_S = 0.3


async def find_times(
    day: str, service: Service = "check-up", part: Literal["morning", "afternoon", "any"] = "any"
) -> Any:
    """Look for free appointment times.

    Args:
        day: A date such as 2026-03-31, a weekday, today or tomorrow.
        service: What is to be done.
        part: The part of the day that suits the caller.
    """
    await asyncio.sleep(SLOW_S if part == "morning" else QUICK_S)
    return await asyncio.to_thread(appointments.find_times, day, service, part)
