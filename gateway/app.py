"""The gateway process: builds all parts, starts, drains and stops them. The composition root: no handler of its own.

`/twilio/...` is the carrier's, see `carriers.twilio.webhooks`; the console and the API are those of `web`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
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
from offhook.gateway.call.facts import CallFacts
from offhook.gateway.call.hearing import Detection
from offhook.gateway.call.teardown import ENDING_MAX_S
from offhook.gateway.carriers.softphone import Softphones
from offhook.gateway.carriers.twilio.webhooks import Twilio
from offhook.gateway.config import Settings
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.errors import OperatorError
from offhook.gateway.keeping import Keeping
from offhook.gateway.labels import LABELS
from offhook.gateway.models import AudioFormats, CallBrief, Model
from offhook.gateway.models.gemini.client import GeminiModel, GeminiSettings
from offhook.gateway.models.pricing import check_limit, load_prices, price_of
from offhook.gateway.observe.redact import Redactor, secrets_of
from offhook.gateway.observe.tracing import new_trace_id, traces_for
from offhook.gateway.store.record import CallRecord
from offhook.gateway.telephony.admission import Admission
from offhook.gateway.telephony.bounds import Bounds
from offhook.gateway.telephony.outbound import OutboundCall, QueueFull, to_be_called
from offhook.gateway.telephony.switchboard import CostReached, Switchboard
from offhook.gateway.telephony.transfer import BRIEFING_TOOLS, briefing_agent
from offhook.gateway.tools.build import Toolbox, board_of, build_tools
from offhook.gateway.tools.function import THREADS
from offhook.gateway.tools.http.client import HttpClient
from offhook.gateway.web.access import Access, Lock, programs_only
from offhook.gateway.web.api import Api, Unavailable
from offhook.gateway.web.connections import Connections, hide_server, spare_connections
from offhook.gateway.web.console import Boards, Console, LiveCall, OperatorActions
from offhook.gateway.web.history import History
from offhook.gateway.web.limits import Limits
from offhook.gateway.web.openapi import document
from offhook.metrics.catalogue import Metrics

__all__ = ["Gateway", "model_for"]

log = logging.getLogger(__name__)

TICK_S = 0.25
END_CALLS_S = 3.0  # at the process's end: then what is left of a call is given up
STOCK_TICKS = 20  # each call's link counters are published once in this many ticks: 5 s


def model_for(environ: Mapping[str, str]) -> Model:
    """The process's model, by the environment: a second provider is an `if` here. Raises `OperatorError`."""
    return GeminiModel(GeminiSettings.read(environ))


