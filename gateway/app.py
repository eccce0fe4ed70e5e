"""The gateway process: builds all parts, starts, drains and stops them. The composition root: no handler of its own.

`/twilio/...` is the carrier's, see `carriers.twilio.webhooks`; the console and the API are those of `web`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry

from offhook.gateway import __version__
from offhook.gateway.agent.policy import detector_of
from offhook.gateway.agent.sounds import load_sounds
from offhook.gateway.agent.spec import Agent
from offhook.gateway.call.call import Call
from offhook.gateway.call.detection import Detection
from offhook.gateway.call.facts import CallFacts
from offhook.gateway.call.head import Taken
from offhook.gateway.call.tap import Listening
from offhook.gateway.call.teardown import ENDING_MAX_S
from offhook.gateway.carriers.softphone import Softphones
from offhook.gateway.carriers.twilio.webhooks import Twilio
from offhook.gateway.config import Settings
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.direct import DirectSessions
from offhook.gateway.errors import OperatorError
from offhook.gateway.keeping import Keeping
from offhook.gateway.labels import LABELS
from offhook.gateway.live import FETCHED_S, QUIET_S, CallStage, LiveStore, Node
from offhook.gateway.live.fleet import Fleet
from offhook.gateway.live.node import live_store_for, node_name
from offhook.gateway.live.peers import HOP, WHO, Passed
from offhook.gateway.models import AudioFormats, CallBrief, Model
from offhook.gateway.models.gemini.client import GeminiModel
from offhook.gateway.models.pricing import check_limit, load_prices, price_of
from offhook.gateway.observe.redact import Redactor, secrets_of
from offhook.gateway.observe.tracing import new_trace_id, traces_for
from offhook.gateway.providers import PROVIDERS, model_for, provider_of, with_provider
from offhook.gateway.store.record import CallRecord
from offhook.gateway.telephony.admission import Admission
from offhook.gateway.telephony.bounds import Bounds
from offhook.gateway.telephony.outbound import OutboundCall, QueueFull, to_be_called
from offhook.gateway.telephony.switchboard import CostReached, Switchboard
from offhook.gateway.telephony.tokens import StreamTokens
from offhook.gateway.telephony.transfer import BRIEFING_TOOLS, briefing_agent
from offhook.gateway.tools.build import Toolbox, board_of, build_tools
from offhook.gateway.tools.function import THREADS
from offhook.gateway.tools.http.client import HttpClient
from offhook.gateway.web.access import Access, Lock, programs_only, who_of
from offhook.gateway.web.api import Api, Unavailable
from offhook.gateway.web.connections import Connections, Route, became_call, hide_server, spare_connections
from offhook.gateway.web.console import Boards, Console, ListenIn, LiveCall, OperatorActions
from offhook.gateway.web.history import History
from offhook.gateway.web.limits import Limits
from offhook.gateway.web.listener import served
from offhook.gateway.web.openapi import document
from offhook.gateway.workers.whole import joined
from offhook.gateway.workers.worker import Worker
from offhook.metrics.catalogue import Metrics

__all__ = ["Gateway"]

log = logging.getLogger(__name__)

TICK_S = 0.25
CONSOLE_S = 0.3  # what the console waits for a peer; one that is later is not shown this time
CONTROL_S = 2.0  # what a request of the API waits for the process that has the call
MOVING = b'{"error": "the call is moving to another process: try again"}'
END_CALLS_S = 3.0  # at the process's end: then what is left of a call is given up
STOCK_TICKS = 20  # each call's link counters are published once in this many ticks: 5 s


class Gateway:
    """All calls of one process. `async with gateway.listening() as url` serves until the block is left.

    With a public URL there are two listeners: the public one, and the admin listener for console, metrics and health.
    The public one serves console and metrics only with a console token that is configured.

    `environ`: the environment of tools, model and traces; only OpenTelemetry's exporter reads the process's own.
    `clock`: monotonic seconds, handed to every part; not the event loop's, which under uvloop is a millisecond coarse
    and stands still within an iteration. `wall`: seconds of the wall clock, which other processes share. `live`: the
    live store instead of the one that the settings name. `worker`: this process's part among others that share its
    listeners and its limit of calls. Raises `OperatorError`.
    """

    def __init__(
        self,
        settings: Settings,
        agents: Sequence[Agent],
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
        *,
        wall: Callable[[], float] = time.time,
        live: LiveStore | None = None,
        worker: Worker | None = None,
    ) -> None:
        if not agents:
            raise OperatorError("no agent: name an agent file with --agent or OFFHOOK_AGENT")
        if not settings.insecure and not (settings.twilio_auth_tokens and settings.public_url):
            raise OperatorError(
                "Twilio's requests cannot be verified: set TWILIO_AUTH_TOKEN and OFFHOOK_PUBLIC_URL "
                "(or OFFHOOK_INSECURE=1 on a loopback address, for trials)"
            )
        self.settings, self._clock, self._worker = settings, clock, worker
        agents = [with_provider(agent, settings.provider) for agent in agents]
        self.agents = tuple(agents)
        self._redactor = Redactor(secrets_of(environ, (msgspec.to_builtins(agent.tools) for agent in agents)))
        self._http = HttpClient(clock=clock)
        self._toolboxes = {agent.name: build_tools(agent, environ, self._http) for agent in agents}
        self._sounds = {agent.name: load_sounds(agent) for agent in agents}
        for agent in agents:
            detector_of(agent)  # an optional package is missing: fail now, not at the first call
        names = sorted({name for toolbox in self._toolboxes.values() for name in toolbox.tools})
        self.metrics = Metrics(
            CollectorRegistry(), LABELS, tools=names, providers=PROVIDERS, version=__version__, clock=clock
        )
        self.metrics.call_capacity.set(settings.max_calls if worker is None else worker.share(settings.max_calls))
        if worker is not None:
            self.metrics.worker_starts.set(worker.page.starts(worker.slot))
        for agent in agents:  # warm transfers: the agent that briefs the target
            briefing = briefing_agent(agent)
            self._toolboxes[briefing.name], self._sounds[briefing.name] = Toolbox(BRIEFING_TOOLS), {}
        self.node, self._boot, self._wall = node_name(settings.replica), secrets.token_hex(4), wall
        self.address = settings.node_url  # where peers reach this process; without the setting: once it listens
        self.fleet = Fleet(
            self.node,
            live or live_store_for(settings.live, clock=clock, wall=wall),
            self.metrics,
            here=self._here,
            caps={"cap:fleet": settings.fleet_max_calls} if settings.fleet_max_calls else {},
        )
        self.fleet.on_beat = lambda: self.switchboard.moves.look_after_dead_nodes()
        tokens = StreamTokens(settings.fleet_key, self.node, wall=lambda now_s: wall() + now_s - clock())
        self.calls: dict[str, Call] = {}
        self.admission = Admission(
            self.agents,
            settings.max_calls,
            tokens=tokens,
            total=self._total,
            bounds=Bounds(
                settings.caller_calls, settings.caller_calls_per_h, settings.refused_callers, settings.cost_per_day
            ),
            live_costs=lambda: ((call.agent.name, _cost_of(call)) for call in self.calls.values()),
        )
        self._limits = Limits(self.metrics, clock)
        self.models = {provider: model_for(provider, environ) for provider in {provider_of(a): None for a in agents}}
        published = {name: row for model in self.models.values() for name, row in model.prices.items()}
        self._prices = load_prices(settings.prices, published)
        for agent in agents:
            check_limit(agent, self._model_of(agent).name_of(agent), self._prices, settings.cost_per_day)
        self._keeping = Keeping(settings, agents, self.metrics, time.time)
        self.records = self._keeping.records
        self._detection = Detection(rest=time.sleep if clock is time.monotonic else None)
        self.switchboard = Switchboard(
            settings,
            self.admission,
            self.metrics,
            {agent.name: agent for agent in self.agents},
            self.calls,
            self._new_call,
            clock=clock,
            fleet=self.fleet,
            wall=wall,
        )
        self._carriers = [Twilio(settings, self.metrics, self._limits, self.switchboard, clock=clock)]
        self._traces = traces_for(environ)
        self._exports: set[asyncio.Task[None]] = set()
        made = "" if settings.console_token or not settings.public_url else secrets.token_urlsafe(32)
        if worker is not None:
            made = worker.token if made else ""
        self._operator_token = settings.console_token or made
        self._sign_in = f"/console/sign-in?token={made}" if made else "/console"
        self.local_url = ""  # of the main listener; of a worker, of its own
        self.console_link = ""  # the console's URL, once it is served; signs a browser in when no token is configured
        self._access = Access(
            self._operator_token,
            self._limits,
            self.metrics,
            clock,
            insecure=settings.insecure and not settings.public_url,
            link=bool(made),
            read_token=settings.console_read_token,
            public_url=settings.public_url,
        )
        elsewhere = self._operator_elsewhere if self.fleet.shared else None
        peer = partial(self.fleet.peers.socket, headers={"Authorization": f"Bearer {self._operator_token}"})
        self._softphones = Softphones(
            settings,
            self._access,
            self.metrics,
            self._limits,
            self.switchboard,
            {agent.name: agent for agent in self.agents},
            clock=clock,
            elsewhere=elsewhere,
            peer=peer,
        )
        self._direct = self._direct_sessions()
        history = History(self._keeping.store, self.records, _scenario_of, time.time, self._keeping.recordings)
        control = _Control(self.calls, self.switchboard, self.admission, settings.listeners)
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
                "talk": bool(settings.softphone_calls),
                "direct": [agent.name for agent in agents if self._direct.routes() and self._direct.offers(agent.name)],
                "places": bool(settings.public_url and settings.twilio_account_sid),
                "simulated": settings.simulated,
            },
            history=history,
            peers=self._console_of_peers if self.fleet.shared else None,
            may_listen=lambda sid: control.may_listen(sid) == "",
            boards=Boards({agent.name: board for agent in agents if (board := board_of(agent))}),
        )
        self._actions = OperatorActions(self._access, self._limits, control, elsewhere)
        self._listen_in = ListenIn(
            self._access,
            self._limits,
            self.metrics,
            most=settings.listeners,
            node=self.node,
            listen=control.listen,
            may_listen=control.may_listen,
            elsewhere=elsewhere,
            peer=peer,
            clock=clock,
        )
        self._api = Api(
            self._limits,
            self._access,
            self.metrics,
            control,
            lock=Lock(settings.api_token, "API token", self._limits, self.metrics, clock),
            not_ready=self._not_ready,
            token_for=self._browser_token if settings.browser_tokens else None,
            exemplars=self._traces is not None,
            history=history,
            document=document(__version__, [agent.name for agent in agents], OutboundCall),
            elsewhere=self._elsewhere if self.fleet.shared else None,
            whole=self._whole_metrics if worker is not None else None,
        )
        self._logged: set[tuple[str, str]] = set()  # kinds of failures of the periodic work
        self._idle = asyncio.Event()  # no calls
        self._idle.set()

    # --- serving

    def app(self, connections: Connections) -> web.Application:
        """What the main listener serves: the carriers and the API."""
        app = _application(connections)
        if self.settings.insecure:
            app.middlewares.append(programs_only(self.metrics))
        for carrier in self._carriers:
            app.add_routes(carrier.routes())
        app.add_routes(self._api.routes())
        app.add_routes(self._api.health_routes())
        if self.settings.console_token or not self.settings.public_url:
            self._add_console(app)
        return app

    def admin_app(self, connections: Connections) -> web.Application:
        """What the admin listener serves."""
        app = _application(connections)
        app.add_routes(self._api.health_routes())
        self._add_console(app)
        return app

    def peer_app(self, connections: Connections) -> web.Application:
        """What a worker serves for the others alone."""
        app = self.app(connections)
        if self.settings.public_url and not self.settings.console_token:
            self._add_console(app)
        return app

    def _add_console(self, app: web.Application) -> None:
        app.add_routes(self._access.routes())
        app.add_routes(self._api.operator_routes())
        app.add_routes(self.console.routes())
        app.add_routes(self._actions.routes())
        app.add_routes(self._listen_in.routes())
        app.add_routes(self._softphones.routes())
        app.add_routes(self._direct.routes())

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve on the configured hosts and ports (0: any free one); gives the local URL of the main listener.

        Leaving the block ends every call that is still active.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._keeping.running())
            for model in self.models.values():
                stack.push_async_callback(model.close)
            await self.fleet.open()
            stack.push_async_callback(self.fleet.close)
            self.console_link = await self._listen_on_all(stack) + self._sign_in
            await asyncio.gather(self._http.start(), *(toolbox.start() for toolbox in self._toolboxes.values()))
            for agent in self.agents:  # here the tools of MCP servers are known too
                for problem in self._model_of(agent).check(agent, self._toolboxes[agent.name].tools.values()):
                    log.warning("%s: %s", agent.file or f"agent {agent.name}", problem)
            await self.switchboard.open([*self._carriers, self._softphones])
            await asyncio.gather(*(model.warm_up() for model in self.models.values()))
            await self.fleet.join()
            if self._worker is not None:
                self._worker.beat()
            ticker = asyncio.create_task(self._tick(), name="ticker")
            loop = asyncio.get_running_loop()
            before = loop.get_exception_handler()
            loop.set_exception_handler(self._on_stray_exception)
            try:
                yield self.local_url
            finally:
                if self._worker is not None:
                    self._worker.routing.close()
                await self._end_all()
                await self._direct.close()
                await self.switchboard.close()
                await self.console.close()
                while self._exports:  # a record that is kept may begin another
                    await asyncio.gather(*self._exports, return_exceptions=True)
                if self._traces is not None:
                    await asyncio.to_thread(self._traces.close)
                await asyncio.gather(self._http.close(), *(toolbox.close() for toolbox in self._toolboxes.values()))
                ticker.cancel()
                await asyncio.gather(ticker, return_exceptions=True)
                loop.set_exception_handler(before)

    async def _listen_on_all(self, stack: AsyncExitStack) -> str:
        """The main listener and, with a public URL, the admin one; of a worker, its own for peers, too.

        Returns the local URL of the one that serves the console.
        """
        settings, worker = self.settings, self._worker
        shared, admin, route = None, None, None
        if worker is not None:
            shared, admin, route = worker.listener, worker.admin, worker.routing
        connections = self._connections(route)
        url = admin_url = await stack.enter_async_context(
            served(
                self.app(connections),
                connections,
                settings.host,
                settings.port,
                "OFFHOOK_PORT or OFFHOOK_HOST",
                shared=shared,
                on_received=lambda receive: None if worker is None else worker.takes(receive),
            )
        )
        if settings.public_url:
            connections = self._connections()
            admin_url = await stack.enter_async_context(
                served(
                    self.admin_app(connections),
                    connections,
                    settings.admin_host,
                    settings.admin_port,
                    "OFFHOOK_ADMIN_PORT or OFFHOOK_ADMIN_HOST",
                    shared=admin,
                )
            )
        self.local_url = url
        if worker is not None:
            connections = self._connections()
            host, port = worker.peer_address(settings.node_url, settings.host)
            self.local_url = url = await stack.enter_async_context(
                served(self.peer_app(connections), connections, host, port, "OFFHOOK_NODE_URL")
            )
        self.address = self.address or url
        return admin_url

    def _connections(self, route: Route | None = None) -> Connections:
        """Of one listener."""
        most = self.settings.max_calls
        spare = spare_connections(most)
        return Connections(self._limits, self.metrics, max_calls=most, spare=spare, clock=self._clock, route=route)

    async def drain(self) -> None:
        """Accept no new calls; return once the active ones have ended, or after `drain_s`."""
        self.admission.draining = True
        self.metrics.draining.set(1)
        log.info("draining: %d active calls", len(self.calls))
        began_s = self._clock()
        try:
            async with asyncio.timeout(self.settings.drain_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("drain limit reached with %d active calls", len(self.calls))
            if self.fleet.others():
                await self._hand_over_all()
        else:  # no metric: the process ends before the next scrape
            log.info("drained in %.1f s", self._clock() - began_s)

    async def _hand_over_all(self) -> None:
        """Other processes go on with the calls: each in a quiet moment. Returns once they have them, or in a while."""
        calls, began_s = list(self.calls.values()), self._clock()
        handed = await asyncio.gather(*(self.switchboard.moves.hand_over(call, QUIET_S) for call in calls))
        log.info("handed over %d of %d calls in %.1f s", sum(handed), len(calls), self._clock() - began_s)
        left = [call.facts.call_sid for call, over in zip(calls, handed, strict=True) if over]
        for _ in range(round(FETCHED_S / TICK_S)):  # their carrier's requests are passed on until then
            holders = [await self.fleet.holder(call_sid) for call_sid in left]
            if all(held is None or held.owner != self.node for held in holders):
                break
            await asyncio.sleep(TICK_S)

    async def _end_all(self) -> None:
        self.admission.draining = True
        calls = list(self.calls.values())
        for call in calls:
            call.stop(Ending.SERVER_STOPPED)
        if calls:
            _, left = await asyncio.wait([asyncio.create_task(call.over()) for call in calls], timeout=END_CALLS_S)
            for task in left:
                task.cancel()
        for call in list(self.calls.values()):
            call.give_up()

    async def _tick(self) -> None:
        """Periodic work: dead streams, calls that never came or do not end, event loop lag, counters."""
        due_s, turn = self._clock(), 0
        while True:
            due_s = max(due_s + TICK_S, self._clock())
            await asyncio.sleep(due_s - self._clock())
            now_s = self._clock()
            turn = (turn + 1) % STOCK_TICKS
            if self._worker is not None:
                self._worker.beat()
            for work in (partial(self._measure, now_s - due_s, turn), partial(self._give_up_calls, now_s)):
                self._safely("ticker", work)
            self._safely("switchboard", partial(self.switchboard.tick, now_s))
            self._safely("ticker", partial(self._direct.tick, now_s))

    def _measure(self, late_s: float, turn: int) -> None:
        self.metrics.observe("event_loop_lag", max(0.0, late_s))
        self.metrics.tool_threads_abandoned.set(THREADS.abandoned)
        calls = list(self.calls.values())
        lines = [call.line for call in calls if call.line is not None]
        self.metrics.marks_outstanding.set(sum(line.marks_outstanding for line in lines))
        for call in calls:
            call.hearing.flush_frame_count()
        for call in calls[turn::STOCK_TICKS]:
            call.publish_counters()

    def _give_up_calls(self, now_s: float) -> None:
        """A call that has ended and is not gone holds a place for ever: its record is kept, and the place free."""
        for call in list(self.calls.values()):
            if call.ended_s is not None and now_s - call.ended_s > ENDING_MAX_S:
                call.give_up()
                if call.facts.call_sid in self.calls:  # it was reported, and taking it out failed
                    self._call_over(call)

    def _on_stray_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Of a task or callback without an owner. The network's are no fault of ours."""
        error = context.get("exception")
        if error is not None and not isinstance(error, OSError):
            self.metrics.task_failures_total.inc("other")
        loop.default_exception_handler(context)

    def _safely(self, part: str, work: Callable[[], object]) -> None:
        """Do this; an exception in it is logged and counted, and what comes after it goes on."""
        try:
            work()
        except Exception as error:
            if (kind := (part, type(error).__name__)) not in self._logged:  # several times a second, as a rule
                self._logged.add(kind)
                log.error("%s failed; further exceptions of this kind are only counted", part, exc_info=error)
            self.metrics.task_failures_total.inc(part)

    # --- calls

    def _model_of(self, agent: Agent) -> Model:
        return self.models[provider_of(agent)]

    def _model_name(self, agent: Agent) -> str:
        """As records have it: provider/name."""
        return f"{provider_of(agent)}/{self._model_of(agent).name_of(agent)}"

    def _new_call(self, facts: CallFacts, agent: Agent, rang_s: float | None, taken: Taken | None = None) -> Call:
        tools, model = self._toolboxes[agent.name].tools, self._model_of(agent)
        call = Call(
            facts,
            agent,
            tools=tools,
            sounds=self._sounds[agent.name],
            metrics=self.metrics,
            clock=self._clock,
            detection=self._detection,
            link_for=lambda call: model.link(
                CallBrief(
                    agent=agent,
                    clock=self._clock,
                    tools=tuple(tools.values()),
                    variables={
                        **facts.parameters,
                        "caller": facts.caller,
                        "dialled": facts.dialled,
                        "call_sid": facts.call_sid,
                    },
                    facts=call.remembered,
                    formats=AudioFormats(caller=facts.formats.gives, agent=facts.formats.takes),
                    memory=None if taken is None else taken.head.memory,
                ),
                call,
            ),
            prices=price_of(model.name_of(agent), self._prices),
            on_over=self._call_over,
            rang_s=rang_s,
            redactor=self._redactor,
            recordings=self._keeping.recordings,
            taken=taken,
        )
        call.record.model = self._model_name(agent)
        if self._traces is not None and not call.record.trace_id:
            call.record.trace_id = new_trace_id()
        call.timeline.on_tool = partial(self._keeping.tool_finished, call.record, agent.redact)
        if taken is None:
            self.metrics.model_calls_total.inc(provider_of(agent))
            self._keeping.started(call.record)
        self.calls[facts.call_sid] = call
        self._idle.clear()
        self.metrics.calls_active.set(len(self.calls))
        if taken is None:
            call.start()
        return call

    def _call_over(self, call: Call) -> None:
        call_sid = call.facts.call_sid
        self.calls.pop(call_sid, None)
        if not self.calls:
            self._idle.set()
        self.metrics.calls_active.set(len(self.calls))
        if call.ending is Ending.MOVED:
            log.info("call %s goes on in another process", call_sid)
            self._keeping.moved(call.record)
            return
        self.admission.end(call_sid)
        self.admission.charge(call.agent, _cost_of(call), self._clock())
        try:
            self.switchboard.call_over(call)
        except Exception as error:
            call.task_failed("switchboard", error)
        if not self.fleet.shared:
            self._keep_record(call)
            return
        task = asyncio.create_task(self._keep_own_record(call), name=f"record of call {call_sid}")
        self._exports.add(task)
        task.add_done_callback(self._exports.discard)

    async def _keep_own_record(self, call: Call) -> None:
        """Keep the record unless another process has the call: then that one does."""
        epoch = self.fleet.checkpoints.epoch(call.facts.call_sid) or 1
        if await self.fleet.end(call.facts.call_sid):
            self._keep_record(call, epoch)
        else:
            log.warning("call %s: another process has it, and its record", call.facts.call_sid)

    def _keep_record(self, call: Call, epoch: int = 1) -> None:
        call_sid = call.facts.call_sid
        self._keeping.ended(call.record, call.agent.redact, epoch)
        log.info("call %s ended: %s", call_sid, call.record.end_reason)
        if self._traces is not None:  # some milliseconds of work: not on the loop
            task = asyncio.create_task(asyncio.to_thread(self._traces.export, call.record))
            self._exports.add(task)
            task.add_done_callback(self._exports.discard)

    # --- for peers, the console and the API

    async def _elsewhere(self, request: web.Request, body: bytes) -> Passed | None:
        """The answer of the process that has this call, to a request of the API; None: no process has it."""
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        return await self._pass_on(request, request.match_info["id"], headers, body)

    async def _operator_elsewhere(self, request: web.Request, body: Mapping[str, str]) -> Passed | None:
        """The same for what an operator does on the console."""
        headers = {
            "Authorization": f"Bearer {self._operator_token}",
            "Content-Type": "application/json",
            WHO: quote(who_of(request)),
        }
        return await self._pass_on(request, request.match_info["sid"], headers, msgspec.json.encode(body))

    async def _pass_on(
        self, request: web.Request, call_id: str, headers: Mapping[str, str], body: bytes
    ) -> Passed | None:
        if HOP in request.headers:
            return None
        held, peers = await self.fleet.holder(call_id), self.fleet.peers
        if held is not None and held.stage is CallStage.ENDED:
            return None
        ask = partial(peers.request, headers=headers, body=body, timeout_s=CONTROL_S)
        if held is not None and held.owner != self.node:
            answer = await ask(held.owner, request.method, request.raw_path)
            if answer is None and request.path.endswith("/hang_up"):
                done = await self.switchboard.moves.hang_up_of_dead(request.match_info["id"], held.owner)
                answer = Passed(200, b'{"done": true}', "application/json") if done else None
            return answer or Passed(409, MOVING, "application/json")
        for name in list(peers.nodes) if held is None else ():  # an outbound call's own id
            answer = await ask(name, request.method, request.raw_path)
            if answer is not None and answer.status != 404:
                return answer
        return None

    async def _whole_metrics(self, own: bytes, accept: str) -> bytes:
        """The workers' metrics as one page. A worker that does not answer is left out, as a dead process is."""
        worker = self._worker
        assert worker is not None
        answers = await self._of_peers("/metrics", worker.siblings, CONTROL_S, accept)
        pages = {worker.slot: own} | {worker.siblings[name]: answer for name, answer in answers.items()}
        return await joined((str(slot), pages[slot]) for slot in sorted(pages))

    async def _console_of_peers(self, path_qs: str) -> list[bytes]:
        return list((await self._of_peers(path_qs, list(self.fleet.peers.nodes), CONSOLE_S)).values())

    async def _of_peers(
        self, path_qs: str, names: Iterable[str], timeout_s: float, accept: str = "*/*"
    ) -> dict[str, bytes]:
        """What these processes answer to an operator's request, those that do, by name."""
        names, peers = list(names), self.fleet.peers
        headers = {"Authorization": f"Bearer {self._operator_token}", "Accept": accept}
        asked = (peers.request(name, "GET", path_qs, headers=headers, timeout_s=timeout_s) for name in names)
        answers = zip(names, await asyncio.gather(*asked), strict=True)
        return {name: answer.body for name, answer in answers if answer is not None and answer.status == 200}

    def _here(self) -> Node:
        return Node(
            name=self.node,
            address=self.address,
            boot=self._boot,
            version=__version__,
            capacity=self.settings.max_calls,
            calls=self.admission.calls,
            draining=self.admission.draining,
        )

    def _total(self, calls: int) -> int:
        """The calls of all processes that share the limit, when this one has so many."""
        if self._worker is None:
            return calls
        total = self._worker.total(calls)
        became_call()
        return total

    def _live(self) -> list[LiveCall]:
        return [LiveCall(call.phase.value, call.timeline.ms(call.clock()), call.record) for call in self.calls.values()]

    def _live_record(self, call_sid: str) -> CallRecord | None:
        call = self.calls.get(call_sid)
        return None if call is None else call.timeline.so_far(call.clock(), call.hearing.audio_in_ms)

    def _not_ready(self) -> str:
        if self.admission.draining:
            return "draining"
        return "" if self.admission.free else "at the limit of calls"

    def _direct_sessions(self) -> DirectSessions:
        """For the agents whose model gives browser tokens."""
        settings, model = self.settings, self.models.get("gemini")
        gemini = model if isinstance(model, GeminiModel) and settings.browser_tokens else None
        offered = {agent.name: agent for agent in self.agents if self._model_of(agent) is gemini}
        return DirectSessions(
            gemini,
            offered,
            lambda name: self._toolboxes[name].tools,
            self._model_name,
            self._access,
            self._limits,
            self.metrics,
            self._keeping,
            self._redactor,
            most=settings.softphone_calls,
            simulated=settings.simulated,
            effects=frozenset(settings.simulated_effects),
            draining=lambda: self.admission.draining,
            clock=self._clock,
        )

    async def _browser_token(self, name: str) -> tuple[str, str]:
        agent = next((agent for agent in self.agents if agent.name == (name or self.agents[0].name)), None)
        if agent is None:
            raise OperatorError(f"no such agent: one of {', '.join(agent.name for agent in self.agents)}")
        model = self._model_of(agent)
        if not isinstance(model, GeminiModel):
            raise OperatorError("browser tokens are for Gemini only: unset OFFHOOK_BROWSER_TOKENS")
        if agent.limits.cost or agent.limits.cost_per_day or self.settings.cost_per_day:
            raise OperatorError(
                "a cost limit cannot be kept where a browser talks to the model itself: use an agent without one"
            )
        token = await model.token(agent, self._toolboxes[agent.name].tools.values(), {})
        return token, model.name_of(agent)


