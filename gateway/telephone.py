"""Twilio's side of the process: its webhooks, and the media stream.

POST /twilio/voice    answer a ringing call with a media stream, or with the agent's fallback
POST /twilio/after    what follows when the stream is over
POST /twilio/status   the call's status, a second source of truth for its end
GET  /twilio/media    the media stream (WebSocket)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from aiohttp import WSMsgType, web

from gateway.admission import Admission, Admitted, Refusal
from gateway.agent import Agent, Fallback
from gateway.call import Call, CallFacts
from gateway.carriers.twilio import messages, signature, twiml
from gateway.config import Settings
from gateway.conversation import events as e
from gateway.conversation.endings import Ending
from gateway.errors import Malformed
from metrics.catalogue import Metrics

__all__ = ["Telephone"]

log = logging.getLogger(__name__)

MAX_ENDED = 1_000  # ended calls whose `after` may still be asked
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


class Telephone:
    """Twilio's requests and streams. `calls` are the process's live ones; `open_call(facts, agent, rang_s)` adds one.

    `rang_s`: when the call's webhook came, None for a stream that came without one.
    """

    def __init__(
        self,
        settings: Settings,
        admission: Admission,
        metrics: Metrics,
        calls: Mapping[str, Call],
        open_call: Callable[[CallFacts, Agent, float | None], Call],
    ) -> None:
        self._settings, self._admission, self._metrics = settings, admission, metrics
        self._calls, self._open_call = calls, open_call
        self._endings: OrderedDict[str, tuple[Ending, Fallback]] = OrderedDict()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/twilio/voice", self._voice),
            web.post("/twilio/after", self._after),
            web.post("/twilio/status", self._status),
            web.get("/twilio/media", self._media),
        ]

    def call_over(self, call: Call) -> None:
        """Everything of this call is gone."""
        if call.ending is not None:
            self._endings[call.facts.call_sid] = call.ending, call.agent.fallback
        while len(self._endings) > MAX_ENDED:
            self._endings.popitem(last=False)

    def tick(self, now_s: float) -> None:
        """Several times a second: calls whose stream never came, streams that are dead."""
        for call_sid in self._admission.given_up(now_s):
            if call := self._calls.get(call_sid):
                call.feed(e.StreamLost(now_s))
        for call in list(self._calls.values()):
            if call.silent_s(now_s) > messages.MEDIA_SILENCE_S:
                call.timeline.error("no audio from the carrier for 8 s")
                call.feed(e.StreamLost(now_s))

    # --- Twilio's webhooks

    async def _signed_form(self, request: web.Request) -> list[tuple[str, str]]:
        """The fields of a webhook that Twilio has signed. Raises HTTPForbidden."""
        form = [(name, str(value)) for name, value in (await request.post()).items()]
        settings = self._settings
        if not settings.insecure and not signature.webhook_signed(
            request.headers.get(signature.SIGNATURE_HEADER),
            tokens=settings.twilio_auth_tokens,
            public_url=settings.public_url,
            path_qs=request.raw_path,
            form=form,
        ):
            self._metrics.auth_failures_total.inc("webhook_signature")
            log.warning(
                "refused a webhook with a wrong signature: is OFFHOOK_PUBLIC_URL the address Twilio calls, "
                "and TWILIO_AUTH_TOKEN the account's primary token?"
            )
            raise web.HTTPForbidden(text="wrong signature")
        return form

    def _public(self, request: web.Request) -> str:
        return self._settings.public_url or f"https://{request.host}"

    async def _voice(self, request: web.Request) -> web.Response:
        rang_s = time.monotonic()
        form = dict(await self._signed_form(request))
        call_sid = form.get("CallSid", "")
        if not messages.is_sid(call_sid):
            self._metrics.input_errors_total.inc("http", "bad_field")
            raise web.HTTPBadRequest(text="CallSid is missing or malformed")
        answer = self._admission.ring(call_sid, form.get("To", ""), rang_s)
        if not isinstance(answer, Admitted):
            self._metrics.calls_rejected_total.inc(answer.reason.value)
            log.info("call %s refused: %s", call_sid, answer.reason.value)
            document = twiml.hang_up() if answer.reason is Refusal.ENDED else twiml.fallback(answer.fallback)
            return _twiml(document)
        if not answer.repeated:
            facts = CallFacts(
                call_sid=call_sid,
                caller=form.get("From", ""),
                dialled=form.get("To", ""),
                direction=form.get("Direction", "inbound"),
                simulated=self._settings.simulated,
                started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            )
            self._open_call(facts, answer.agent, rang_s)
        public = self._public(request)
        document = twiml.connect_stream(
            media_url="wss" + public[public.index(":") :] + "/twilio/media",
            after_url=f"{public}/twilio/after",
            parameters={"token": answer.token},
            status_callback_url=f"{public}/twilio/status",
        )
        if call := self._calls.get(call_sid):
            call.timeline.webhook_answered(time.monotonic())
        return _twiml(document)

    async def _after(self, request: web.Request) -> web.Response:
        form = dict(await self._signed_form(request))
        call_sid = form.get("CallSid", "")
        if call := self._calls.get(call_sid):  # the socket went away and this is the first word of it
            if not call.ending:
                call.feed(e.StreamLost(time.monotonic()))
            await call.over()
        ending, fallback = self._endings.get(call_sid, (None, None))
        if ending in FALLBACK_AFTER and fallback is not None:
            return _twiml(twiml.fallback(fallback))
        return _twiml(twiml.hang_up())

    async def _status(self, request: web.Request) -> web.Response:
        form = dict(await self._signed_form(request))
        call = self._calls.get(form.get("CallSid", ""))
        if call is not None:
            if error := form.get("StreamError"):
                call.timeline.error(f"Twilio: {error[:200]}")
            if form.get("CallStatus") in ("completed", "busy", "failed", "no-answer", "canceled"):
                call.feed(e.StreamStopped(time.monotonic()))
        return web.Response(status=204)

    # --- Twilio's media stream

    async def _media(self, request: web.Request) -> web.StreamResponse:
        settings = self._settings
        if not settings.insecure and not signature.upgrade_signed(
            request.headers.get(signature.SIGNATURE_HEADER),
            tokens=settings.twilio_auth_tokens,
            public_url=settings.public_url,
            path_qs=request.raw_path,
        ):
            self._metrics.auth_failures_total.inc("stream_signature")
            raise web.HTTPForbidden(text="wrong signature")
        # No heartbeat: an intermediary that eats pongs would end live calls. The silence of the media decides.
        socket = web.WebSocketResponse(
            compress=False, autoping=True, heartbeat=None, max_msg_size=messages.MAX_MESSAGE_BYTES, timeout=2.0
        )
        await socket.prepare(request)
        try:
            async with asyncio.timeout(messages.START_DEADLINE_S):
                call = await self._await_start(socket)
        except TimeoutError:
            self._metrics.input_errors_total.inc("carrier", "timeout")
            await socket.close(code=1008, message=b"no start in time")
            return socket
        if call is not None:
            await self._talk(socket, call)
        return socket

    async def _await_start(self, socket: web.WebSocketResponse) -> Call | None:
        """Read up to the stream's `start` and find its call; None after having closed the socket."""
        async for message in socket:
            parsed = self._parse(message)
            if isinstance(parsed, messages.Start):
                break
            if parsed is not None and not isinstance(parsed, messages.Connected):
                self._metrics.input_errors_total.inc("carrier", "bad_order")
        else:
            return None
        if not parsed.media_format.is_telephone:
            self._metrics.input_errors_total.inc("carrier", "bad_format")
            await socket.close(code=1003, message=b"only audio/x-mulaw, 8000 Hz, 1 channel")
            return None
        call = self._claim(parsed)
        if call is None:
            self._metrics.auth_failures_total.inc("stream_token")
            log.warning("refused a stream without a valid token")
            await socket.close(code=1008, message=b"unknown call or token")
            return None
        call.attach(socket, parsed.stream_sid)
        return call

    def _claim(self, start: messages.Start) -> Call | None:
        now_s = time.monotonic()
        token = start.parameters.get("token", "")
        call = self._calls.get(start.call_sid)
        if self._admission.start(start.call_sid, token, now_s) is not None:
            return call
        if not self._settings.insecure or call is not None:
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
            started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        return self._open_call(facts, answer.agent, None)

    async def _talk(self, socket: web.WebSocketResponse, call: Call) -> None:
        """The stream's messages to the call, until either is over."""
        stopped = False
        async for message in socket:
            parsed = self._parse(message)
            if type(parsed) is messages.Media:  # 50 a second: first
                call.media(parsed.payload, parsed.timestamp_ms)
            elif isinstance(parsed, messages.Mark):
                call.mark(parsed.name)
            elif isinstance(parsed, messages.Dtmf):
                call.digit(parsed.digit)
            elif isinstance(parsed, messages.Stop):
                stopped = True
                call.feed(e.StreamStopped(call.clock()))
            elif isinstance(parsed, messages.Start):
                self._metrics.input_errors_total.inc("carrier", "bad_order")
        if not stopped:
            call.feed(e.StreamLost(call.clock()))
        await call.over()

    def _parse(self, message: object) -> messages.Message | None:
        """A message of the stream; None for one that means nothing to us (counted when malformed)."""
        kind, data = message.type, message.data  # type: ignore[attr-defined]
        if kind is not WSMsgType.TEXT:
            self._metrics.input_errors_total.inc("carrier", "binary")
            return None
        try:
            return messages.parse(data)
        except Malformed as error:
            self._metrics.input_errors_total.inc("carrier", error.reason)
            return None


def _twiml(document: str) -> web.Response:
    return web.Response(text=document, content_type=twiml.CONTENT_TYPE)
