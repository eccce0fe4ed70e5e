"""The gateway process: builds all parts, starts, drains and stops them. The composition root: no handler of its own.

What it serves over HTTP is built in `site`; how a process with calls ends is in `draining`.
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
from prometheus_client import CollectorRegistry

from offhook.gateway import __version__
from offhook.gateway.agent.policy import detector_of
from offhook.gateway.agent.sounds import load_sounds
from offhook.gateway.agent.spec import Agent
from offhook.gateway.call.call import Call
from offhook.gateway.call.detection import Detection
from offhook.gateway.call.facts import CallFacts
from offhook.gateway.call.head import Taken
from offhook.gateway.config import Settings
from offhook.gateway.conversation.endings import Ending
from offhook.gateway.draining import Draining
from offhook.gateway.errors import OperatorError
from offhook.gateway.keeping import Keeping
from offhook.gateway.labels import LABELS
from offhook.gateway.live import LiveStore, Node
from offhook.gateway.live.fleet import Fleet
from offhook.gateway.live.node import live_store_for, node_name
from offhook.gateway.models import AudioFormats, CallBrief, Model
from offhook.gateway.models.pricing import check_limit, load_prices, price_of
from offhook.gateway.observe.redact import Redactor, secrets_of
from offhook.gateway.observe.tracing import new_trace_id, traces_for
from offhook.gateway.providers import PROVIDERS, model_for, model_name, provider_of, with_provider
from offhook.gateway.site import Site
from offhook.gateway.store.record import ToolRecord
from offhook.gateway.telephony.admission import Admission
from offhook.gateway.telephony.bounds import Bounds
from offhook.gateway.telephony.switchboard import Switchboard
from offhook.gateway.telephony.tokens import StreamTokens
from offhook.gateway.telephony.transfer import BRIEFING_TOOLS, briefing_agent
from offhook.gateway.ticker import Ticker
from offhook.gateway.tools.build import Toolbox, build_tools
from offhook.gateway.tools.http.client import HttpClient
from offhook.gateway.web.connections import became_call
from offhook.gateway.workers.worker import Worker
from offhook.metrics.catalogue import Metrics

__all__ = ["Gateway"]

log = logging.getLogger(__name__)


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
            outbound=self._keeping.outbound_table(f"{self.node}:{self._boot}", wall),
        )
        self._traces = traces_for(environ)
        self._exports: set[asyncio.Task[None]] = set()
        self._site = Site(
            settings,
            self.agents,
            self.models,
            self._toolboxes,
            self.calls,
            self.metrics,
            self.admission,
            self.switchboard,
            self.fleet,
            self._keeping,
            self._redactor,
            node=self.node,
            clock=clock,
            wall=time.time,
            worker=worker,
            exemplars=self._traces is not None,
        )
        self.console, self.direct = self._site.console, self._site.direct
        self._ticker = Ticker(
            self.calls, self.switchboard, self.direct, worker, self.metrics, clock, call_over=self._call_over
        )
        self._draining = Draining(
            settings, self.calls, self.admission, self.metrics, self.switchboard, self.fleet, clock
        )

    # --- serving

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
            await self._site.listen(stack)
            self.address = self.address or self._site.local_url
            await asyncio.gather(self._http.start(), *(toolbox.start() for toolbox in self._toolboxes.values()))
            for agent in self.agents:  # here the tools of MCP servers are known too
                for problem in self._model_of(agent).check(agent, self._toolboxes[agent.name].tools.values()):
                    log.warning("%s: %s", agent.file or f"agent {agent.name}", problem)
            await self.switchboard.open(self._site.carriers)
            await asyncio.gather(*(model.warm_up() for model in self.models.values()))
            await self.fleet.join()
            if self._worker is not None:
                self._worker.beat()
            ticker = asyncio.create_task(self._ticker.run(), name="ticker")
            loop = asyncio.get_running_loop()
            before = loop.get_exception_handler()
            loop.set_exception_handler(self._on_stray_exception)
            try:
                yield self._site.local_url
            finally:
                if self._worker is not None:
                    self._worker.routing.close()
                await self._draining.end_all()
                await self.direct.close()
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

    @property
    def console_link(self) -> str:
        """The console's URL, once it is served; signs a browser in when no token is configured."""
        return self._site.console_link

    async def drain(self) -> None:
        """Accept no new calls; return once the active ones have ended, or after `drain_s`."""
        await self._draining.drain()

    def _on_stray_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Of a task or callback without an owner. The network's are no fault of ours."""
        error = context.get("exception")
        if error is not None and not isinstance(error, OSError):
            self.metrics.task_failures_total.inc("other")
        loop.default_exception_handler(context)

    # --- calls

    def _model_of(self, agent: Agent) -> Model:
        return self.models[provider_of(agent)]

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
        call.record.model = model_name(agent, self.models)
        if self._traces is not None and not call.record.trace_id:
            call.record.trace_id = new_trace_id()
        call.timeline.on_tool = partial(self._tool_finished, call)
        if taken is None:
            self.metrics.model_calls_total.inc(provider_of(agent))
            self._keeping.started(call.record)
        self.calls[facts.call_sid] = call
        self._draining.idle.clear()
        self.metrics.calls_active.set(len(self.calls))
        if taken is None:
            call.start()
        return call

    def _tool_finished(self, call: Call, tool: ToolRecord) -> None:
        if not self.fleet.checkpoints.has_lost(call.facts.call_sid):
            self._keeping.tool_finished(call.record, call.agent.redact, tool)

    def _call_over(self, call: Call) -> None:
        call_sid = call.facts.call_sid
        came_back = self.calls.get(call_sid) not in (call, None)  # it moved away and here again while this one closed
        if not came_back:
            self.calls.pop(call_sid, None)
        if not self.calls:
            self._draining.idle.set()
        self.metrics.calls_active.set(len(self.calls))
        if came_back or call.ending is Ending.MOVED:
            log.info("call %s goes on in %s", call_sid, "this process again" if came_back else "another process")
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


def _cost_of(call: Call) -> float:
    """USD so far, as far as prices are known."""
    return call.record.usage.get("cost_usd", 0.0)
