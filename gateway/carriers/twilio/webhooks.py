"""Twilio's side of the process: its webhooks, the media stream, and what we tell it by REST.

POST /twilio/voice     answer a ringing call (or one we placed, `?call=ID`) with a media stream, or the fallback
POST /twilio/after     what follows when the stream, or a dialled leg, is over
POST /twilio/status    how far a call has come; streams begun, ended and failed
POST /twilio/machine   who or what answered a call we placed
POST /twilio/whisper   a line for the target of a transfer alone, before the caller is there
POST /twilio/fallback  what a number does when `/twilio/voice` failed
GET  /twilio/media     the media stream (WebSocket)

Every webhook is signed by Twilio, over the public URL that we are configured with. What one call does next has
one owner, its `Control`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlencode

import aiohttp
import msgspec
from aiohttp import web

from offhook.gateway.agent.spec import Agent, Fallback
from offhook.gateway.call.call import Call, CallFacts
from offhook.gateway.carriers.twilio import messages, signature, twiml
from offhook.gateway.carriers.twilio.rest import NewCall, TwilioError, TwilioRest
from offhook.gateway.carriers.twilio.steering import RETURN_S, Answer, Control, Gone, Kind, Next, Steer
from offhook.gateway.carriers.twilio.stream import Streams
from offhook.gateway.config import Settings
from offhook.gateway.conversation import events as e
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.conversation.state import Phase
from offhook.gateway.errors import OperatorError
from offhook.gateway.telephony.admission import Admission, Admitted, Refusal
from offhook.gateway.telephony.leg import rank
from offhook.gateway.telephony.outbound import Outbound, Placed
from offhook.gateway.telephony.transfer import DECLINED, briefing_agent
from offhook.gateway.web.limits import Limits
from offhook.metrics.catalogue import Metrics

__all__ = ["Telephone", "rest_for"]

log = logging.getLogger(__name__)

MAX_LINES = 2_000  # calls remembered after their end, for what Twilio still asks of them
STREAM_WORD_S = 2.0  # Twilio said that a stream has ended: its socket must show it by then
HOLD_MAX_S = 1_800.0
DIGIT_S = 0.5
AGAIN_S = 1  # an unsteered question while a steered one is on its way: ask again so much later
LAST_WORD_S = 2.0  # the process ends: Twilio may still ask what follows
FORGET_S = 60.0  # a call that was handed on is watched no longer than this
NOBODY = "Sorry, nobody could be reached. Goodbye."
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

Form = dict[str, str]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Line:
    """One call as Twilio has it, from its webhook until it is forgotten."""

    call_sid: str
    account_sid: str
    public_url: str
    dialled: str
    fallback: Fallback
    control: Control = field(default_factory=Control)
    placed: Placed | None = None
    stream_ended_s: float | None = None  # by Twilio's word
    away_max_s: float = HOLD_MAX_S
    verdict: str = ""  # who answered, as long as nothing has come of it
    sent_home: bool = False  # out of the conference in which nobody came to meet them


class Telephone:
    """Twilio's requests and streams. `calls` are the process's live ones; `open_call(facts, agent, rang_s)` adds one.

    `rang_s`: when the call's webhook came, None for a stream that came without one.
    """

    def __init__(
        self,
        settings: Settings,
        admission: Admission,
        metrics: Metrics,
        limits: Limits,
        agents: Mapping[str, Agent],
        calls: Mapping[str, Call],
        open_call: Callable[[CallFacts, Agent, float | None], Call],
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._settings, self._admission, self._metrics, self._limits = settings, admission, metrics, limits
        self._agents, self._calls, self._open_call = agents, calls, open_call
        self._lines: OrderedDict[str, Line] = OrderedDict()
        self._watched: dict[str, Line] = {}  # those that may still need something
        self._streams = Streams(settings, metrics, limits, self, clock)
        self._http: aiohttp.ClientSession | None = None
        self._rest: TwilioRest | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.outbound = Outbound(settings.calls_per_s)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/twilio/voice", self._answering(self._voice)),
            web.post("/twilio/after", self._answering(self._after)),
            web.post("/twilio/status", self._status),
            web.post("/twilio/machine", self._machine),
            web.post("/twilio/whisper", self._answering(self._whisper)),
            web.post("/twilio/fallback", self._answering(self._fallback)),
            web.get("/twilio/media", self._streams.serve),
        ]

    async def open(self) -> None:
        """Before the first request: the way to Twilio's REST API, if there are credentials for it."""
        self._http = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        with suppress(OperatorError):  # calls can be answered without
            self._rest = rest_for(self._settings, self._http)

    async def close(self) -> None:
        """After the last call: once Twilio has fetched what follows them, or a moment later."""
        self.outbound.stop()
        for _ in range(int(LAST_WORD_S / 0.02)):
            if not any(line.control.unfetched for line in self._watched.values()):
                break
            await asyncio.sleep(0.02)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def call_over(self, call: Call) -> None:
        """Everything of this call is gone."""
        if line := self._lines.get(call.facts.call_sid):
            self._decide(line, call)
            if line.placed is not None and line.placed.answered_by:
                call.record.answered_by = line.placed.answered_by

    def tick(self, now_s: float) -> None:
        """Several times a second: streams that never came or are dead, calls to place, calls to steer."""
        for call_sid in self._admission.given_up(now_s):
            if call := self._calls.get(call_sid):
                call.feed(e.StreamLost(now_s))
        for call in list(self._calls.values()):
            if call.silent_s(now_s) > messages.MEDIA_SILENCE_S:
                call.timeline.error("no audio from the carrier for 8 s")
                self.ended(call, now_s)
        for line in list(self._watched.values()):
            self._look_after(line, now_s)
        if self._rest is not None and not self._admission.draining:
            free = self._settings.max_calls - self._admission.calls
            while placed := self.outbound.due(now_s, free):
                self._do(self._place(placed))

    def _look_after(self, line: Line, now_s: float) -> None:
        call = self._calls.get(line.call_sid)
        if line.stream_ended_s is not None and now_s - line.stream_ended_s > STREAM_WORD_S:
            line.stream_ended_s = None
            if call is not None and call.attached:
                call.timeline.error("Twilio ended the stream and its socket did not show it")
                self.ended(call, now_s)
        if line.verdict:
            self._heed_verdict(line, call)
        if self._rest is not None and (steer := line.control.due(now_s)):
            self._do(self._steer(line, steer))
        elif call is None and line.control.settled(now_s, FORGET_S):
            del self._watched[line.call_sid]

    def _do(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- webhooks

    async def _signed_form(self, request: web.Request) -> Form:
        """The fields of a webhook that Twilio has signed. Raises 4xx."""
        self._limits.check_rate(request)
        settings = self._settings
        given = request.headers.get(signature.SIGNATURE_HEADER)
        form = await self._limits.form(request) if given or settings.insecure else []
        if not settings.insecure and not signature.webhook_signed(
            given,
            tokens=settings.twilio_auth_tokens,
            public_url=settings.public_url,
            path_qs=request.raw_path,
            form=form,
        ):
            self._metrics.auth_failures_total.inc("webhook_signature")
            self._limits.warn_throttled(
                "refused a webhook with a wrong signature: is OFFHOOK_PUBLIC_URL the address Twilio calls, "
                "and TWILIO_AUTH_TOKEN the account's primary token?"
            )
            raise web.HTTPForbidden(text="wrong signature")
        fields = dict(form)
        if not messages.is_sid(fields.get("CallSid", "")):
            self._limits.refuse("bad_field", web.HTTPBadRequest(text="CallSid is missing or malformed"))
        return fields

    def _answering(self, handler: Callable[[web.Request, Form], Awaitable[str]]) -> Handler:
        """A webhook that a caller waits behind: whatever goes wrong on our side, they get the fallback."""

        async def answer(request: web.Request) -> web.Response:
            form = await self._signed_form(request)
            try:
                document = await handler(request, form)
            except Exception:
                log.exception("%s failed for call %s: answered with the fallback", request.path, form["CallSid"])
                self._metrics.calls_rejected_total.inc(Refusal.FAULT.value)
                document = twiml.fallback(self._fallback_for(form))
            return web.Response(text=document, content_type=twiml.CONTENT_TYPE)

        return answer

    def _fallback_for(self, form: Form) -> Fallback:
        if line := self._lines.get(form["CallSid"]):
            return line.fallback
        agent = self._admission.agent_for(_own_number(form))
        return agent.fallback if agent else Fallback()

    def _public(self, request: web.Request) -> str:
        return self._settings.public_url or f"https://{request.host}"

    async def _voice(self, request: web.Request, form: Form) -> str:
        rang_s = self._clock()
        call_sid, dialled = form["CallSid"], form.get("To", "")
        placed = self.outbound.find(request.query.get("call", ""))
        agent = self._agent_of(placed) if placed else None
        answer = self._admission.ring(call_sid, _own_number(form), rang_s, agent=agent)
        if not isinstance(answer, Admitted):
            self._metrics.calls_rejected_total.inc(answer.reason.value)
            log.info("call %s refused: %s", call_sid, answer.reason.value)
            return twiml.hang_up() if answer.reason is Refusal.ENDED else twiml.fallback(answer.fallback)
        line = self._lines.get(call_sid)
        if line is None:
            line = self._new_line(request, form, answer.agent, placed)
        if not answer.repeated:
            facts = CallFacts(
                call_sid=call_sid,
                caller=form.get("From", ""),
                dialled=dialled,
                direction="outbound" if _is_outbound(form) else "inbound",
                simulated=self._settings.simulated,
                effects=frozenset(self._settings.simulated_effects),
                started_at=_now(),
                parameters=placed.variables if placed else {},
            )
            call = self._open_call(facts, answer.agent, rang_s)
            call.on_digits = lambda digits: self._do(self._press(line, digits))
        document = self._connect(line, answer.token)
        if call_ := self._calls.get(call_sid):
            call_.timeline.webhook_answered(self._clock())
        return document

    def _new_line(self, request: web.Request, form: Form, agent: Agent, placed: Placed | None) -> Line:
        while len(self._lines) >= MAX_LINES + len(self._calls):
            oldest = next(iter(self._lines))
            if oldest in self._calls:  # a very long call: it is younger from now on
                self._lines.move_to_end(oldest)
                continue
            del self._lines[oldest]
        line = Line(
            call_sid=form["CallSid"],
            account_sid=form.get("AccountSid", ""),
            public_url=self._public(request),
            dialled=form.get("To", ""),
            fallback=agent.fallback,
            placed=placed,
        )
        line.control.told(form.get("CallStatus", ""))
        if placed is not None:
            placed.call_sid, line.verdict = line.call_sid, placed.answered_by
        self._lines[line.call_sid] = self._watched[line.call_sid] = line
        return line

    def _connect(self, line: Line, token: str) -> str:
        public = line.public_url
        return twiml.connect_stream(
            media_url="wss" + public[public.index(":") :] + "/twilio/media",
            after_url=f"{public}/twilio/after",
            parameters={"token": token},
            status_callback_url=f"{public}/twilio/status",
        )

    async def _after(self, request: web.Request, form: Form) -> str:
        now_s = self._clock()
        call_sid = form["CallSid"]
        line, call = self._lines.get(call_sid), self._calls.get(call_sid)
        dialled = form.get("DialCallStatus")
        if dialled is not None:
            return self._after_dial(line, dialled)
        if line is None:
            # Not a call of this process, or one it has forgotten: somebody may be on the line.
            if rank(form.get("CallStatus", "")) == rank("completed"):
                return twiml.hang_up()
            return twiml.fallback(self._fallback_for(form))
        self._told(line, call, form.get("CallStatus", ""))
        if call is not None and call.ending is not None:
            self._decide(line, call)
        answer = line.control.asked(now_s, steered=request.query.get("steered") == "1")
        if answer is Answer.AGAIN and call is not None and (admitted := self._admission.again(call_sid, now_s)):
            self._leave_socket(call)
            call.part(RETURN_S)
            log.info("call %s: its stream is gone, connecting another", call_sid)
            return self._connect(line, admitted.token)
        if answer is Answer.WAIT:
            return twiml.redirect(f"{line.public_url}/twilio/after", after_s=AGAIN_S)
        if not isinstance(answer, Next):
            if call is not None:
                call.feed(e.StreamLost(now_s))
            line.control.decide(Next(Kind.FALLBACK), now_s)
            answer = line.control.asked(now_s)
        assert isinstance(answer, Next)
        return self._document(line, answer)

    def _after_dial(self, line: Line | None, dialled: str) -> str:
        """A dialled leg is over: it was answered, and the caller stayed to its end, or it was not."""
        if dialled in ("completed", "answered"):
            return twiml.hang_up()
        log.info("call %s: the transfer ended as %s", line.call_sid if line else "?", dialled[:20])
        if line is None:
            return twiml.say(NOBODY)
        return twiml.fallback(_without_human(line.fallback))

    def _decide(self, line: Line, call: Call) -> None:
        """The call is over: what follows, once."""
        ending, transfer = call.ending, call.transfer_to
        now_s = self._clock()
        if ending is Ending.CALLER_HUNG_UP:
            line.control.hung_up()
        if line.placed is not None and line.placed.conference:
            self._decide_briefing(line, call, now_s)
        elif ending is Ending.TRANSFERRED and transfer is not None:
            if not transfer.warm:
                line.control.decide(Next(Kind.DIAL, transfer.target, transfer.whisper), now_s)
            elif line.control.decide(Next(Kind.JOIN, _conference(line.call_sid)), now_s):
                self._brief(line, call, transfer.target, transfer.whisper)
        elif ending in FALLBACK_AFTER:
            line.control.decide(Next(Kind.FALLBACK), now_s)
        else:
            line.control.decide(Next(Kind.HANG_UP), now_s)

    def _document(self, line: Line, what: Next) -> str:
        public = line.public_url
        match what.kind:
            case Kind.DIAL:
                query = urlencode({"call": line.call_sid})
                return twiml.dial(
                    what.target,
                    action_url=f"{public}/twilio/after",
                    whisper_url=f"{public}/twilio/whisper?{query}" if what.whisper else "",
                )
            case Kind.JOIN:
                # The caller waits; the human, who comes from a briefing, begins the conference.
                human = line.placed is not None and bool(line.placed.conference)
                return twiml.join(what.target, action_url=f"{public}/twilio/after", starts=human)
            case Kind.FALLBACK:
                return twiml.fallback(line.fallback)
            case Kind.HANG_UP:
                return twiml.hang_up()

    async def _whisper(self, request: web.Request, form: Form) -> str:
        line = self._lines.get(request.query.get("call", ""))
        return twiml.whisper(line.control.next.whisper if line and line.control.next else "")

    async def _fallback(self, request: web.Request, form: Form) -> str:
        """Twilio could not get a document from `/twilio/voice`, or could not use it."""
        code = form.get("ErrorCode", "")
        log.error("call %s: Twilio asks for the fallback (error %s)", form["CallSid"], code[:10])
        if call := self._calls.get(form["CallSid"]):
            call.timeline.error(f"Twilio asked for the fallback (error {code[:10]})")
            call.feed(e.StreamLost(self._clock()))
        return twiml.fallback(self._fallback_for(form))

    async def _status(self, request: web.Request) -> web.Response:
        form = await self._signed_form(request)
        call_sid, status = form["CallSid"], form.get("CallStatus", "")
        line, call = self._lines.get(call_sid), self._calls.get(call_sid)
        placed = self.outbound.find(request.query.get("call", ""))
        if event := form.get("StreamEvent"):
            if line is not None:
                self._stream_event(line, call, event, form)
            return web.Response(status=204)
        if placed is not None and placed.told(status):
            placed.call_sid = placed.call_sid or call_sid
            log.info("call %s (placed): %s", call_sid, status)
            if placed.over and placed.conference:
                self._briefing_over(placed)
        if line is not None:
            self._told(line, call, status)
        return web.Response(status=204)

    def _told(self, line: Line, call: Call | None, status: str) -> None:
        """How far the call has come, by Twilio's word."""
        if not line.control.told(status) or not line.control.over:
            return
        if call is not None:
            # "completed" is somebody's hang-up; the others never had a stream.
            now_s = self._clock()
            call.feed(e.StreamStopped(now_s) if status == "completed" else e.StreamLost(now_s))
        if line.control.next is not None and line.control.next.kind is Kind.JOIN:
            self._caller_left(line)

    def _stream_event(self, line: Line, call: Call | None, event: str, form: Form) -> None:
        """Twilio's own account of a stream: the only place where it says why one failed."""
        if call is not None and (error := form.get("StreamError")):
            call.timeline.error(f"Twilio: {error[:200]}")
        if event in ("stream-stopped", "stream-error") and form.get("StreamSid") == line.control.stream_sid:
            # As a rule the socket knows already, or will in a moment and knows more.
            line.stream_ended_s = self._clock()

    async def _machine(self, request: web.Request) -> web.Response:
        form = await self._signed_form(request)
        call_sid, answered_by = form["CallSid"], form.get("AnsweredBy", "unknown")[:40]
        placed = self.outbound.find(request.query.get("call", ""))
        call = self._calls.get(call_sid)
        if placed is not None and not placed.answered_by:
            placed.answered_by = answered_by
            log.info("call %s was answered by: %s", call_sid, answered_by)
            if line := self._lines.get(call_sid):
                line.verdict = answered_by
                self._heed_verdict(line, call)
        return web.Response(status=204)

    def _heed_verdict(self, line: Line, call: Call | None) -> None:
        """As a rule the agent has been talking since the answer: go on, leave the message, or hang up."""
        if call is None or call.ending is not None or not call.attached:
            return  # not yet, or not any more
        who, outbound = line.verdict, call.agent.outbound
        is_machine = who.startswith("machine")
        if is_machine and outbound.on_machine == "leave_message":
            if call.phase in (Phase.CONNECTING, Phase.THINKING):
                return  # a reply is on its way, and would be taken for the message
            call.last_words(outbound.message, Ending.AGENT_HUNG_UP)
        elif who == "fax" or (is_machine and outbound.on_machine == "hang_up"):
            call.hush()
            call.stop(Ending.ANSWERED_BY_MACHINE)
        line.verdict = ""

    # --- streams (`offhook.gateway.carriers.twilio.stream` reads them)

    def claim(self, start: messages.Start) -> Call | None:
        """The call this stream proves to belong to, once; None, counted, when it proves nothing."""
        now_s = self._clock()
        call, line = self._calls.get(start.call_sid), self._lines.get(start.call_sid)
        if line is not None and start.account_sid and line.account_sid not in ("", start.account_sid):
            self._metrics.input_errors_total.inc("carrier", "wrong_call")
            return None
        if self._admission.start(start.call_sid, start.parameters.get("token", ""), now_s) is not None:
            if call is None or call.ending is not None:
                return None
            if line is not None:
                line.control.stream_up(start.stream_sid, now_s)
                line.stream_ended_s = None
            self._leave_socket(call)  # the last one, if its end was not seen
            return call
        if not self._settings.insecure or call is not None:
            self._metrics.auth_failures_total.inc("stream_token")
            self._limits.warn_throttled("refused a stream without a valid token")
            return None
        # Insecure: a stream may come without a webhook before it.
        answer = self._admission.ring(start.call_sid, start.parameters.get("to", ""), now_s)
        if not isinstance(answer, Admitted):
            self._metrics.calls_rejected_total.inc(answer.reason.value)
            return None
        self._admission.start(start.call_sid, answer.token, now_s)
        facts = CallFacts(
            call_sid=start.call_sid,
            caller=start.parameters.get("from", ""),
            dialled=start.parameters.get("to", ""),
            simulated=self._settings.simulated,
            effects=frozenset(self._settings.simulated_effects),
            started_at=_now(),
        )
        return self._open_call(facts, answer.agent, None)

    def stopped(self, call: Call, now_s: float) -> None:
        """Twilio's `stop`: the caller hung up, unless we had the call do something else."""
        line = self._lines.get(call.facts.call_sid)
        if line is not None and line.control.moved:
            self.ended(call, now_s)
            return
        if line is not None:
            line.control.hung_up()
        call.feed(e.StreamStopped(now_s))

    def ended(self, call: Call, now_s: float) -> None:
        """The call's stream is gone, by whatever sign: another may come, or the call is over."""
        line = self._lines.get(call.facts.call_sid)
        self._leave_socket(call)
        if line is None:
            call.feed(e.StreamLost(now_s))
            return
        match line.control.stream_gone(line.control.stream_sid, now_s):
            case Gone.RETURNS:
                call.part(line.away_max_s if line.control.away else RETURN_S)
            case Gone.LOST:
                call.feed(e.StreamLost(now_s))
            case Gone.STALE:
                pass

    def _leave_socket(self, call: Call) -> None:
        """Close the socket that the call has, without waiting for its peer."""
        socket = call.socket
        if socket is not None:

            async def close() -> None:
                with suppress(ConnectionError):
                    await socket.close()

            self._do(close())

    # --- control: what we tell Twilio by REST

    async def _steer(self, line: Line, steer: Steer) -> None:
        assert self._rest is not None
        try:
            if steer is Steer.HANG_UP:
                up = await self._rest.hang_up(line.call_sid)
            else:
                up = await self._rest.redirect(line.call_sid, f"{line.public_url}/twilio/after?steered=1")
        except TwilioError as error:
            log.warning("call %s: %s", line.call_sid, error)
            line.control.steered(None)
            return
        log.info("call %s: steered by REST (%s)%s", line.call_sid, steer.value, "" if up else ": it was over")
        line.control.steered(up)
        call = self._calls.get(line.call_sid)
        if not up and call is not None:
            call.feed(e.StreamLost(self._clock()))

    async def _take_off(self, line: Line, document: str) -> bool:
        """Have the call run a document of its own for a while, and come back to us; False when it cannot now."""
        if self._rest is None or not line.control.go_away(self._clock()):
            return False
        try:
            up = await self._rest.run_twiml(line.call_sid, document)
        except TwilioError as error:
            log.warning("call %s: %s", line.call_sid, error)
            up = False
        if not up:
            line.control.stay()
        return up

    async def _press(self, line: Line, digits: str) -> None:
        digits = "".join(d for d in digits if d in "0123456789ABCD*#w")
        line.away_max_s = RETURN_S + len(digits) * DIGIT_S + 5.0
        document = twiml.press(digits, f"{line.public_url}/twilio/after?steered=1")
        if not await self._take_off(line, document) and (call := self._calls.get(line.call_sid)):
            call.timeline.error("keys could not be pressed: Twilio would not take the request now")

    async def hold(self, call_sid: str, music_url: str = "", line: str = "") -> bool:
        """Let the caller hear music until `resume`; the agent waits. False when that cannot be done now."""
        known = self._lines.get(call_sid)
        if known is None:
            return False
        known.away_max_s = HOLD_MAX_S
        return await self._take_off(known, twiml.hold(music_url or twiml.HOLD_MUSIC_URL, line))

    async def resume(self, call_sid: str) -> bool:
        """End a hold: the call's stream comes back. False for a call that is not on hold."""
        line = self._lines.get(call_sid)
        if line is None or self._rest is None or not line.control.come_back(self._clock()):
            return False
        await self._steer(line, Steer.ASK)
        return True

    # --- calls we place

    def call_out(
        self, to: str, agent_name: str, *, caller_id: str = "", variables: dict[str, str] | None = None
    ) -> Placed:
        """Queue a call. Raises `OperatorError` for one that cannot be placed."""
        agent = self._agents.get(agent_name) if agent_name else next(iter(self._agents.values()))
        if agent is None:
            raise OperatorError(f"no agent is named {agent_name[:60]!r}: there are {', '.join(self._agents)}")
        if self._rest is None or not self._settings.public_url:
            raise OperatorError(
                "calls cannot be placed: set TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and OFFHOOK_PUBLIC_URL"
            )
        return self.outbound.submit(to, agent, caller_id=caller_id, variables=variables)

    def _agent_of(self, placed: Placed) -> Agent | None:
        agent = self._agents.get(placed.agent)
        if agent is None or not placed.conference:
            return agent
        return briefing_agent(agent)

    async def _place(self, placed: Placed) -> None:
        assert self._rest is not None
        agent = self._agents[placed.agent]
        outbound, public = agent.outbound, self._settings.public_url
        query = urlencode({"call": placed.id})
        detect = outbound.detect_machine and not placed.conference
        wait_for_end = outbound.on_machine == "leave_message"
        call = NewCall(
            to=placed.to,
            caller_id=placed.caller_id,
            url=f"{public}/twilio/voice?{query}",
            status_callback_url=f"{public}/twilio/status?{query}",
            ring_s=outbound.ring_s,
            limit_s=int(agent.limits.call_s) + 120 if agent.limits.call_s else None,
            machine_detection=("DetectMessageEnd" if wait_for_end else "Enable") if detect else "",
            machine_callback_url=f"{public}/twilio/machine?{query}" if detect else "",
        )
        try:
            call_sid = await self._rest.place_call(call)
        except TwilioError as error:
            log.warning("a call could not be placed: %s", error)
            if error.status == 429:
                self.outbound.back_off(placed, self._clock())
                return
            placed.error = str(error)
            placed.told("failed")
            if placed.conference:
                self._briefing_over(placed)
            return
        placed.call_sid = placed.call_sid or call_sid
        placed.told("queued")

    async def hang_up(self, placed: Placed) -> bool:
        """End a call we placed, wherever it stands; False when it is over."""
        if placed.over:
            return False
        if self.outbound.cancel(placed):
            return True
        if call := self._calls.get(placed.call_sid):
            call.stop(Ending.AGENT_HUNG_UP)
            return True
        if self._rest is None or not placed.call_sid:
            return False
        with suppress(TwilioError):
            return await self._rest.hang_up(placed.call_sid)
        return False

    # --- warm transfer: the caller waits in a conference, the agent briefs the human, then leaves

    def _brief(self, line: Line, call: Call, target: str, about: str) -> None:
        own_number = line.placed.caller_id if line.placed is not None else line.dialled
        try:
            self.outbound.submit(
                target,
                call.agent,
                caller_id=call.agent.outbound.caller_id or own_number,
                variables={"about": about or "nothing"},
                conference=_conference(line.call_sid),
            )
        except OperatorError as error:
            log.warning("call %s: no warm transfer: %s", line.call_sid, error)
            self._do(self._send_home(line.call_sid))

    def _decide_briefing(self, line: Line, call: Call, now_s: float) -> None:
        """The briefing is over: the human joins the caller, unless they hung up or did not want to."""
        assert line.placed is not None
        if call.ending is Ending.AGENT_HUNG_UP and DECLINED not in call.remembered:
            line.control.decide(Next(Kind.JOIN, line.placed.conference), now_s)
        elif line.control.decide(Next(Kind.HANG_UP), now_s):
            self._briefing_over(line.placed)

    def _briefing_over(self, placed: Placed) -> None:
        """Nobody joins: the caller must not be left with the music."""
        line = self._lines.get(placed.call_sid)
        if line is not None and line.control.next is not None and line.control.next.kind is Kind.JOIN:
            return  # they met; the conference's end is the end of both calls
        self._do(self._send_home(placed.conference.removeprefix(_conference(""))))

    async def _send_home(self, call_sid: str) -> None:
        """Fetch a caller out of the conference in which nobody will meet them."""
        line = self._lines.get(call_sid)
        if line is None or line.control.over or line.sent_home or self._rest is None:
            return
        line.sent_home = True
        try:
            await self._rest.run_twiml(call_sid, twiml.fallback(_without_human(line.fallback)))
        except TwilioError as error:
            log.warning("call %s: %s", call_sid, error)

    def _caller_left(self, line: Line) -> None:
        """The caller did not wait for the human: do not bother them."""
        for placed in self.outbound.of_conference(_conference(line.call_sid)):
            if leg := self._lines.get(placed.call_sid):
                leg.control.decide(Next(Kind.HANG_UP), self._clock())
            self._do(self._end_placed(placed))

    async def _end_placed(self, placed: Placed) -> None:
        await self.hang_up(placed)


def rest_for(settings: Settings, http: aiohttp.ClientSession) -> TwilioRest:
    """Twilio's REST API with these settings. Raises `OperatorError` when they are not enough."""
    secret = settings.twilio_api_secret or next(iter(settings.twilio_auth_tokens), "")
    if not settings.twilio_account_sid or not secret:
        raise OperatorError("set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN (Twilio console, Account Info)")
    return TwilioRest(
        http, settings.twilio_account_sid, secret, user=settings.twilio_api_key, base_url=settings.twilio_base_url
    )


def _is_outbound(form: Form) -> bool:
    return form.get("Direction", "").startswith("outbound")


def _own_number(form: Form) -> str:
    """Our end of the call: whose agent talks."""
    return form.get("From" if _is_outbound(form) else "To", "")


def _conference(call_sid: str) -> str:
    return f"offhook-{call_sid}"


def _without_human(fallback: Fallback) -> Fallback:
    """The fallback for a caller who has just learnt that nobody answers."""
    return msgspec.structs.replace(fallback, dial="", enqueue="", say=fallback.say or NOBODY)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
