"""Why a call ended: the closed list, each with the side it came from."""

from __future__ import annotations

from enum import Enum

__all__ = ["Ending", "Side"]


class Side(Enum):
    """Whose doing an ending was."""

    CALLER = "caller"
    AGENT = "agent"
    GATEWAY = "gateway"
    CARRIER = "carrier"
    MODEL = "model"


class Ending(Enum):
    """One reason per call; the value is what records, reports and metrics show."""

    CALLER_HUNG_UP = "caller_hung_up"
    AGENT_HUNG_UP = "agent_hung_up"
    TRANSFERRED = "transferred"
    CALLER_IDLE = "caller_idle"
    ANSWERED_BY_MACHINE = "answered_by_machine"
    TIME_LIMIT = "time_limit"
    COST_LIMIT = "cost_limit"
    MODEL_UNREACHABLE = "model_unreachable"
    MODEL_LOST = "model_lost"
    STREAM_LOST = "stream_lost"
    STREAM_NEVER_STARTED = "stream_never_started"
    SERVER_STOPPED = "server_stopped"
    INTERNAL_ERROR = "internal_error"
    MOVED = "moved"  # the call goes on in another process, which records it: no record has this

    @property
    def side(self) -> Side:
        return _SIDES[self]


_SIDES = {
    Ending.CALLER_HUNG_UP: Side.CALLER,
    Ending.AGENT_HUNG_UP: Side.AGENT,
    Ending.TRANSFERRED: Side.AGENT,
    Ending.CALLER_IDLE: Side.CALLER,
    Ending.ANSWERED_BY_MACHINE: Side.CALLER,
    Ending.TIME_LIMIT: Side.GATEWAY,
    Ending.COST_LIMIT: Side.GATEWAY,
    Ending.MODEL_UNREACHABLE: Side.MODEL,
    Ending.MODEL_LOST: Side.MODEL,
    Ending.STREAM_LOST: Side.CARRIER,
    Ending.STREAM_NEVER_STARTED: Side.CARRIER,
    Ending.SERVER_STOPPED: Side.GATEWAY,
    Ending.INTERNAL_ERROR: Side.GATEWAY,
    Ending.MOVED: Side.GATEWAY,
}
