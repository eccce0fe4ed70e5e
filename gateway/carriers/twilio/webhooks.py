"""Twilio as a carrier: its webhooks, and what is done to its calls by REST.

POST /twilio/voice     answer a ringing call (or one that we placed, `?call=ID`) with a media stream, or the fallback
POST /twilio/after     what follows when the stream, or a dialled leg, is over
POST /twilio/status    how far a call has come; streams begun, ended and failed
POST /twilio/machine   the result of answering machine detection
POST /twilio/whisper   a line for the target of a transfer alone, before the caller is there
POST /twilio/fallback  what a number requests when `/twilio/voice` failed
GET  /twilio/media     the media stream (WebSocket), see `stream`

All but the first come under `/twilio/n/<node>/` as well, and so they stand in our documents: with the name of the
process that has the call. Any process answers all of them: it passes a request for another one's call on to it.

Every webhook is signed by Twilio, over the public URL that is configured. The switchboard decides about calls; this
translates, and `steering` says which of Twilio's two ways delivers what follows a call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
from aiohttp import web

from offhook.gateway.agent.spec import Agent, Fallback
from offhook.gateway.call.call import Call
from offhook.gateway.carriers.twilio import messages, signature, twiml
from offhook.gateway.carriers.twilio.rest import NewCall, TwilioError, TwilioRest
from offhook.gateway.carriers.twilio.steering import Push, Steering, Undecided
from offhook.gateway.carriers.twilio.stream import FORMATS, MediaSockets
from offhook.gateway.config import Settings
from offhook.gateway.errors import OperatorError
from offhook.gateway.live import CallStage
from offhook.gateway.live.node import NODE_NAME
from offhook.gateway.live.peers import FORWARD_S, HOP
from offhook.gateway.telephony.admission import Admitted, Refusal, Refused
from offhook.gateway.telephony.carrier import CarrierBusy, Feature, Hold, Keys, Kind, NextStep, Ringing
from offhook.gateway.telephony.leg import Leg
from offhook.gateway.telephony.outbound import OutboundCall
from offhook.gateway.telephony.status import FINAL, AnsweredBy, CallStatus
from offhook.gateway.telephony.switchboard import Switchboard
from offhook.gateway.web.connections import prove
from offhook.gateway.web.limits import FORM, Limits
from offhook.metrics.catalogue import Metrics

__all__ = ["Twilio", "rest_for"]

log = logging.getLogger(__name__)

RETRY_S = 1  # a request that a redirected one overtakes is to be repeated after this
FETCH_S = 2.0  # the process ends: Twilio may still fetch what follows
CLOSE_TASKS_S = 2.0
REPORT_S = 2.0  # no caller waits for a report: a busy process that has the call gets this long
SUCCESSOR_S = 2.0  # this process ends and keeps no call: a busy one that does gets this long
FORGET_S = 60.0  # what follows a call was decided and fetched: its REST requests are over by then
LIMIT_MARGIN_S = 120  # Twilio's own limit of a call, after the agent's
CALL_STATUS = {status.value: status for status in CallStatus if status not in (CallStatus.WAITING, CallStatus.PLACING)}
CALL_STATUS["answered"] = CallStatus.IN_PROGRESS

Form = dict[str, str]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class TwilioLeg:
    """What Twilio's side keeps of a leg. `base`: of this process's addresses, where Twilio reaches the gateway."""

    leg: Leg
    steering: Steering
    account_sid: str
    base: str


class Twilio:
    """The carrier `twilio` (a `Carrier`)."""

    name = "twilio"

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        limits: Limits,
        board: Switchboard,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._metrics, self._limits, self._board, self._clock = settings, metrics, limits, board, clock
        self._fleet = board.fleet
        self._legs: dict[str, TwilioLeg] = {}
        self._watched: dict[str, TwilioLeg] = {}  # those that may still need a REST request
        self._media = MediaSockets(
            settings, metrics, limits, claim=self._claim, stopped=self._stopped, lost=self._lost, clock=clock
        )
        self._http: aiohttp.ClientSession | None = None
        self._rest: TwilioRest | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def can(self) -> frozenset[Feature]:
        """With credentials for REST all but placing calls, which also takes a public URL; without them nothing."""
        if self._rest is None:
            return frozenset()
        return frozenset(Feature) if self._settings.public_url else frozenset(Feature) - {Feature.PLACE}

    def routes(self) -> list[web.RouteDef]:
        webhooks: dict[str, Handler] = {
            "voice": self._answering(self._voice),
            "after": self._answering(self._after),
            "status": self._reporting(self._status),
            "machine": self._reporting(self._machine),
            "whisper": self._answering(self._whisper),
            "fallback": self._answering(self._fallback),
        }
        named = f"/twilio/n/{{node:{NODE_NAME.pattern}}}/"
        routes = [
            web.post(prefix + name, webhook) for prefix in ("/twilio/", named) for name, webhook in webhooks.items()
        ]
        return [*routes, *(web.get(f"{prefix}media", self._media.serve) for prefix in ("/twilio/", named))]

    async def open(self) -> None:
        self._http = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        with suppress(OperatorError):  # calls can be answered without REST
            self._rest = rest_for(self._settings, self._http)

    async def close(self) -> None:
        """Once Twilio has fetched what follows the last calls, or 2 s later."""
        for _ in range(int(FETCH_S / 0.02)):
            if not any(one.steering.unfetched for one in self._watched.values()):
                break
            await asyncio.sleep(0.02)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_TASKS_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def tick(self, now_s: float) -> None:
        for call_sid, one in list(self._watched.items()):
            if self._rest is not None and (push := one.steering.due(now_s)):
                self._spawn(self._push(one, push))
            elif self._board.call(call_sid) is None and one.steering.settled(now_s, FORGET_S):
                del self._watched[call_sid]

    def forget(self, call_id: str) -> None:
        self._legs.pop(call_id, None)
        self._watched.pop(call_id, None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- webhooks

    async def _signed_form(self, request: web.Request) -> Form:
        """The fields of a webhook that Twilio has signed. Raises 4xx."""
        settings = self._settings
        given = request.headers.get(signature.SIGNATURE_HEADER)
        try:
            form = await self._limits.form(request) if given or settings.insecure else []
        except web.HTTPException:
            self._limits.check_rate(request)
            raise
        if not settings.insecure and not signature.webhook_signed(
            given,
            tokens=settings.twilio_auth_tokens,
            public_url=settings.public_url,
            path_qs=request.raw_path,
            form=form,
        ):
            self._metrics.auth_failures_total.inc("webhook_signature")
            self._limits.check_rate(request)  # only now: what is signed has no rate
            self._limits.warn_throttled(
                "refused a webhook with a wrong signature: is OFFHOOK_PUBLIC_URL the address that Twilio requests, "
                "and TWILIO_AUTH_TOKEN the account's primary token?"
            )
            raise web.HTTPForbidden(text="wrong signature")
        prove(request)
        fields = {name: value for name, value in form if _is_text(name + value)}
        if len(fields) < len(dict(form)):
            self._metrics.input_errors_total.inc("http", "not_utf8")
            self._limits.warn_throttled("ignored a field of a webhook that is not UTF-8")
        # Exactly a CallSid: names and values are signed without separators, so that a captured webhook whose fields are
        # cut elsewhere has a valid signature, too, and would be another call's.
        if not messages.is_call_sid(fields.get("CallSid", "")):
            self._limits.refuse("bad_field", web.HTTPBadRequest(text="CallSid is missing or malformed"))
        account_sid = fields.get("AccountSid", "")
        if settings.twilio_account_sid and account_sid not in ("", settings.twilio_account_sid):
            self._limits.refuse("wrong_call", web.HTTPForbidden(text="the call is another account's"))
        return fields

    def _answering(self, handler: Callable[[web.Request, Form], Awaitable[str]]) -> Handler:
        """A webhook whose answer a caller is waiting for: on any failure of ours it is the fallback."""

        async def answer(request: web.Request) -> web.Response:
            form = await self._signed_form(request)
            if self._fleet.shared and await _is_gone(request):
                self._metrics.input_errors_total.inc("http", "sender_gone")
                log.info(
                    "call %s: %s is not answered, its sender has closed the connection", form["CallSid"], request.path
                )
                return web.Response(status=503)
            if (elsewhere := await self._elsewhere(request, form)) is not None:
                return elsewhere
            try:
                await self._follow_outbound(request)
                document = await handler(request, form)
            except Exception:
                log.exception("%s failed for call %s: answered with the fallback", request.path, form["CallSid"])
                self._metrics.calls_rejected_total.inc(Refusal.FAULT.value)
                document = self._fallback_document(form)
            return web.Response(text=document, content_type=twiml.CONTENT_TYPE)

        return answer

    def _reporting(self, handler: Callable[[web.Request, Form], Awaitable[None]]) -> Handler:
        """A webhook that only reports."""

        async def answer(request: web.Request) -> web.Response:
            form = await self._signed_form(request)
            if (elsewhere := await self._elsewhere(request, form, REPORT_S)) is None:
                await self._follow_outbound(request)
                await handler(request, form)
            return elsewhere or web.Response(status=204)

        return answer

    async def _follow_outbound(self, request: web.Request) -> None:
        """A call that another process placed, or this one before a restart, is reported here."""
        if outbound_id := request.query.get("call"):
            await self._board.placing.follow(outbound_id)

    async def _elsewhere(self, request: web.Request, form: Form, within_s: float = FORWARD_S) -> web.Response | None:
        """The answer of the process that has this call; None: it is to be answered here, as that process does not.

        The store has the truth, where it is known; else the address does. A process that had the call answers nothing.
        """
        fleet, call_sid = self._fleet, request.query.get("call", form["CallSid"])
        if not fleet.shared:
            return None
        known = self._board.leg(call_sid) or self._board.leg(form["CallSid"])
        if known and not await fleet.has_lost(known.call_id):
            return None
        if HOP in request.headers:
            return None
        held = await fleet.holder(form["CallSid"])
        owner = request.match_info.get("node", "") if held is None else held.owner
        if held is not None and held.stage is CallStage.HANDOVER:
            owner = ""
        if owner not in ("", fleet.name):
            return await self._passed_on(request, form, owner, within_s)
        for node in fleet.others() if self._board.draining else ():
            if (answer := await self._passed_on(request, form, node.name, SUCCESSOR_S)) is not None:
                return answer
        return None

    async def _passed_on(self, request: web.Request, form: Form, owner: str, within_s: float) -> web.Response | None:
        """The answer of this process; None: it has none, or not in time."""
        passed = await self._fleet.peers.request(
            owner,
            "POST",
            request.raw_path,
            headers={
                signature.SIGNATURE_HEADER: request.headers.get(signature.SIGNATURE_HEADER, ""),
                "Content-Type": FORM,
            },
            body=urlencode(form).encode(),
            timeout_s=within_s,
        )
        if passed is None or passed.status >= 500:
            return None
        return web.Response(status=passed.status, body=passed.body, content_type=passed.content_type)

    def _fallback_document(self, form: Form, fallback: Fallback | None = None) -> str:
        """The fallback for this call: the given one, or that of its agent."""
        call_sid, own_number = form["CallSid"], _own_number(form)
        caller_id = self._board.caller_id_for(call_sid, form.get("From", ""), own_number)
        return twiml.fallback(fallback or self._board.fallback_for(call_sid, own_number), caller_id=caller_id)

    async def _voice(self, request: web.Request, form: Form) -> str:
        call_sid = form["CallSid"]
        ringing = self._ringing(request, form)
        answer: Admitted | Refused | NextStep | None
        held = None if self._board.leg(call_sid) else await self._fleet.ring(call_sid)
        if held is not None and held.stage is CallStage.ENDED:
            return twiml.hang_up()
        own = held is not None and held.owner == self._fleet.name
        full = own and await self._board.moves.fleet_is_full(call_sid)
        if held is not None and full and self._board.leg(call_sid) is None:  # else the same webhook was here meanwhile
            await self._fleet.give_back(call_sid, held.epoch)
            return self._fallback_document(form)
        if held is not None and held.owner != self._fleet.name:  # its process does not answer
            answer = await self._board.moves.take_over(self, ringing, self._clock())
        else:
            answer = self._board.ring(self, ringing, self._clock(), epoch=held.epoch if held is not None else 1)
        if isinstance(answer, NextStep) or answer is None:
            return self._fallback_document(form)
        if isinstance(answer, Refused) and held is not None:
            await self._fleet.give_back(call_sid, held.epoch)
        if not isinstance(answer, Admitted):
            return twiml.hang_up() if answer.reason is Refusal.ENDED else self._fallback_document(form, answer.fallback)
        one = self._legs.get(call_sid)
        if one is None:
            one = self._new_leg(call_sid, form.get("AccountSid", ""), request.host)
        document = _connect(one, answer.token)
        if call := self._board.call(call_sid):
            call.timeline.webhook_answered(self._clock())
        return document

    def _ringing(self, request: web.Request, form: Form) -> Ringing:
        return Ringing(
            call_id=form["CallSid"],
            caller=form.get("From", ""),
            dialled=form.get("To", ""),
            own_number=_own_number(form),
            formats=FORMATS,
            is_outbound=_is_outbound(form),
            outbound_id=request.query.get("call", ""),
            status=CALL_STATUS.get(form.get("CallStatus", "")),
        )

    def _new_leg(self, call_sid: str, account_sid: str, host: str) -> TwilioLeg:
        leg = self._board.leg(call_sid)
        assert leg is not None
        one = TwilioLeg(leg, Steering(leg), account_sid, self._webhooks_url(host))
        self._legs[call_sid] = self._watched[call_sid] = one
        return one

    def _webhooks_url(self, host: str = "") -> str:
        """What its webhooks' URLs begin with. `host`: as requested, where no public URL is configured."""
        return f"{self._settings.public_url or (host and f'https://{host}')}/twilio/n/{self._fleet.name}"

    async def _after_elsewhere(self, request: web.Request, form: Form) -> str:
        """What follows a call that this process does not have: it is taken over, unless nobody knows of it."""
        call_sid, status = form["CallSid"], CALL_STATUS.get(form.get("CallStatus", ""))
        if not self._fleet.shared or status in FINAL:
            return twiml.hang_up() if status in FINAL else self._fallback_document(form)
        if self._board.draining and self._fleet.others() and await self._fleet.has_lost(call_sid):
            # It was handed over, and taken back it would end with this process: another one's answer was late.
            log.info("call %s: no other process has answered; its carrier is to ask again in %d s", call_sid, RETRY_S)
            return twiml.redirect(f"{self._webhooks_url(request.host)}/after", after_s=RETRY_S)
        ringing = self._ringing(request, form)
        answer: Admitted | NextStep | Refused | None = await self._board.moves.take_over(self, ringing, self._clock())
        if answer is None and await self._fleet.holder(call_sid) is None:
            # The store is away, or was emptied: of the conversation nothing is left, and a new one is better than none.
            answer = self._board.ring(self, ringing, self._clock())
        if answer is None or isinstance(answer, Refused):
            return self._fallback_document(form)
        one = self._legs.get(call_sid) or self._new_leg(call_sid, form.get("AccountSid", ""), request.host)
        return _connect(one, answer.token) if isinstance(answer, Admitted) else _document(one, answer)

    async def _after(self, request: web.Request, form: Form) -> str:
        now_s, call_sid = self._clock(), form["CallSid"]
        one, status = self._legs.get(call_sid), CALL_STATUS.get(form.get("CallStatus", ""))
        dialled = form.get("DialCallStatus")
        if dialled is not None:
            return self._after_dial(call_sid, dialled)
        if one is None:
            # Not a call of this process, or one it has forgotten: a caller may be waiting.
            return await self._after_elsewhere(request, form)
        self._board.status(call_sid, status, now_s)
        self._board.follows(call_sid, now_s)
        answer = one.steering.next_document(now_s, steered=request.query.get("steered") == "1")
        if answer is Undecided.RECONNECT and (token := self._board.reconnect(call_sid, now_s)):
            return _connect(one, token)
        if answer is Undecided.WAIT:
            return twiml.redirect(f"{one.base}/after", after_s=RETRY_S)
        if not isinstance(answer, NextStep):
            self._board.give_up(call_sid, now_s)
            answer = one.steering.next_document(now_s)
        assert isinstance(answer, NextStep)
        return _document(one, answer)

    def _after_dial(self, call_sid: str, dialled: str) -> str:
        """A dialled leg is over: it was answered, and the caller stayed to its end, or it was not."""
        if dialled in ("completed", "answered"):
            return twiml.hang_up()
        log.info("call %s: the transfer ended as %s", call_sid, dialled[:20])
        return twiml.fallback(self._board.dial_failed(call_sid))

    async def _whisper(self, request: web.Request, form: Form) -> str:
        leg = self._board.leg(request.query.get("call", ""))
        return twiml.whisper(leg.next.whisper if leg is not None and leg.next is not None else "")

    async def _fallback(self, request: web.Request, form: Form) -> str:
        """Twilio could not fetch a document from `/twilio/voice`, or could not use it."""
        code = form.get("ErrorCode", "")[:10]
        log.error("call %s: Twilio requests the fallback (error %s)", form["CallSid"], code)
        if call := self._board.call(form["CallSid"]):
            call.timeline.error(f"Twilio requested the fallback (error {code})")
            call.line_lost()
        return self._fallback_document(form)

    async def _status(self, request: web.Request, form: Form) -> None:
        call_sid, now_s = form["CallSid"], self._clock()
        if event := form.get("StreamEvent"):
            # Twilio's own report on a stream: the only place where it says why one failed.
            if (call := self._board.call(call_sid)) and (error := form.get("StreamError")):
                call.timeline.error(f"Twilio: {error[:200]}")
            if event in ("stream-stopped", "stream-error"):
                self._board.stream_ended(call_sid, form.get("StreamSid", ""), now_s)
        else:
            status = CALL_STATUS.get(form.get("CallStatus", ""))
            if status in FINAL and self._fleet.shared and self._board.leg(call_sid) is None:
                await self._board.moves.ended_elsewhere(self, self._ringing(request, form), now_s)
            self._board.status(call_sid, status, now_s, outbound_id=request.query.get("call", ""))

    async def _machine(self, request: web.Request, form: Form) -> None:
        answered_by = form.get("AnsweredBy", "unknown")[:40]
        self._board.amd_result(form["CallSid"], request.query.get("call", ""), _amd_result(answered_by), answered_by)

    # --- streams (`MediaSockets` reads them)

    async def _claim(self, start: messages.Start) -> Call | None:
        """The call that this stream proves to belong to; None, counted, when it proves nothing."""
        now_s, token = self._clock(), start.parameters.get("token", "")
        if self._fleet.shared and not self._settings.insecure:
            token = await self._board.moves.token_here(self, start.call_sid, token, FORMATS, now_s)
            now_s = self._clock()
            if start.call_sid not in self._legs and self._board.leg(start.call_sid) is not None:
                self._new_leg(start.call_sid, start.account_sid, "")
        one = self._legs.get(start.call_sid)
        if one is not None and start.account_sid and one.account_sid not in ("", start.account_sid):
            self._metrics.input_errors_total.inc("carrier", "wrong_call")
            return None
        if self._settings.insecure and self._board.call(start.call_sid) is None:
            # Insecure: a stream may come without a webhook before it, and no other one after it.
            dialled = start.parameters.get("to", "")
            ringing = Ringing(
                call_id=start.call_sid,
                caller=start.parameters.get("from", ""),
                dialled=dialled,
                own_number=dialled,
                formats=FORMATS,
                reconnects=False,
            )
            answer = self._board.ring(self, ringing, now_s, by_webhook=False)
            if not isinstance(answer, Admitted):
                return None
            token = answer.token
        call = self._board.claim(start.call_sid, token, start.stream_sid, now_s)
        if call is None:
            self._limits.warn_throttled("refused a media stream: its call is over, or its token is not valid")
        elif one is not None:
            one.steering.stream_up()
        return call

    def _stopped(self, call: Call) -> None:
        """Twilio's `stop`: the caller hung up, unless the gateway took the call off its stream."""
        one = self._legs.get(call.facts.call_sid)
        if one is not None and one.steering.moved:
            self._lost(call)
        else:
            self._board.hung_up(call)

    def _lost(self, call: Call) -> None:
        self._board.line_gone(call, self._clock())

    # --- for the switchboard

    def follow(self, call_id: str, step: NextStep, now_s: float) -> None:
        """Twilio fetches it from `/twilio/after`; when it does not, `tick` pushes it."""
        if one := self._legs.get(call_id):
            one.steering.follow()

    async def _may_steer(self, call_id: str) -> bool:
        """Whether REST may touch this call: of one that another process has, it would tear down the stream."""
        return self._rest is not None and await self._fleet.owns(call_id)

    async def hang_up(self, call_id: str) -> bool:
        if not await self._may_steer(call_id):
            return False
        assert self._rest is not None
        return await self._rest.hang_up(call_id)

    async def place(self, call: OutboundCall, agent: Agent) -> str:
        assert self._rest is not None
        outbound, base = agent.outbound, self._webhooks_url()
        query = urlencode({"call": call.id})
        detect = outbound.detect_machine and not call.conference
        wait_for_end = outbound.on_machine == "leave_message"
        new = NewCall(
            to=call.to,
            caller_id=call.caller_id,
            url=f"{base}/voice?{query}",
            status_callback_url=f"{base}/status?{query}",
            ring_s=outbound.ring_s,
            limit_s=int(agent.limits.call_s) + LIMIT_MARGIN_S if agent.limits.call_s else None,
            machine_detection=("DetectMessageEnd" if wait_for_end else "Enable") if detect else "",
            machine_callback_url=f"{base}/machine?{query}" if detect else "",
        )
        try:
            return await self._rest.place_call(new)
        except TwilioError as error:
            if error.status == 429:
                raise CarrierBusy(str(error)) from None
            raise

    async def placed(self, call: OutboundCall, since_s: float) -> Sequence[str]:
        assert self._rest is not None
        return await self._rest.calls(call.to, call.caller_id, since_s)

    async def interrupt(self, call_id: str, what: Hold | Keys) -> bool:
        one = self._legs.get(call_id)
        if one is None or not await self._may_steer(call_id) or not one.steering.leave_stream(self._clock()):
            return False
        assert self._rest is not None
        if isinstance(what, Hold):
            document = twiml.hold(what.music_url or twiml.HOLD_MUSIC_URL, what.line)
        else:
            document = twiml.press(what.digits, f"{one.base}/after?steered=1")
        try:
            up = await self._rest.run_twiml(call_id, document)
        except TwilioError:
            one.steering.stay()
            raise
        if not up:
            one.steering.stay()
        return up

    async def resume(self, call_id: str) -> bool:
        one = self._legs.get(call_id)
        if one is None or not await self._may_steer(call_id) or not one.steering.resume(self._clock()):
            return False
        await self._push(one, Push.REDIRECT)
        return True

    async def fall_back(self, call_id: str, fallback: Fallback) -> bool:
        caller_id = self._board.caller_id_for(call_id, "", "")
        document = twiml.fallback(fallback, caller_id=caller_id)
        if not await self._may_steer(call_id):
            return False
        assert self._rest is not None
        return await self._rest.run_twiml(call_id, document)

    async def bring(self, call_id: str) -> bool:
        return self._rest is not None and await self._rest.redirect(call_id, f"{self._webhooks_url()}/after?steered=1")

    async def _push(self, one: TwilioLeg, push: Push) -> None:
        assert self._rest is not None
        call_sid = one.leg.call_id
        if not await self._may_steer(call_sid):
            one.steering.pushed(None)
            return
        try:
            if push is Push.HANG_UP:
                up = await self._rest.hang_up(call_sid)
            else:
                up = await self._rest.redirect(call_sid, f"{one.base}/after?steered=1")
        except TwilioError as error:
            log.warning("call %s: %s", call_sid, error)
            one.steering.pushed(None)
            return
        log.info("call %s: REST request made (%s)%s", call_sid, push.value, "" if up else ": the call was over")
        one.steering.pushed(up)
        call = self._board.call(call_sid)
        if not up and call is not None:
            call.line_lost()


