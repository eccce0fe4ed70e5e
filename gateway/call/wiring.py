"""What every part of a call is handed: clock, timeline, metrics, where exceptions go, the way to the machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from offhook.gateway.agent.spec import Agent
from offhook.gateway.call.facts import CallFacts
from offhook.gateway.call.faults import Faults
from offhook.gateway.call.timeline import Timeline
from offhook.gateway.conversation.events import Event
from offhook.metrics.catalogue import Metrics

__all__ = ["Wiring"]


@dataclass(frozen=True, slots=True)
class Wiring:
    """`feed` hands the conversation machine an event; `clock` gives monotonic seconds.
    `changed()`: something changed that another process would need to go on with this call.
    """

    facts: CallFacts
    agent: Agent
    clock: Callable[[], float]
    metrics: Metrics
    timeline: Timeline
    feed: Callable[[Event], None]
    faults: Faults
    changed: Callable[[], None]
