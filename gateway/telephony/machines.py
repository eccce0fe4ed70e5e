"""Answering machine detection of outbound calls: what the agent does once it is known who answered."""

from __future__ import annotations

import logging

from offhook.gateway.call.call import Call
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.state import Phase
from offhook.gateway.telephony.leg import Leg
from offhook.gateway.telephony.outbound import OutboundCall
from offhook.gateway.telephony.status import AnsweredBy

__all__ = ["AnsweringMachines"]

log = logging.getLogger(__name__)


class AnsweringMachines:
    """The results of calls that have no leg yet wait here."""

    def __init__(self) -> None:
        self._early: dict[str, AnsweredBy] = {}  # by outbound call

    def early(self, outbound: OutboundCall) -> AnsweredBy | None:
        """The result that came before the leg, once."""
        return self._early.pop(outbound.id, None)

    def answered(
        self, outbound: OutboundCall, leg: Leg | None, call: Call | None, result: AnsweredBy, as_reported: str
    ) -> None:
        """The carrier's first result."""
        outbound.answered_by = as_reported
        log.info("call %s was answered by: %s", outbound.call_sid or outbound.id, as_reported)
        if leg is None:
            self._early[outbound.id] = result
            return
        leg.amd_result = result
        if call is not None:
            self.apply(leg, call)

    def apply(self, leg: Leg, call: Call) -> None:
        """The agent has been speaking since the call was answered: go on, leave the message, or hang up."""
        if call.ending is not None or call.line is None:
            return  # too late, or too early: `tick` tries again
        outbound, result = call.agent.outbound, leg.amd_result
        if result is AnsweredBy.MACHINE and outbound.on_machine == "leave_message":
            if call.phase in (Phase.CONNECTING, Phase.THINKING):
                return  # a reply is on its way, and would be taken for the message
            call.say_and_end(outbound.message, Ending.AGENT_HUNG_UP)
        elif result is AnsweredBy.FAX or (result is AnsweredBy.MACHINE and outbound.on_machine == "hang_up"):
            call.cancel_reply()
            call.stop(Ending.ANSWERED_BY_MACHINE)
        leg.amd_result = None
