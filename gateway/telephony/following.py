"""What follows a conversation at its carrier: a transfer, the fallback, the end. Decided once for each leg."""

from __future__ import annotations

from offhook.gateway.call.call import Call
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.telephony.carrier import Kind, NextStep
from offhook.gateway.telephony.leg import Leg
from offhook.gateway.telephony.transfer import WarmTransfers

__all__ = ["FALLBACK_AFTER", "decide", "decide_next"]

FALLBACK_AFTER = frozenset(
    {
        Ending.MODEL_UNREACHABLE,
        Ending.MODEL_LOST,
        Ending.STREAM_LOST,
        Ending.STREAM_NEVER_STARTED,
        Ending.INTERNAL_ERROR,
        Ending.SERVER_STOPPED,
    }
)


def decide(leg: Leg, step: NextStep, now_s: float) -> bool:
    """Have the carrier do this next. False when something else has been decided."""
    if not leg.decide(step, now_s):
        return False
    leg.carrier.follow(leg.call_id, step, now_s)
    return True


def decide_next(leg: Leg, call: Call, transfers: WarmTransfers, now_s: float) -> None:
    """The conversation is over: what follows, once."""
    ending, transfer = call.ending, call.tools.transfer_to
    if ending is Ending.CALLER_HUNG_UP:
        leg.on_hang_up()
    if leg.conference:
        transfers.briefed(leg, call, now_s)
    elif ending is Ending.TRANSFERRED and transfer is not None:
        if transfer.warm:
            transfers.begin(leg, call, transfer.target, transfer.whisper, now_s)
        else:
            decide(leg, NextStep(Kind.DIAL, transfer.target, transfer.whisper), now_s)
    elif ending in FALLBACK_AFTER:
        decide(leg, NextStep(Kind.FALLBACK), now_s)
    else:
        decide(leg, NextStep(Kind.HANG_UP), now_s)