def rest_for(settings: Settings, http: aiohttp.ClientSession) -> TwilioRest:
    """Twilio's REST API with these settings. Raises `OperatorError` when they are not enough."""
    secret = settings.twilio_api_secret or next(iter(settings.twilio_auth_tokens), "")
    if not settings.twilio_account_sid or not secret:
        raise OperatorError("set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN (Twilio console, Account Info)")
    return TwilioRest(
        http, settings.twilio_account_sid, secret, user=settings.twilio_api_key, base_url=settings.twilio_base_url
    )


# --- TwiML


def _connect(one: TwilioLeg, token: str) -> str:
    return twiml.connect_stream(
        media_url="wss" + one.base[one.base.index(":") :] + "/media",
        after_url=f"{one.base}/after",
        parameters={"token": token},
        status_callback_url=f"{one.base}/status",
    )


def _document(one: TwilioLeg, step: NextStep) -> str:
    match step.kind:
        case Kind.DIAL:
            query = urlencode({"call": one.leg.call_id})
            return twiml.dial(
                step.target,
                action_url=f"{one.base}/after",
                caller_id=one.leg.caller_id,
                whisper_url=f"{one.base}/whisper?{query}" if step.whisper else "",
            )
        case Kind.JOIN:
            return twiml.join(
                step.target, action_url=f"{one.base}/after", caller_id=one.leg.caller_id, starts=step.starts
            )
        case Kind.FALLBACK:
            return twiml.fallback(one.leg.fallback, caller_id=one.leg.caller_id)
        case Kind.HANG_UP:
            return twiml.hang_up()


# --- Twilio's terms


def _is_text(text: str) -> bool:
    """Whether it could be decoded (`Limits.form`)."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _is_outbound(form: Form) -> bool:
    return form.get("Direction", "").startswith("outbound")


async def _is_gone(request: web.Request) -> bool:
    """Whether who sent the request has closed the connection. A process that was stopped finds such requests when it
    goes on: the balancer has asked another process, and acting on one would take the call from there for nobody.
    """
    await asyncio.sleep(0)  # the end of the stream is read in a turn of its own
    return request.transport is None or request.transport.is_closing()


def _own_number(form: Form) -> str:
    """Our end of the call, whose agent answers."""
    return form.get("From" if _is_outbound(form) else "To", "")


def _amd_result(answered_by: str) -> AnsweredBy:
    """`human`, `machine_start`, `machine_end_beep`, `fax`, `unknown` ..."""
    kinds: Iterable[AnsweredBy] = (AnsweredBy.HUMAN, AnsweredBy.MACHINE, AnsweredBy.FAX)
    return next((kind for kind in kinds if answered_by.startswith(kind.value)), AnsweredBy.UNKNOWN)
