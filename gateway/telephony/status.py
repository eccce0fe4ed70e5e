"""How far a call has come and who answered it, as every carrier reports it in words of its own."""

from __future__ import annotations

from enum import Enum, StrEnum

__all__ = ["FINAL", "AnsweredBy", "CallStatus", "order_of"]


class CallStatus(StrEnum):
    """A call's life at its carrier. The values stand in the API's answers."""

    WAITING = "waiting"  # an outbound call in our own queue
    PLACING = "placing"  # handed to the carrier, which has not answered yet
    QUEUED = "queued"
    INITIATED = "initiated"
    RINGING = "ringing"
    IN_PROGRESS = "in-progress"
    COMPLETED = "completed"
    BUSY = "busy"
    NO_ANSWER = "no-answer"
    FAILED = "failed"
    CANCELED = "canceled"


FINAL = frozenset({CallStatus.COMPLETED, CallStatus.BUSY, CallStatus.NO_ANSWER, CallStatus.FAILED, CallStatus.CANCELED})
_ORDER = {status: order for order, status in enumerate(CallStatus) if status not in FINAL}


def order_of(status: CallStatus | None) -> int:
    """Where `status` stands in a call's life; callbacks may arrive in another order. -1 for None."""
    if status is None:
        return -1
    return len(_ORDER) if status in FINAL else _ORDER[status]


class AnsweredBy(Enum):
    """The result of answering machine detection (AMD)."""

    HUMAN = "human"
    MACHINE = "machine"
    FAX = "fax"
    UNKNOWN = "unknown"