class Gateway:
    """All calls of one process. `async with gateway.listening() as url` serves until the block is left.

    With a public URL there are two listeners: the public one, and the admin listener for console, metrics and health.
    The public one serves console and metrics only with a console token that is configured.

    `environ`: the environment of tools, model and traces; only OpenTelemetry's exporter reads the process's own.
    `clock`: monotonic seconds, handed to every part; not the event loop's, which under uvloop is a millisecond coarse
    and stands still within an iteration. Raises `OperatorError`.
    """

    def __init__(
        self,
        settings: Settings,
        agents: Sequence[Agent],
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not agents:
            raise OperatorError("no agent: name an agent file with --agent or OFFHOOK_AGENT")
        if not settings.insecure and not (settings.twilio_auth_tokens and settings.public_url):
            raise OperatorError(
                "Twilio's requests cannot be verified: set TWILIO_AUTH_TOKEN and OFFHOOK_PUBLIC_URL "
                "(or OFFHOOK_INSECURE=1 on a loopback address, for trials)"
            )
        self.settings, self._clock = settings, clock
        self.agents = tuple(agents)
        self._redactor = Redactor(secrets_of(environ, (msgspec.to_builtins(agent.tools) for agent in agents)))
        self._http = HttpClient(clock=clock)
        self._toolboxes = {agent.name: build_tools(agent, environ, self._http) for agent in agents}
        self._sounds = {agent.name: load_sounds(agent) for agent in agents}
        for agent in agents:
            detector_of(agent)  # an optional package is missing: fail now, not at the first call
        names = sorted({name for toolbox in self._toolboxes.values() for name in toolbox.tools})
        self.metrics = Metrics(CollectorRegistry(), LABELS, tools=names, version=__version__, clock=clock)
        self.metrics.call_capacity.set(settings.max_calls)
        for agent in agents:  # warm transfers: the agent that briefs the target
            briefing = briefing_agent(agent)
            self._toolboxes[briefing.name], self._sounds[briefing.name] = Toolbox(BRIEFING_TOOLS), {}
        self.calls: dict[str, Call] = {}
        self.admission = Admission(
            self.agents,
            settings.max_calls,
            bounds=Bounds(
                settings.caller_calls, settings.caller_calls_per_h, settings.refused_callers, settings.cost_per_day
            ),
            live_costs=lambda: ((call.agent.name, _cost_of(call)) for call in self.calls.values()),
        )
        self._limits = Limits(self.metrics, clock)
        self.model = model_for(environ)
        self._prices = load_prices(settings.prices, self.model.prices)
        for agent in agents:
            check_limit(agent, self.model.name_of(agent), self._prices, settings.cost_per_day)
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
        )
        self._carriers = [Twilio(settings, self.metrics, self._limits, self.switchboard, clock=clock)]
        self._traces = traces_for(environ)
        self._exports: set[asyncio.Task[None]] = set()
        made = secrets.token_urlsafe(32) if settings.public_url and not settings.console_token else ""
        self._sign_in = f"/console/sign-in?token={made}" if made else "/console"
        self.console_link = ""  # the console's URL, once it is served; signs a browser in when no token is configured
        self._access = Access(
            settings.console_token or made,
            self._limits,
            self.metrics,
            clock,
            insecure=settings.insecure and not settings.public_url,
            link=bool(made),
            read_token=settings.console_read_token,
            public_url=settings.public_url,
        )
        self._softphones = Softphones(
            settings,
            self._access,
            self.metrics,
            self._limits,
            self.switchboard,
            {agent.name: agent for agent in self.agents},
            clock=clock,
        )
        history = History(self._keeping.store, self.records, _scenario_of, time.time)
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
                "places": bool(settings.public_url and settings.twilio_account_sid),
                "simulated": settings.simulated,
            },
            history=history,
            boards=Boards({agent.name: board for agent in agents if (board := board_of(agent))}),
        )
        control = _Control(self.calls, self.switchboard, self.admission)
        self._actions = OperatorActions(self._access, self._limits, control)
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

    def _add_console(self, app: web.Application) -> None:
        app.add_routes(self._access.routes())
        app.add_routes(self._api.operator_routes())
        app.add_routes(self.console.routes())
        app.add_routes(self._actions.routes())
        app.add_routes(self._softphones.routes())

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve on the configured hosts and ports (0: any free one); gives the local URL of the main listener.

        Leaving the block ends every call that is still active.
        """
        settings = self.settings
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._keeping.running())
            stack.push_async_callback(self.model.close)
            url = admin_url = await stack.enter_async_context(
                self._served(self.app, settings.host, settings.port, "OFFHOOK_PORT or OFFHOOK_HOST")
            )
            if settings.public_url:
                admin_url = await stack.enter_async_context(
                    self._served(
                        self.admin_app,
                        settings.admin_host,
                        settings.admin_port,
                        "OFFHOOK_ADMIN_PORT or OFFHOOK_ADMIN_HOST",
                    )
                )
            self.console_link = admin_url + self._sign_in
            await asyncio.gather(self._http.start(), *(toolbox.start() for toolbox in self._toolboxes.values()))
            for agent in self.agents:  # here the tools of MCP servers are known too
                for problem in self.model.check(agent, self._toolboxes[agent.name].tools.values()):
                    log.warning("%s: %s", agent.file or f"agent {agent.name}", problem)
            await self.switchboard.open([*self._carriers, self._softphones])
            await self.model.warm_up()
            ticker = asyncio.create_task(self._tick(), name="ticker")
            loop = asyncio.get_running_loop()
            before = loop.get_exception_handler()
            loop.set_exception_handler(self._on_stray_exception)
            try:
                yield url
            finally:
                await self._end_all()
                await self.switchboard.close()
                await self.console.close()
                if self._traces is not None:
                    await asyncio.gather(*self._exports, return_exceptions=True)
                    await asyncio.to_thread(self._traces.close)
                await asyncio.gather(self._http.close(), *(toolbox.close() for toolbox in self._toolboxes.values()))
                ticker.cancel()
                await asyncio.gather(ticker, return_exceptions=True)
                loop.set_exception_handler(before)

    @asynccontextmanager
    async def _served(
        self, app: Callable[[Connections], web.Application], host: str, port: int, variables: str
    ) -> AsyncIterator[str]:
        """One listener; gives its local URL. `variables`: those that say where it listens."""
        max_calls = self.settings.max_calls
        spare = spare_connections(max_calls)
        connections = Connections(self._limits, self.metrics, max_calls=max_calls, spare=spare, clock=self._clock)
        runner = web.AppRunner(app(connections), handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        assert runner.server is not None
        try:
            listener = await _listen(connections.guard(runner.server), host, port, connections.backlog)
        except OSError as error:
            await runner.cleanup()
            raise OperatorError(
                f"cannot listen on {host}:{port} ({error.strerror}): choose another {variables}"
            ) from None
        bound, port = listener.sockets[0].getsockname()[:2]
        try:
            yield f"http://[{bound}]:{port}" if ":" in bound else f"http://{bound}:{port}"
        finally:
            listener.close()
            connections.close()
            await runner.cleanup()

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
        else:  # no metric: the process ends before the next scrape
            log.info("drained in %.1f s", self._clock() - began_s)

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
            for work in (partial(self._measure, now_s - due_s, turn), partial(self._give_up_calls, now_s)):
                self._safely("ticker", work)
            self._safely("switchboard", partial(self.switchboard.tick, now_s))

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

    def _new_call(self, facts: CallFacts, agent: Agent, rang_s: float | None) -> Call:
        tools = self._toolboxes[agent.name].tools
        call = Call(
            facts,
            agent,
            tools=tools,
            sounds=self._sounds[agent.name],
            metrics=self.metrics,
            clock=self._clock,
            detection=self._detection,
            link_for=lambda call: self.model.link(
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
                ),
                call,
            ),
            prices=price_of(self.model.name_of(agent), self._prices),
            on_over=self._call_over,
            rang_s=rang_s,
            redactor=self._redactor,
        )
        if self._traces is not None:
            call.record.trace_id = new_trace_id()
        call.record.model = self.model.name_of(agent)
        call.timeline.on_tool = partial(self._keeping.tool_finished, call.record, agent.redact)
        self._keeping.started(call.record)
        self.calls[facts.call_sid] = call
        self._idle.clear()
        self.metrics.calls_active.set(len(self.calls))
        call.start()
        return call

    def _call_over(self, call: Call) -> None:
        call_sid = call.facts.call_sid
        self.calls.pop(call_sid, None)
        if not self.calls:
            self._idle.set()
        self.admission.end(call_sid)
        self.admission.charge(call.agent, _cost_of(call), self._clock())
        self.metrics.calls_active.set(len(self.calls))
        try:
            self.switchboard.call_over(call)
        except Exception as error:
            call.task_failed("switchboard", error)
        self._keeping.ended(call.record, call.agent.redact)
        log.info("call %s ended: %s", call_sid, call.record.end_reason)
        if self._traces is not None:  # some milliseconds of work: not on the loop
            task = asyncio.create_task(asyncio.to_thread(self._traces.export, call.record))
            self._exports.add(task)
            task.add_done_callback(self._exports.discard)

    # --- for the console and the API

    def _live(self) -> list[LiveCall]:
        return [LiveCall(call.phase.value, call.timeline.ms(call.clock()), call.record) for call in self.calls.values()]

    def _live_record(self, call_sid: str) -> CallRecord | None:
        call = self.calls.get(call_sid)
        return None if call is None else call.timeline.so_far(call.clock(), call.hearing.received_ms)

    def _not_ready(self) -> str:
        if self.admission.draining:
            return "draining"
        return "at the limit of calls" if self.admission.calls >= self.settings.max_calls else ""

    async def _browser_token(self, name: str) -> tuple[str, str]:
        agent = next((agent for agent in self.agents if agent.name == (name or self.agents[0].name)), None)
        if agent is None:
            raise OperatorError(f"no such agent: one of {', '.join(agent.name for agent in self.agents)}")
        if not isinstance(self.model, GeminiModel):
            raise OperatorError("browser tokens are for Gemini only: unset OFFHOOK_BROWSER_TOKENS")
        token = await self.model.token(agent, self._toolboxes[agent.name].tools.values(), {})
        return token, self.model.name_of(agent)


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
    """`CallControl` over the process's calls."""

    def __init__(self, calls: Mapping[str, Call], switchboard: Switchboard, admission: Admission) -> None:
        self._calls, self._switchboard, self._admission = calls, switchboard, admission

    def call_out(self, to: str, agent: str, *, caller_id: str, variables: dict[str, str]) -> OutboundCall:
        if self._admission.draining:
            raise Unavailable("this gateway is draining and places no more calls")
        try:
            return self._switchboard.call_out(to, agent, caller_id=caller_id, variables=variables)
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

    async def hold(self, call_id: str, music_url: str, line: str) -> bool:
        return await self._switchboard.hold(self._sid(call_id), music_url, line)

    async def resume(self, call_id: str) -> bool:
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

    def say(self, call_id: str, text: str) -> bool | None:
        call = self._calls.get(self._sid(call_id))
        return None if call is None else call.operator_says(text)

    def note(self, call_id: str, text: str) -> bool | None:
        call = self._calls.get(self._sid(call_id))
        return None if call is None else call.operator_notes(text)

    def keep_action(self, call_id: str, who: str, what: str, detail: str, *, done: bool) -> None:
        if call := self._calls.get(self._sid(call_id)):
            call.timeline.action(call.clock(), who, what, call.tools.masked(detail), done=done)

    def _sid(self, call_id: str) -> str:
        outbound = self.outbound(call_id)
        return outbound.call_sid if outbound else call_id


async def _listen(serving: Callable[[], asyncio.BaseProtocol], host: str, port: int, backlog: int) -> asyncio.Server:
    """A listening socket; `::` takes both families, where asyncio's own would take IPv6 only."""
    loop = asyncio.get_running_loop()
    if host == "::" and socket.has_dualstack_ipv6():
        both = socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
        return await loop.create_server(serving, sock=both, backlog=backlog)
    return await loop.create_server(serving, host, port, backlog=backlog)
