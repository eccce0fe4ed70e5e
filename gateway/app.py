"""The gateway process: builds all parts, starts, drains and stops them. The composition root: no handler of its own.

`/twilio/...` is the carrier's, see `carriers.twilio.webhooks`; the console and the API are those of `web`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

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
from offhook.gateway.carriers.softphone import Softphones
from offhook.gateway.carriers.twilio.webhooks import Twilio
from offhook.gateway.config import Settings
from offhook.gateway.control import Control
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.direct import DirectSessions
from offhook.gateway.elsewhere import Elsewhere
from offhook.gateway.errors import OperatorError
from offhook.gateway.keeping import Keeping
from offhook.gateway.labels import LABELS
from offhook.gateway.live import FETCHED_S, QUIET_S, LiveStore, Node
from offhook.gateway.live.fleet import Fleet
from offhook.gateway.live.node import live_store_for, node_name
from offhook.gateway.models import AudioFormats, CallBrief, Model
from offhook.gateway.models.gemini.client import GeminiModel
from offhook.gateway.models.pricing import check_limit, load_prices, price_of
from offhook.gateway.observe.redact import Redactor, secrets_of
from offhook.gateway.observe.tracing import new_trace_id, traces_for
from offhook.gateway.providers import PROVIDERS, model_for, provider_of, with_provider
from offhook.gateway.store.record import CallRecord
from offhook.gateway.telephony.admission import Admission
from offhook.gateway.telephony.bounds import Bounds
from offhook.gateway.telephony.outbound import OutboundCall
from offhook.gateway.telephony.switchboard import Switchboard
from offhook.gateway.telephony.tokens import StreamTokens
from offhook.gateway.telephony.transfer import BRIEFING_TOOLS, briefing_agent
from offhook.gateway.ticker import TICK_S, Ticker
from offhook.gateway.tools.build import Toolbox, board_of, build_tools
from offhook.gateway.tools.http.client import HttpClient
from offhook.gateway.web.access import Access, Lock, programs_only
from offhook.gateway.web.api import Api
from offhook.gateway.web.connections import Connections, Route, became_call, hide_server, spare_connections
from offhook.gateway.web.console import Boards, Console, ListenIn, LiveCall, OperatorActions
from offhook.gateway.web.history import History
from offhook.gateway.web.limits import Limits
from offhook.gateway.web.listener import served
from offhook.gateway.web.openapi import document
from offhook.gateway.workers.worker import Worker
from offhook.metrics.catalogue import Metrics

__all__ = ["Gateway"]

log = logging.getLogger(__name__)

END_CALLS_S = 3.0  # at the process's end: then what is left of a call is given up


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
        self._detection = Detection()
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
        others = Elsewhere(self.fleet, self.switchboard.moves, self.node, self._operator_token, worker)
        elsewhere = others.of_operator if self.fleet.shared else None
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
        control = Control(self.calls, self.switchboard, self.admission, settings.listeners)
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
            peers=others.consoles if self.fleet.shared else None,
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
            elsewhere=others.of_api if self.fleet.shared else None,
            whole=others.whole_metrics if worker is not None else None,
        )
        self._ticker = Ticker(
            self.calls, self.switchboard, self._direct, worker, self.metrics, clock, call_over=self._call_over
        )
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
            ticker = asyncio.create_task(self._ticker.run(), name="ticker")
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

    def _on_stray_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Of a task or callback without an owner. The network's are no fault of ours."""
        error = context.get("exception")
        if error is not None and not isinstance(error, OSError):
            self.metrics.task_failures_total.inc("other")
        loop.default_exception_handler(context)

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

    # --- for the fleet, the console and the API

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
