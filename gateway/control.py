"""What operators and the API do to the calls of the process: the `CallControl` of `web`."""

from __future__ import annotations

from collections.abc import Mapping

from offhook.gateway.call.call import Call
from offhook.gateway.call.tap import Listening
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.telephony.admission import Admission
from offhook.gateway.telephony.outbound import KeyReused, OutboundCall, QueueFull, to_be_called
from offhook.gateway.telephony.placing import CostReached, StoreUnreachable
from offhook.gateway.telephony.switchboard import Switchboard
from offhook.gateway.web.api import Conflicting, Unavailable

__all__ = ["Control"]


class Control:
    """`CallControl` over the process's calls. `listeners`: operators who may listen in on them at once."""

    def __init__(
        self, calls: Mapping[str, Call], switchboard: Switchboard, admission: Admission, listeners: int
    ) -> None:
        self._calls, self._switchboard, self._admission = calls, switchboard, admission
        self._listeners = listeners

    async def call_out(
        self, to: str, agent: str, *, caller_id: str, variables: dict[str, str], placed_by: str = "", key: str = ""
    ) -> OutboundCall:
        if self._admission.draining:
            raise Unavailable("this gateway is draining and places no more calls")
        try:
            return await self._switchboard.operators.call_out(
                to, agent, caller_id=caller_id, variables=variables, placed_by=placed_by, key=key
            )
        except (QueueFull, CostReached, StoreUnreachable) as error:
            raise Unavailable(str(error)) from None
        except KeyReused as error:
            raise Conflicting(str(error)) from None

    async def outbound(self, call_id: str) -> OutboundCall | None:
        try:
            return await self._switchboard.placing.find(call_id)
        except StoreUnreachable as error:
            raise Unavailable(str(error)) from None

    async def hang_up(self, call_id: str) -> bool | None:
        if outbound := self._switchboard.outbound.find(call_id):
            return await self._switchboard.operators.hang_up(outbound)
        if (stored := await self.outbound(call_id)) is not None and await self._switchboard.placing.cancel(stored):
            return True
        if call := self._calls.get(call_id):
            call.stop(Ending.AGENT_HUNG_UP)
            return True
        return None

    async def hold(self, call_id: str, music_url: str, line: str) -> bool | None:
        if self._is_elsewhere(call_id):
            return None
        return await self._switchboard.operators.hold(self._sid(call_id), music_url, line)

    async def resume(self, call_id: str) -> bool | None:
        if self._is_elsewhere(call_id):
            return None
        return await self._switchboard.operators.resume(self._sid(call_id))

    def transfer(self, call_id: str, to: str, *, whisper: str, warm: bool) -> bool | None:
        to = to_be_called(to)
        call = self._calls.get(self._sid(call_id))
        if call is None:
            return None
        call.tools.transfer(to, "", whisper=whisper, warm=warm)
        return True

    def press(self, call_id: str, digits: str) -> bool | None:
        call = self._calls.get(self._sid(call_id))
        return None if call is None else call.tools.send_digits(digits)

    def _is_elsewhere(self, call_id: str) -> bool:
        """Whether another process may know of it."""
        return self._switchboard.fleet.shared and self._switchboard.leg(self._sid(call_id)) is None

    def say(self, call_id: str, text: str) -> bool | None:
        call = self._calls.get(self._sid(call_id))
        return None if call is None else call.operator_says(text)

    def note(self, call_id: str, text: str) -> bool | None:
        call = self._calls.get(self._sid(call_id))
        return None if call is None else call.operator_notes(text)

    def may_listen(self, call_id: str) -> str | None:
        """Why an operator may not hear this call, "" where they may; None for a call that is not active here."""
        call = self._calls.get(self._sid(call_id))
        if call is None or call.ending is not None:
            return None
        if not self._listeners:
            return "listening in is off: set OFFHOOK_LISTENERS to the number of operators who may at once"
        return (
            "" if call.agent.listen_in else "this agent's calls are not listened to: set `listen_in: true` in its file"
        )

    def listen(self, call_id: str, who: str) -> Listening | None:
        """An operator hears this call from now on; None where they may not any more."""
        return self._calls[self._sid(call_id)].tap.open(who) if self.may_listen(call_id) == "" else None

    def keep_action(self, call_id: str, who: str, what: str, detail: str, *, done: bool) -> None:
        if call := self._calls.get(self._sid(call_id)):
            call.timeline.action(call.clock(), who, what, call.tools.masked(detail), done=done)

    def _sid(self, call_id: str) -> str:
        outbound = self._switchboard.outbound.find(call_id)
        return outbound.call_sid if outbound else call_id