def _scenario_of(record: CallRecord) -> str:
    try:
        from offhook.gateway.rehearsal.scenario.from_call import scenario_text
    except ModuleNotFoundError as error:
        raise OperatorError(f"rehearsals need {error.name}: pip install 'offhook[rehearsal]'") from None
    return scenario_text(record, "recorded")


def _cost_of(call: Call) -> float:
    """USD so far, as far as prices are known."""
    return call.record.usage.get("cost_usd", 0.0)


def _application(connections: Connections) -> web.Application:
    app = web.Application(middlewares=[connections.middleware()])
    app.on_response_prepare.append(hide_server)
    return app


class _Control:
    """`CallControl` over the process's calls. `listeners`: operators who may listen in on them at once."""

    def __init__(
        self, calls: Mapping[str, Call], switchboard: Switchboard, admission: Admission, listeners: int
    ) -> None:
        self._calls, self._switchboard, self._admission = calls, switchboard, admission
        self._listeners = listeners

    def call_out(
        self, to: str, agent: str, *, caller_id: str, variables: dict[str, str], placed_by: str = ""
    ) -> OutboundCall:
        if self._admission.draining:
            raise Unavailable("this gateway is draining and places no more calls")
        try:
            return self._switchboard.call_out(to, agent, caller_id=caller_id, variables=variables, placed_by=placed_by)
        except (QueueFull, CostReached) as error:
            raise Unavailable(str(error)) from None

    def outbound(self, call_id: str) -> OutboundCall | None:
        return self._switchboard.outbound.find(call_id)

    async def hang_up(self, call_id: str) -> bool | None:
        if outbound := self.outbound(call_id):
            return await self._switchboard.hang_up(outbound)
        if call := self._calls.get(call_id):
            call.stop(Ending.AGENT_HUNG_UP)
            return True
        return None

    async def hold(self, call_id: str, music_url: str, line: str) -> bool | None:
        if self._is_elsewhere(call_id):
            return None
        return await self._switchboard.hold(self._sid(call_id), music_url, line)

    async def resume(self, call_id: str) -> bool | None:
        if self._is_elsewhere(call_id):
            return None
        return await self._switchboard.resume(self._sid(call_id))

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
        outbound = self.outbound(call_id)
        return outbound.call_sid if outbound else call_id
