"""The gateway's enumerations, as the label values of its metrics and as what a scenario may expect."""

from __future__ import annotations

from offhook.gateway.conversation.commands import Verdict
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.events import Outcome
from offhook.gateway.telephony.admission import Refusal
from offhook.gateway.tools import LateOutcome
from offhook.metrics.catalogue import Labels

__all__ = ["LABELS"]

LABELS = Labels(
    call_endings={ending.value: ending.side.value for ending in Ending},
    reject_reasons=tuple(refusal.value for refusal in Refusal),
    barge_in_verdicts=tuple(verdict.value for verdict in Verdict),
    tool_outcomes=tuple(outcome.value for outcome in Outcome),
    tool_afterwards=tuple(state.value for state in LateOutcome),
)
