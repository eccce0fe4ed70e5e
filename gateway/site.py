"""What the gateway serves over HTTP: the carriers' routes, the console, the API, pages that place calls, on their
listeners. A part of the composition root: it builds the rooms of `web` and has no handler of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

from aiohttp import web

from offhook.gateway import __version__
from offhook.gateway.agent.spec import Agent
from offhook.gateway.call.call import Call
from offhook.gateway.carriers.softphone import Softphones
from offhook.gateway.carriers.twilio.webhooks import Twilio
from offhook.gateway.config import Settings
from offhook.gateway.control import Control
from offhook.gateway.direct import DirectSessions
from offhook.gateway.elsewhere import Elsewhere
from offhook.gateway.errors import OperatorError
from offhook.gateway.keeping import Keeping
from offhook.gateway.live.fleet import Fleet
from offhook.gateway.models import Model
from offhook.gateway.models.gemini.client import GeminiModel
from offhook.gateway.observe.redact import Redactor
from offhook.gateway.providers import model_name, provider_of
from offhook.gateway.store.record import CallRecord
from offhook.gateway.telephony.admission import Admission
from offhook.gateway.telephony.carrier import Carrier
from offhook.gateway.telephony.outbound import OutboundCall
from offhook.gateway.telephony.switchboard import Switchboard
from offhook.gateway.tools.build import Toolbox, board_of
from offhook.gateway.web.access import Access, Lock, programs_only
from offhook.gateway.web.api import Api
from offhook.gateway.web.connections import Connections, Route, hide_server, spare_connections
from offhook.gateway.web.console import Boards, Console, ListenIn, LiveCall, OperatorActions
from offhook.gateway.web.history import History
from offhook.gateway.web.limits import Limits
from offhook.gateway.web.listener import served
from offhook.gateway.web.openapi import document
from offhook.gateway.workers.worker import Worker
from offhook.metrics.catalogue import Metrics

__all__ = ["Site"]


class Site:
    """The listeners of one process. `local_url`: of the main one, once it listens; of a worker, of its own.
    `console_link`: the console's URL, once it is served; signs a browser in when no token is configured.
    `exemplars`: whether traces are exported.
    """

    def __init__(
        self,
        settings: Settings,
        agents: Sequence[Agent],
        models: Mapping[str, Model],
        toolboxes: Mapping[str, Toolbox],
        calls: Mapping[str, Call],
        metrics: Metrics,
        admission: Admission,
        switchboard: Switchboard,
        fleet: Fleet,
        keeping: Keeping,
        redactor: Redactor,
        *,
        node: str,
        clock: Callable[[], float],
        wall: Callable[[], float],
        worker: Worker | None,
        exemplars: bool,
    ) -> None:
        self._settings, self._metrics, self._clock, self._worker = settings, metrics, clock, worker
        self._agents, self._models, self._toolboxes, self._calls = agents, models, toolboxes, calls
        self._admission = admission
        self._limits = Limits(metrics, clock)
        self._carriers = [Twilio(settings, metrics, self._limits, switchboard, clock=clock)]
        made = "" if settings.console_token or not settings.public_url else secrets.token_urlsafe(32)
        if worker is not None:
            made = worker.token if made else ""
        operator_token = settings.console_token or made
        self._sign_in = f"/console/sign-in?token={made}" if made else "/console"
        self.local_url = ""
        self.console_link = ""
        self._access = Access(
            operator_token,
            self._limits,
            metrics,
            clock,
            insecure=settings.insecure and not settings.public_url,
            link=bool(made),
            read_token=settings.console_read_token,
            public_url=settings.public_url,
        )
        others = Elsewhere(fleet, switchboard.moves, node, operator_token, worker)
        elsewhere = others.of_operator if fleet.shared else None
        peer = partial(fleet.peers.socket, headers={"Authorization": f"Bearer {operator_token}"})
        self._softphones = Softphones(
            settings,
            self._access,
            metrics,
            self._limits,
            switchboard,
            {agent.name: agent for agent in agents},
            clock=clock,
            elsewhere=elsewhere,
            peer=peer,
        )
        self.direct = self._direct_sessions(keeping, redactor)
        history = History(keeping.store, keeping.records, _scenario_of, wall, keeping.recordings)
        control = Control(calls, switchboard, self._admission, settings.listeners)
        self.console = Console(
            self._access,
            metrics,
            keeping.records,
            live=self._live,
            live_record=self._live_record,
            draining=lambda: self._admission.draining,
            about={
                "version": __version__,
                "capacity": settings.max_calls,
                "agents": [agent.name for agent in agents],
                "talk": bool(settings.softphone_calls),
                "direct": [agent.name for agent in agents if self.direct.routes() and self.direct.offers(agent.name)],
                "places": bool(settings.public_url and settings.twilio_account_sid),
                "simulated": settings.simulated,
            },
            history=history,
            peers=others.consoles if fleet.shared else None,
            may_listen=lambda sid: control.may_listen(sid) == "",
            boards=Boards({agent.name: board for agent in agents if (board := board_of(agent))}),
        )
        self._actions = OperatorActions(self._access, self._limits, control, elsewhere)
        self._listen_in = ListenIn(
            self._access,
            self._limits,
            metrics,
            most=settings.listeners,
            node=node,
            listen=control.listen,
            may_listen=control.may_listen,
            elsewhere=elsewhere,
            peer=peer,
            clock=clock,
        )
        self._api = Api(
            self._limits,
            self._access,
            metrics,
            control,
            lock=Lock(settings.api_token, "API token", self._limits, metrics, clock),
            not_ready=self._not_ready,
            token_for=self._browser_token if settings.browser_tokens else None,
            exemplars=exemplars,
            history=history,
            document=document(__version__, [agent.name for agent in agents], OutboundCall),
            elsewhere=others.of_api if fleet.shared else None,
            whole=others.whole_metrics if worker is not None else None,
        )

    @property
    def carriers(self) -> list[Carrier]:
        """Those whose calls these listeners bring."""
        return [*self._carriers, self._softphones]

    # --- listeners

    async def listen(self, stack: AsyncExitStack) -> None:
        """The main listener and, with a public URL, the admin one; of a worker, its own for peers, too."""
        settings, worker = self._settings, self._worker
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
        self.console_link = admin_url + self._sign_in

    def _connections(self, route: Route | None = None) -> Connections:
        """Of one listener."""
        most = self._settings.max_calls
        spare = spare_connections(most)
        return Connections(self._limits, self._metrics, max_calls=most, spare=spare, clock=self._clock, route=route)

    def app(self, connections: Connections) -> web.Application:
        """What the main listener serves: the carriers and the API."""
        app = _application(connections)
        if self._settings.insecure:
            app.middlewares.append(programs_only(self._metrics))
        for carrier in self._carriers:
            app.add_routes(carrier.routes())
        app.add_routes(self._api.routes())
        app.add_routes(self._api.health_routes())
        if self._settings.console_token or not self._settings.public_url:
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
        if self._settings.public_url and not self._settings.console_token:
            self._add_console(app)
        return app

    def _add_console(self, app: web.Application) -> None:
        app.add_routes(self._access.routes())
        app.add_routes(self._api.operator_routes())
        app.add_routes(self.console.routes())
        app.add_routes(self._actions.routes())
        app.add_routes(self._listen_in.routes())
        app.add_routes(self._softphones.routes())
        app.add_routes(self.direct.routes())

    # --- for the console and the API

    def _live(self) -> list[LiveCall]:
        return [
            LiveCall(call.phase.value, call.timeline.ms(call.clock()), call.record) for call in self._calls.values()
        ]

    def _live_record(self, call_sid: str) -> CallRecord | None:
        call = self._calls.get(call_sid)
        return None if call is None else call.timeline.so_far(call.clock(), call.hearing.audio_in_ms)

    def _not_ready(self) -> str:
        if self._admission.draining:
            return "draining"
        return "" if self._admission.free else "at the limit of calls"

    def _direct_sessions(self, keeping: Keeping, redactor: Redactor) -> DirectSessions:
        """For the agents whose model gives browser tokens."""
        settings, model = self._settings, self._models.get("gemini")
        gemini = model if isinstance(model, GeminiModel) and settings.browser_tokens else None
        offered = {agent.name: agent for agent in self._agents if self._models[provider_of(agent)] is gemini}
        return DirectSessions(
            gemini,
            offered,
            lambda name: self._toolboxes[name].tools,
            lambda agent: model_name(agent, self._models),
            self._access,
            self._limits,
            self._metrics,
            keeping,
            redactor,
            most=settings.softphone_calls,
            simulated=settings.simulated,
            effects=frozenset(settings.simulated_effects),
            draining=lambda: self._admission.draining,
            clock=self._clock,
        )

    async def _browser_token(self, name: str) -> tuple[str, str]:
        agent = next((agent for agent in self._agents if agent.name == (name or self._agents[0].name)), None)
        if agent is None:
            raise OperatorError(f"no such agent: one of {', '.join(agent.name for agent in self._agents)}")
        model = self._models[provider_of(agent)]
        if not isinstance(model, GeminiModel):
            raise OperatorError("browser tokens are for Gemini only: unset OFFHOOK_BROWSER_TOKENS")
        if agent.limits.cost or agent.limits.cost_per_day or self._settings.cost_per_day:
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


def _application(connections: Connections) -> web.Application:
    app = web.Application(middlewares=[connections.middleware()])
    app.on_response_prepare.append(hide_server)
    return app
