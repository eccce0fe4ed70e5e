"""The gateway process: routes, the calls in progress, and their beginning and end.

/twilio/...                    Twilio's side, see `telephone`
POST /calls                    place a call; GET /calls/ID what became of it, POST /calls/ID/ACTION steer it
GET  /metrics /livez /readyz   for Prometheus and for whoever restarts us
GET  /console                  what goes on now and where the milliseconds go, see `console`
POST /console/token            a token for a browser that talks to Gemini itself (off by default)
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry

from offhook.gateway import __version__
from offhook.gateway.agent.policy import detector_of
from offhook.gateway.agent.sounds import load_sounds
from offhook.gateway.agent.spec import Agent
from offhook.gateway.call.call import Call, CallFacts
from offhook.gateway.carriers.twilio.webhooks import Telephone
from offhook.gateway.config import Settings
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.errors import ModelRefused, OperatorError
from offhook.gateway.labels import LABELS
from offhook.gateway.models import CallBrief
from offhook.gateway.models.gemini.client import GeminiModel, GeminiSettings
from offhook.gateway.models.pricing import check_limit, load_prices, price_of
from offhook.gateway.observe.redact import Redactor, secrets_of
from offhook.gateway.observe.tracing import new_trace_id, traces_for
from offhook.gateway.store.record import CallRecord
from offhook.gateway.telephony.admission import Admission
from offhook.gateway.telephony.outbound import QueueFull, can_be_called
from offhook.gateway.telephony.transfer import BRIEFING_TOOLS, briefing_agent
from offhook.gateway.tools.build import Toolbox, board_of, build_tools
from offhook.gateway.tools.http.client import HttpClient
from offhook.gateway.web.access import Access
from offhook.gateway.web.console import Boards, Console, LiveCall
from offhook.gateway.web.limits import KEEP_ALIVE_S, Door
from offhook.metrics.catalogue import Metrics
from offhook.metrics.exposition import CONTENT_TYPE, OPENMETRICS_TYPE

__all__ = ["Gateway"]

log = logging.getLogger(__name__)

MAX_RECORDS = 1_000  # ended calls kept in memory for the console; the store keeps the rest
TICK_S = 0.25
STOCK_TICKS = 20  # each call's links are looked at every so many ticks: 5 s


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
        self._redactor = Redactor(secrets_of(environ, (msgspec.to_builtins(agent.tools) for agent in agents)))
        self._http = HttpClient()
        self._toolboxes = {agent.name: build_tools(agent, environ, self._http) for agent in agents}
        self._sounds = {agent.name: load_sounds(agent) for agent in agents}
        for agent in agents:
            detector_of(agent)  # not installed: now, and not when somebody calls
        names = sorted({name for toolbox in self._toolboxes.values() for name in toolbox.tools})
        self.metrics = Metrics(CollectorRegistry(), LABELS, tools=names, version=__version__)
        self.metrics.call_capacity.set(settings.max_calls)
        for agent in agents:  # warm transfers: each agent's other self
            briefing = briefing_agent(agent)
            self._toolboxes[briefing.name], self._sounds[briefing.name] = Toolbox(BRIEFING_TOOLS), {}
        self.admission = Admission(self.agents, settings.max_calls)
        self._door = Door(self.metrics, settings.max_calls)
        self._prices = load_prices(settings.prices)
        for agent in agents:
            check_limit(agent, self._prices)
        self.models = GeminiModel(GeminiSettings.read(environ))
        self.calls: dict[str, Call] = {}
        self.records: OrderedDict[str, CallRecord] = OrderedDict()
        self.telephone = Telephone(
            settings,
            self.admission,
            self.metrics,
            self._door,
            {agent.name: agent for agent in self.agents},
            self.calls,
            self._new_call,
        )
        self._traces = traces_for(environ)
        self._exports: set[asyncio.Task[None]] = set()
        self._access = Access(settings.console_token, self.metrics)
        self.console = Console(
            self._access,
            self.metrics,
            self.records,
            live=self._live,
            live_record=self._live_record,
            draining=lambda: self.admission.draining,
            about={
                "version": __version__,
                "capacity": settings.max_calls,
                "agents": [agent.name for agent in agents],
                "simulated": settings.simulated,
            },
            boards=Boards({agent.name: board for agent in agents if (board := board_of(agent))}),
        )
        self._idle = asyncio.Event()  # no calls
        self._idle.set()

    # --- serving

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(self.telephone.routes())
        app.router.add_post("/calls", _errors_as_json(self._place))
        app.router.add_get("/calls/{id}", _errors_as_json(self._placed))
        app.router.add_post("/calls/{id}/{action}", _errors_as_json(self._steer))
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.add_routes(self.console.routes())
        app.router.add_post("/console/token", self._token)
        return app

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve on the configured host and port (0: any free one); gives the local URL.

        Leaving the block ends every call that is still there.
        """
        runner = web.AppRunner(
            self.app(),
            access_log=None,
            logger=self._door.http_log(),
            handle_signals=False,
            shutdown_timeout=1.0,
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=2.0,
            auto_decompress=False,  # nobody we know compresses requests; bombs do
        )
        await runner.setup()
        assert runner.server is not None
        loop = asyncio.get_running_loop()
        try:
            listener = await loop.create_server(
                self._door.guard(runner.server), self.settings.host, self.settings.port, backlog=256
            )
        except OSError as error:
            await runner.cleanup()
            raise OperatorError(
                f"cannot listen on {self.settings.host}:{self.settings.port} ({error.strerror}): "
                "choose another OFFHOOK_PORT or OFFHOOK_HOST"
            ) from None
        host, port = listener.sockets[0].getsockname()[:2]
        await asyncio.gather(self._http.start(), *(toolbox.start() for toolbox in self._toolboxes.values()))
        await self.telephone.open()
        await self.models.warm_up()
        ticker = asyncio.create_task(self._tick(), name="ticker")
        try:
            yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        finally:
            await self._end_all()
            await self.telephone.close()
            await self.console.close()
            if self._traces is not None:
                await asyncio.gather(*self._exports)
                await asyncio.to_thread(self._traces.close)
            await asyncio.gather(self._http.close(), *(toolbox.close() for toolbox in self._toolboxes.values()))
            ticker.cancel()
            await asyncio.gather(ticker, return_exceptions=True)
            listener.close()
            await runner.cleanup()
            await self.models.close()

    async def drain(self) -> None:
        """Take no new calls; return when the live ones are over, or at the configured limit."""
        self.admission.draining = True
        self.metrics.draining.set(1)
        log.info("draining: %d calls to finish", len(self.calls))
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.drain_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("draining: %d calls were left at the limit", len(self.calls))
        else:  # no metric: nobody would scrape it before the process is gone
            log.info("drained in %.1f s", time.monotonic() - began_s)

    async def _end_all(self) -> None:
        self.admission.draining = True
        calls = list(self.calls.values())
        for call in calls:
            call.stop(Ending.SERVER_STOPPED)
        if calls:
            await asyncio.wait([asyncio.create_task(call.over()) for call in calls])

    async def _tick(self) -> None:
        """What the process looks after by itself: dead streams, calls that never came, its own lag."""
        due_s, turn = time.monotonic(), 0
        while True:
            due_s = max(due_s + TICK_S, time.monotonic())
            await asyncio.sleep(due_s - time.monotonic())
            now_s = time.monotonic()
            self.metrics.observe("event_loop_lag", max(0.0, now_s - due_s))
            self.telephone.tick(now_s)
            turn = (turn + 1) % STOCK_TICKS
            calls = list(self.calls.values())
            self.metrics.marks_outstanding.set(sum(call.marks_outstanding for call in calls))
            for call in calls:
                call.tell_frames()
            for call in calls[turn::STOCK_TICKS]:
                call.take_stock()

    # --- calls

    def _new_call(self, facts: CallFacts, agent: Agent, rang_s: float | None) -> Call:
        tools = self._toolboxes[agent.name].tools
        call = Call(
            facts,
            agent,
            tools=tools,
            sounds=self._sounds[agent.name],
            metrics=self.metrics,
            link_for=lambda call: self.models.link(
                CallBrief(
                    agent=agent,
                    clock=call.clock,
                    tools=tuple(tools.values()),
                    variables={
                        **facts.parameters,
                        "caller": facts.caller,
                        "dialled": facts.dialled,
                        "call_sid": facts.call_sid,
                    },
                    facts=call.remembered,
                ),
                call,
            ),
            prices=price_of(agent.model.name, self._prices),
            on_over=self._call_over,
            rang_s=rang_s,
            redactor=self._redactor,
        )
        if self._traces is not None:
            call.record.trace_id = new_trace_id()
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
        self.telephone.call_over(call)
        self.records[call_sid] = call.record
        while len(self.records) > MAX_RECORDS:
            self.records.popitem(last=False)
        log.info("call %s over: %s", call_sid, call.record.end_reason)
        if self._traces is not None:  # some milliseconds of work: not on the loop
            task = asyncio.create_task(asyncio.to_thread(self._traces.export, call.record))
            self._exports.add(task)
            task.add_done_callback(self._exports.discard)

    # --- calls we place, and steering calls

    async def _api(self, request: web.Request) -> dict[str, Any]:
        """The JSON body of who may place calls. Raises 4xx."""
        self._door.knock(request)
        token = self.settings.api_token  # who may look (the console's token) may not call
        if not token or not hmac.compare_digest(_bearer(request), token.encode()):
            self.metrics.auth_failures_total.inc("api")
            raise web.HTTPUnauthorized(
                text="calls cost money: set OFFHOOK_API_TOKEN and send it as a bearer token",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return await self._door.json(request) if request.method == "POST" else {}

    async def _place(self, request: web.Request) -> web.Response:
        body = await self._api(request)
        if unknown := body.keys() - {"to", "agent", "from", "variables"}:
            raise web.HTTPBadRequest(text=f"no such field: {min(unknown)[:60]}")
        if self.admission.draining:
            raise web.HTTPServiceUnavailable(text="this gateway is draining and places no more calls")
        texts = {name: body.get(name, "") for name in ("to", "agent", "from")}
        variables = body.get("variables", {})
        sound = all(isinstance(text, str) for text in texts.values()) and isinstance(variables, dict)
        if not sound or not all(isinstance(value, str) for value in variables.values()):
            raise web.HTTPBadRequest(text="to, agent, from and the values of variables must be texts")
        try:
            placed = self.telephone.call_out(texts["to"], texts["agent"], caller_id=texts["from"], variables=variables)
        except QueueFull as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from None
        except OperatorError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return _json(placed, status=202)

    async def _placed(self, request: web.Request) -> web.Response:
        await self._api(request)
        placed = self.telephone.outbound.find(request.match_info["id"])
        if placed is None:
            raise web.HTTPNotFound(text="no such call")
        return _json(placed)

    async def _steer(self, request: web.Request) -> web.Response:
        """`hang_up`, `hold` (music, say), `resume`, `transfer` (to, whisper, warm), `press` (digits)."""
        body = await self._api(request)
        texts = {name: body.get(name, "") for name in ("music", "say", "to", "whisper", "digits")}
        if not all(isinstance(text, str) for text in texts.values()):
            raise web.HTTPBadRequest(text="values must be texts")
        if texts["to"] and not can_be_called(texts["to"]):
            raise web.HTTPBadRequest(text="to: give a number as +15551234567, or a SIP address")
        if texts["music"] and not texts["music"].startswith(("https://", "http://")):
            raise web.HTTPBadRequest(text="music: give the URL of a sound file")
        call_id = request.match_info["id"]
        placed = self.telephone.outbound.find(call_id)
        call_sid = placed.call_sid if placed else call_id
        call = self.calls.get(call_sid)
        match request.match_info["action"]:
            case "hang_up" if placed is not None:
                done = await self.telephone.hang_up(placed)
            case "hang_up" if call is not None:
                call.stop(Ending.AGENT_HUNG_UP)
                done = True
            case "hold":
                done = await self.telephone.hold(call_sid, texts["music"], texts["say"])
            case "resume":
                done = await self.telephone.resume(call_sid)
            case "transfer" if call is not None and texts["to"]:
                call.transfer(texts["to"], "", whisper=texts["whisper"], warm=body.get("warm") is True)
                done = True
            case "press" if call is not None and texts["digits"]:
                done = call.send_digits(texts["digits"])
            case _:
                raise web.HTTPNotFound(text="no such call, or no such thing to do with it")
        return _json({"done": done}, status=200 if done else 409)

    # --- for operators

    async def _metrics(self, request: web.Request) -> web.Response:
        self._access.check(request, "metrics")
        # Exemplars are OpenMetrics', and without traces there are none.
        openmetrics = self._traces is not None and "application/openmetrics-text" in request.headers.get("Accept", "")
        body = await self.metrics.render_in_slices(openmetrics)
        return web.Response(body=body, headers={"Content-Type": OPENMETRICS_TYPE if openmetrics else CONTENT_TYPE})

    def _live(self) -> list[LiveCall]:
        return [LiveCall(call.phase.value, call.timeline.ms(call.clock()), call.record) for call in self.calls.values()]

    def _live_record(self, call_sid: str) -> CallRecord | None:
        call = self.calls.get(call_sid)
        return None if call is None else call.timeline.so_far(call.clock())

    async def _livez(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        if self.admission.draining:
            return web.Response(status=503, text="draining\n")
        if self.admission.calls >= self.settings.max_calls:
            return web.Response(status=503, text="at the limit of calls\n")
        return web.Response(text="ready\n")

    async def _token(self, request: web.Request) -> web.Response:
        """A token for one session straight from a browser to Gemini, locked to an agent's setup: `{"agent": NAME}`."""
        self._access.check(request)
        if not self.settings.browser_tokens:
            raise web.HTTPNotFound(text="browser tokens are off: set OFFHOOK_BROWSER_TOKENS=1\n")
        name = (await self._door.json(request)).get("agent", self.agents[0].name)
        agent = next((agent for agent in self.agents if agent.name == name), None)
        if agent is None:
            names = ", ".join(agent.name for agent in self.agents)
            raise web.HTTPBadRequest(text=f"no such agent: one of {names}\n")
        try:
            token = await self.models.token(agent, self._toolboxes[agent.name].tools.values(), {})
        except OperatorError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        except ModelRefused as error:
            log.warning("no token for a browser: %s", error)
            raise web.HTTPBadGateway(text="the Gemini API gave no token\n") from None
        answer = _json({"token": token, "model": agent.model.name})
        answer.headers["Cache-Control"] = "no-store"
        return answer


def _errors_as_json(handler: Callable[[web.Request], Awaitable[web.Response]]) -> Handler:
    """The same, with its refusals in the form of its answers: `{"error": ...}`."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPError as error:
            refusal = _json({"error": (error.text or error.reason).strip()}, status=error.status)
            if wanted := error.headers.get("WWW-Authenticate"):
                refusal.headers["WWW-Authenticate"] = wanted
            return refusal

    return answer


def _bearer(request: web.Request) -> bytes:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip().encode("utf-8", "surrogateescape") if scheme.lower() == "bearer" else b""


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", status=status)
