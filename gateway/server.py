"""The gateway process: routes, the calls in progress, and their beginning and end.

POST /twilio/voice    answer a ringing call with a media stream, or with the agent's fallback
POST /twilio/after    what follows when the stream is over
POST /twilio/status   the call's status, a second source of truth for its end
GET  /twilio/media    the media stream (WebSocket)
GET  /metrics /livez /readyz   for Prometheus and for whoever restarts us
GET  /console/api/calls[/SID]  records of the last calls, JSON
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec
from aiohttp import WSMsgType, web
from prometheus_client import CollectorRegistry

from gateway import __version__
from gateway.admission import Admission, Admitted, Refusal
from gateway.agent import Agent, Fallback
from gateway.call import Call, CallFacts
from gateway.carriers.twilio import messages, signature, twiml
from gateway.config import LOOPBACK, Settings
from gateway.conversation import events as e
from gateway.conversation.endings import Ending
from gateway.errors import Malformed, OperatorError
from gateway.models.gemini import GeminiSettings, Models
from gateway.record import CallRecord
from gateway.sounds import load_sounds
from gateway.tools.build import build_tools
from metrics.catalogue import Metrics
from metrics.exposition import CONTENT_TYPE

__all__ = ["Gateway"]

log = logging.getLogger(__name__)

MAX_BODY = 64 * 1024  # a webhook has some 2 kB
MAX_RECORDS = 1_000  # ended calls kept in memory for the console; the store keeps the rest
RING_S = 10.0  # a stream comes a second after its TwiML; a model session is not kept waiting for longer
TICK_S = 0.25
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


class Gateway:
    """All calls of one process. `async with gateway.listening() as url` serves until the block is left."""

    def __init__(self, settings: Settings, agents: Sequence[Agent], environ: Mapping[str, str]) -> None:
        if not agents:
            raise OperatorError("no agent: name an agent file with --agent or OFFHOOK_AGENT")
        if not settings.insecure and not (settings.twilio_auth_tokens and settings.public_url):
            raise OperatorError(
                "Twilio's requests cannot be verified: set TWILIO_AUTH_TOKEN and OFFHOOK_PUBLIC_URL "
                "(or OFFHOOK_INSECURE=1 on a loopback address, for trying things out)"
            )
        self.settings = settings
        self.agents = tuple(agents)
        self._tools = {agent.name: build_tools(agent, environ) for agent in agents}
        self._sounds = {agent.name: load_sounds(agent) for agent in agents}
        names = sorted({name for tools in self._tools.values() for name in tools})
        self.metrics = Metrics(CollectorRegistry(), tools=names, version=__version__)
        self.metrics.call_capacity.set(settings.max_calls)
        self.admission = Admission(self.agents, settings.max_calls, ring_s=RING_S)
        self.models = Models(GeminiSettings.read(environ))
        self.calls: dict[str, Call] = {}
        self.records: OrderedDict[str, CallRecord] = OrderedDict()
        self._endings: OrderedDict[str, tuple[Ending, Fallback]] = OrderedDict()
        self._idle = asyncio.Event()  # no calls
        self._idle.set()

    # --- serving

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_post("/twilio/voice", self._voice)
        app.router.add_post("/twilio/after", self._after)
        app.router.add_post("/twilio/status", self._status)
        app.router.add_get("/twilio/media", self._media)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/console/api/calls", self._calls)
        app.router.add_get("/console/api/calls/{sid}", self._call)
        return app

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve on the configured host and port (0: any free one); gives the local URL.

        Leaving the block ends every call that is still there.
        """
        runner = web.AppRunner(self.app(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, self.settings.host, self.settings.port)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise OperatorError(
                f"cannot listen on {self.settings.host}:{self.settings.port} ({error.strerror}): "
                "choose another OFFHOOK_PORT"
            ) from None
        host, port = runner.addresses[0][:2]
        await self.models.warm_up()
        ticker = asyncio.create_task(self._tick(), name="ticker")
        try:
            yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        finally:
            await self._end_all()
            ticker.cancel()
            await asyncio.gather(ticker, return_exceptions=True)
            await runner.cleanup()

    async def drain(self) -> None:
        """Take no new calls; return when the live ones are over, or at the configured limit."""
        self.admission.draining = True
        self.metrics.draining.set(1)
        log.info("draining: %d calls to finish", len(self.calls))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_s):
                await self._idle.wait()

    async def _end_all(self) -> None:
        self.admission.draining = True
        calls = list(self.calls.values())
        for call in calls:
            call.stop(Ending.SERVER_STOPPED)
        if calls:
            await asyncio.wait([asyncio.create_task(call.over()) for call in calls])

    async def _tick(self) -> None:
        """What the process looks after by itself: dead streams, calls that never came, its own lag."""
        due_s = time.monotonic()
        while True:
            due_s = max(due_s + TICK_S, time.monotonic())
            await asyncio.sleep(due_s - time.monotonic())
            now_s = time.monotonic()
            self.metrics.observe("event_loop_lag", max(0.0, now_s - due_s))
            for call_sid in self.admission.given_up(now_s):
                if call := self.calls.get(call_sid):
                    call.feed(e.StreamLost(now_s))
            for call in list(self.calls.values()):
                if call.silent_s(now_s) > messages.MEDIA_SILENCE_S:
                    call.timeline.error("no audio from the carrier for 8 s")
                    call.feed(e.StreamLost(now_s))

    # --- calls

    def _new_call(self, facts: CallFacts, agent: Agent, rang_s: float | None) -> Call:
        tools = self._tools[agent.name]
        call = Call(
            facts,
            agent,
            tools=tools,
            sounds=self._sounds[agent.name],
            metrics=self.metrics,
            link_for=lambda call: self.models.link(
                agent,
                tools.values(),
                call,
                variables={"caller": facts.caller, "dialled": facts.dialled, "call_sid": facts.call_sid},
                clock=call.clock,
            ),
            on_over=self._call_over,
            rang_s=rang_s,
        )
        self.calls[facts.call_sid] = call
        self._idle.clear()
        self.metrics.calls_active.set(len(self.calls))
        call.start()
        return call

    async def _call_over(self, call: Call) -> None:
        call_sid = call.facts.call_sid
        self.calls.pop(call_sid, None)
        if not self.calls:
            self._idle.set()
        self.admission.end(call_sid)
        self.metrics.calls_active.set(len(self.calls))
        if call.ending is not None:
            self._endings[call_sid] = call.ending, call.agent.fallback
        self.records[call_sid] = call.record
        for kept in (self._endings, self.records):
            while len(kept) > MAX_RECORDS:
                kept.popitem(last=False)
        log.info("call %s over: %s", call_sid, call.record.end_reason)

    # --- Twilio's webhooks

    async def _signed_form(self, request: web.Request) -> list[tuple[str, str]]:
        """The fields of a webhook that Twilio has signed. Raises HTTPForbidden."""
        form = [(name, str(value)) for name, value in (await request.post()).items()]
        settings = self.settings
        if not settings.insecure and not signature.webhook_signed(
            request.headers.get(signature.SIGNATURE_HEADER),
            tokens=settings.twilio_auth_tokens,
            public_url=settings.public_url,
            path_qs=request.raw_path,
            form=form,
        ):
            self.metrics.auth_failures_total.inc("webhook_signature")
            log.warning(
                "refused a webhook with a wrong signature: is OFFHOOK_PUBLIC_URL the address Twilio calls, "
                "and TWILIO_AUTH_TOKEN the account's primary token?"
            )
            raise web.HTTPForbidden(text="wrong signature")
        return form

    def _public(self, request: web.Request) -> str:
        return self.settings.public_url or f"https://{request.host}"

    async def _voice(self, request: web.Request) -> web.Response:
        rang_s = time.monotonic()
        form = dict(await self._signed_form(request))
        call_sid = form.get("CallSid", "")
        if not messages.is_sid(call_sid):
            self.metrics.input_errors_total.inc("http", "bad_field")
            raise web.HTTPBadRequest(text="CallSid is missing or malformed")
        answer = self.admission.ring(call_sid, form.get("To", ""), rang_s)
        if not isinstance(answer, Admitted):
            self.metrics.calls_rejected_total.inc(answer.reason.value)
            log.info("call %s refused: %s", call_sid, answer.reason.value)
            document = twiml.hang_up() if answer.reason is Refusal.ENDED else twiml.fallback(answer.fallback)
            return _twiml(document)
        if not answer.repeated:
            facts = CallFacts(
                call_sid=call_sid,
                caller=form.get("From", ""),
                dialled=form.get("To", ""),
                direction=form.get("Direction", "inbound"),
                simulated=self.settings.simulated,
                started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            )
            self._new_call(facts, answer.agent, rang_s)
        public = self._public(request)
        document = twiml.connect_stream(
            media_url="wss" + public[public.index(":") :] + "/twilio/media",
            after_url=f"{public}/twilio/after",
            parameters={"token": answer.token},
            status_callback_url=f"{public}/twilio/status",
        )
        if call := self.calls.get(call_sid):
            call.timeline.webhook_answered(time.monotonic())
        return _twiml(document)

    async def _after(self, request: web.Request) -> web.Response:
        form = dict(await self._signed_form(request))
        call_sid = form.get("CallSid", "")
        if call := self.calls.get(call_sid):  # the socket went away and this is the first word of it
            if not call.ending:
                call.feed(e.StreamLost(time.monotonic()))
            await call.over()
        ending, fallback = self._endings.get(call_sid, (None, None))
        if ending in FALLBACK_AFTER and fallback is not None:
            return _twiml(twiml.fallback(fallback))
        return _twiml(twiml.hang_up())

    async def _status(self, request: web.Request) -> web.Response:
        form = dict(await self._signed_form(request))
        call = self.calls.get(form.get("CallSid", ""))
        if call is not None:
            if error := form.get("StreamError"):
                call.timeline.error(f"Twilio: {error[:200]}")
            if form.get("CallStatus") in ("completed", "busy", "failed", "no-answer", "canceled"):
                call.feed(e.StreamStopped(time.monotonic()))
        return web.Response(status=204)

    # --- Twilio's media stream

    async def _media(self, request: web.Request) -> web.StreamResponse:
        settings = self.settings
        if not settings.insecure and not signature.upgrade_signed(
            request.headers.get(signature.SIGNATURE_HEADER),
            tokens=settings.twilio_auth_tokens,
            public_url=settings.public_url,
            path_qs=request.raw_path,
        ):
            self.metrics.auth_failures_total.inc("stream_signature")
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
            self.metrics.input_errors_total.inc("carrier", "timeout")
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
                self.metrics.input_errors_total.inc("carrier", "bad_order")
        else:
            return None
        if not parsed.media_format.is_telephone:
            self.metrics.input_errors_total.inc("carrier", "bad_format")
            await socket.close(code=1003, message=b"only audio/x-mulaw, 8000 Hz, 1 channel")
            return None
        call = self._claim(parsed)
        if call is None:
            self.metrics.auth_failures_total.inc("stream_token")
            log.warning("refused a stream without a valid token")
            await socket.close(code=1008, message=b"unknown call or token")
            return None
        call.attach(socket, parsed.stream_sid)
        return call

    def _claim(self, start: messages.Start) -> Call | None:
        now_s = time.monotonic()
        token = start.parameters.get("token", "")
        call = self.calls.get(start.call_sid)
        if self.admission.start(start.call_sid, token, now_s) is not None:
            return call
        if not self.settings.insecure or call is not None:
            return None
        # Insecure: a stream may come without a webhook before it.
        answer = self.admission.ring(start.call_sid, start.parameters.get("to", ""), now_s)
        if not isinstance(answer, Admitted):
            self.metrics.calls_rejected_total.inc(answer.reason.value)
            return None
        self.admission.start(start.call_sid, answer.token, now_s)
        facts = CallFacts(
            call_sid=start.call_sid,
            caller=start.parameters.get("from", ""),
            dialled=start.parameters.get("to", ""),
            simulated=self.settings.simulated,
            started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        return self._new_call(facts, answer.agent, None)

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
                self.metrics.input_errors_total.inc("carrier", "bad_order")
        if not stopped:
            call.feed(e.StreamLost(call.clock()))
        await call.over()

    def _parse(self, message: object) -> messages.Message | None:
        """A message of the stream; None for one that means nothing to us (counted when malformed)."""
        kind, data = message.type, message.data  # type: ignore[attr-defined]
        if kind is not WSMsgType.TEXT:
            self.metrics.input_errors_total.inc("carrier", "binary")
            return None
        try:
            return messages.parse(data)
        except Malformed as error:
            self.metrics.input_errors_total.inc("carrier", error.reason)
            return None

    # --- for operators

    def _operator(self, request: web.Request) -> None:
        """Loopback may look; others need the console token. Raises HTTPForbidden."""
        token = self.settings.console_token
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and hmac.compare_digest(given.encode(), token.encode()):
            return
        if not token and request.remote in LOOPBACK and "X-Forwarded-For" not in request.headers:
            return
        self.metrics.auth_failures_total.inc("console")
        raise web.HTTPUnauthorized(
            text="set OFFHOOK_CONSOLE_TOKEN and send it as a bearer token", headers={"WWW-Authenticate": "Bearer"}
        )

    async def _metrics(self, request: web.Request) -> web.Response:
        self._operator(request)
        body = await self.metrics.render_in_slices()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def _livez(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        if self.admission.draining:
            return web.Response(status=503, text="draining\n")
        if self.admission.calls >= self.settings.max_calls:
            return web.Response(status=503, text="at the limit of calls\n")
        return web.Response(text="ready\n")

    async def _calls(self, request: web.Request) -> web.Response:
        self._operator(request)
        records = [*reversed(self.records.values())]
        return web.Response(body=msgspec.json.encode(records), content_type="application/json")

    async def _call(self, request: web.Request) -> web.Response:
        self._operator(request)
        record = self.records.get(request.match_info["sid"])
        if record is None:
            raise web.HTTPNotFound(text="no such call, or it is not over yet")
        return web.Response(body=msgspec.json.encode(record), content_type="application/json")


def _twiml(document: str) -> web.Response:
    return web.Response(text=document, content_type=twiml.CONTENT_TYPE)
