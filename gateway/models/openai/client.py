"""The process's client of the Realtime API: settings, connecting, and the translation of foreign exceptions.

The WebSocket is our own: the official SDK costs 132 us for each 20 ms of caller audio, and shows a close as an end of
iteration. Azure's variant differs in its address and in the name of the key's header alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from offhook.gateway import __version__
from offhook.gateway.agent.spec import Agent
from offhook.gateway.errors import Malformed, ModelRefused
from offhook.gateway.models import CallBrief, Declared, Model, ModelSink, Problem, without_key
from offhook.gateway.models.openai import messages as wire
from offhook.gateway.models.openai.link import RealtimeLink
from offhook.gateway.models.openai.prices import PRICES
from offhook.gateway.models.openai.recovery import PATIENCE, Patience
from offhook.gateway.models.openai.settings import OpenAISettings
from offhook.gateway.models.openai.setup import check, model_name
from offhook.gateway.models.openai.socket import SessionSocket
from offhook.gateway.models.websocket import tls_context

__all__ = ["OpenAIModel"]

MESSAGE_MAX_BYTES = 16 * 2**20
CLOSE_TIMEOUT_S = 1.0  # a peer that does not answer our close must not delay the next session
SETUP = "setup"  # the event id of the one `session.update`


class OpenAIModel(Model):
    """The process's client: `offhook.gateway.models.Model`, and the links' `Connector`."""

    prices = PRICES

    def __init__(self, settings: OpenAISettings, *, patience: Patience = PATIENCE) -> None:
        """Raises `OperatorError` for unusable settings."""
        self.settings, self.patience = settings, patience
        self._log = logging.getLogger(f"{__name__}.socket")
        self._log.setLevel(logging.WARNING)  # below, it writes headers and frames, the key included
        self._ssl = tls_context(settings.ca_file) if settings.url("").startswith("wss") else None

    async def warm_up(self) -> None:
        """Nothing is built on first use."""

    def name_of(self, agent: Agent) -> str:
        return model_name(agent)

    def check(self, agent: Agent, tools: Iterable[Declared]) -> list[Problem]:
        return check(agent, tools, azure=self.settings.azure)

    def link(self, brief: CallBrief, sink: ModelSink) -> RealtimeLink:
        return RealtimeLink(self, brief, sink, self.patience)

    async def close(self) -> None:
        """Sessions are closed by their links; there is nothing else."""

    @contextlib.asynccontextmanager
    async def session(
        self, model: str, config: Mapping[str, Any], timeout: asyncio.Timeout
    ) -> AsyncIterator[tuple[SessionSocket, float | None]]:
        """A session that is set up, and when it ends (Unix time). Entering raises `ModelRefused`; its code is 0 when no
        answer came in time.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with timeout:
                    ws = await stack.enter_async_context(self._connection(model))
                    socket = SessionSocket(ws)
                    expires_at = await _set_up(socket, config)
            except TimeoutError:
                raise ModelRefused(0, "no answer to the setup in time") from None
            except ModelRefused as refused:
                raise ModelRefused(refused.code, without_key(refused.reason, self.settings.api_key)) from None
            except Exception as error:
                raise self.translated(error) from None
            yield socket, expires_at

    def _connection(self, model: str) -> contextlib.AbstractAsyncContextManager[ClientConnection]:
        return connect(
            self.settings.url(model),
            additional_headers=self.settings.headers(),
            user_agent_header=f"offhook/{__version__}",
            ssl=self._ssl,
            ping_interval=None,  # a slow pong is no dead session; `SessionSocket` detects one
            max_size=MESSAGE_MAX_BYTES,
            compression=None,  # base64 of speech shrinks by a quarter and would double the cost of a send
            open_timeout=None,  # the setup timeout covers it
            close_timeout=CLOSE_TIMEOUT_S,
            logger=self._log,
        )

    def translated(self, error: BaseException) -> ModelRefused:
        """Any exception of the socket or the network as a code and a reason without secrets."""
        match error:
            case ConnectionClosed():
                code = error.rcvd.code if error.rcvd else 1006
                reason = error.rcvd.reason if error.rcvd else "connection lost"
            case InvalidStatus():
                code = error.response.status_code
                reason = _error_code(bytes(error.response.body or b"")) or "handshake refused"
            case ssl.SSLCertVerificationError():
                code, reason = 1015, f"its certificate is not trusted: {error.verify_message}"
            case OSError():
                code, reason = 1006, f"network: {error.strerror or type(error).__name__}"
            case Malformed():
                code, reason = 1007, error.what
            case WebSocketException():
                code, reason = 1006, f"handshake failed ({type(error).__name__})"
            case _:
                code, reason = 1007, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return ModelRefused(code, without_key(reason, self.settings.api_key))


async def _set_up(socket: SessionSocket, config: Mapping[str, Any]) -> float | None:
    """From the socket's opening to `session.updated`: when the session ends. Raises `ModelRefused`."""
    while True:
        event = await socket.receive()
        match event.type:
            case "session.created":
                await socket.send(wire.session_update(config, SETUP))
            case "session.updated":
                return event.session.expires_at if event.session else None
            case "error":
                error = event.error or wire.Error()
                where = f" ({error.param})" if error.param else ""
                reason = f"{error.code or error.type}: {error.message}{where}"
                raise ModelRefused(4000 if (error.code or "") != "server_error" else 1011, reason)
            case _:
                pass  # nothing else has a meaning before the setup


def _error_code(body: bytes) -> str:
    """Code and message of a refused handshake's JSON."""
    try:
        error = wire.parse(b'{"type":"error",' + body.lstrip()[1:]).error if body else None
    except Malformed:
        return ""
    return f"{error.code or error.type}: {error.message}" if error else ""
