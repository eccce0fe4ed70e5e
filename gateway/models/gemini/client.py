"""Gemini Live through google-genai: one client per process, one link per call.

The SDK makes the client, the credentials, the setup message and the connection. Caller audio and received
messages then go over the session's own WebSocket, without the SDK's model classes: those cost three to five times as
much, and one new kind of server message ends the SDK's `receive()`.

Beside this file: `link` (a call's link) with `outbox`, `pairs` and `audio`, `wire` (a session's socket, for which
`public` stands in), and the pure parts `setup`, `messages`, `turns`, `recovery` and `story`. Foreign exceptions are
translated in `client` and `link`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import warnings
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from google import genai
from google.genai import errors as genai_errors
from google.genai import types
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from offhook.gateway.agent.spec import Agent
from offhook.gateway.conversation.commands import Speak
from offhook.gateway.errors import ModelRefused, OperatorError
from offhook.gateway.models import CallBrief, Declared, Model, ModelSink, Problem, without_key
from offhook.gateway.models.gemini.audio import Upsampling
from offhook.gateway.models.gemini.link import GeminiLink
from offhook.gateway.models.gemini.messages import FunctionResponse, encode
from offhook.gateway.models.gemini.prices import PRICES
from offhook.gateway.models.gemini.recovery import PATIENCE, Patience
from offhook.gateway.models.gemini.settings import GeminiSettings
from offhook.gateway.models.gemini.setup import (
    DEFAULT_MODEL,
    check,
    instruction,
    live_config,
    model_name,
    scheduling_for,
    with_time,
)
from offhook.gateway.models.gemini.wire import AnySession, socket_of
from offhook.gateway.models.websocket import tls_context

__all__ = ["GeminiModel", "sdk_client"]

TOO_BIG = 1009  # RFC 6455, 7.4.1
MESSAGE_MAX_BYTES = 16 * 2**20  # the library's 1 MiB has been exceeded by the service
DEFAULT_URL = "https://generativelanguage.googleapis.com"  # the SDK's, of the Developer API
CLOSE_TIMEOUT_S = 1.0  # a peer that does not answer our close must not delay the next connection


def sdk_client(settings: GeminiSettings, connecting: Mapping[str, Any]) -> genai.Client:
    """The SDK's client. `connecting`: arguments of its asynchronous connections. Raises `OperatorError`."""
    options = types.HttpOptions(
        api_version=settings.api_version or ("v1beta1" if settings.vertex else "v1beta"),
        base_url=settings.base_url or None,
        async_client_args=dict(connecting),
    )
    try:
        return genai.Client(
            vertexai=settings.vertex,
            api_key=settings.api_key or None,
            project=settings.project or None,
            location=settings.location or None,
            http_options=options,
        )
    except ValueError as error:
        why = without_key(str(error), settings.api_key)
        raise OperatorError(f"the settings for Gemini do not go together: {why}") from None


class GeminiModel(Model):
    """The process's client: `offhook.gateway.models.Model`, and the links' `Connector`."""

    prices = PRICES
    page_files = Path(__file__).parent / "browser"  # of the page that talks to the model itself

    def __init__(self, settings: GeminiSettings, *, patience: Patience = PATIENCE) -> None:
        """Raises `OperatorError` for unusable settings."""
        self.settings, self.patience = settings, patience
        self._upsampling = Upsampling()
        # These can write headers and frames, key and handles included, to a debug log.
        for name in ("websockets", "google_genai", "httpcore", "httpx"):
            logger = logging.getLogger(name)
            if logger.getEffectiveLevel() < logging.INFO:
                logger.setLevel(logging.INFO)
        socket_log = logging.getLogger(f"{__name__}.socket")
        socket_log.setLevel(logging.WARNING)
        connecting: dict[str, Any] = {
            "ping_interval": None,  # pongs have taken many seconds; `SessionSocket` detects a dead connection
            "max_size": MESSAGE_MAX_BYTES,
            "compression": None,  # base64 of speech shrinks by a quarter and would double the cost of a send
            "open_timeout": None,  # the setup timeout covers it
            "close_timeout": CLOSE_TIMEOUT_S,
            "logger": socket_log,
        }
        if settings.ca_file:
            # The SDK would read the process's environment, not the mapping that the settings were read from.
            connecting["ssl"] = tls_context(settings.ca_file)
        self._client = sdk_client(settings, connecting)

    async def warm_up(self) -> None:
        """Build what the SDK builds on first use; takes a few tenths of a second, needs no network.

        With public means this takes a `connect`: to a closed port of this machine. It fails at the socket, after
        everything before that has been built.
        """
        nowhere = types.HttpOptions(base_url="https://127.0.0.1:9")
        config = live_config(Agent(name="warm-up"), (), "")
        with contextlib.suppress(Exception):
            async with asyncio.timeout(5):
                async with self._client.aio.live.connect(
                    model=DEFAULT_MODEL, config=types.LiveConnectConfig(**config, http_options=nowhere)
                ):
                    pass
        types.LiveServerMessage.model_validate({"setupComplete": {}})

    def name_of(self, agent: Agent) -> str:
        return model_name(agent)

    def check(self, agent: Agent, tools: Iterable[Declared]) -> list[Problem]:
        return check(agent, tools, vertex=self.settings.vertex)

    def link(self, brief: CallBrief, sink: ModelSink) -> GeminiLink:
        return GeminiLink(self, brief, sink, self.patience, self._upsampling)

    def page_url(self) -> str:
        """Where a page with an ephemeral token connects; not on Vertex AI, which has none."""
        host = urlsplit(self.settings.base_url or DEFAULT_URL).netloc
        version = self.settings.api_version or "v1beta"
        return (
            f"wss://{host}/ws/google.ai.generativelanguage.{version}.GenerativeService.BidiGenerateContentConstrained"
        )

    def page_message(
        self, agent: Agent, tool: Declared | None, request: tuple[str, str], response: dict[str, Any], *, silent: bool
    ) -> dict[str, Any]:
        """A tool's result as a page sends it. `request`: the model's id and name of the call; `tool` None: it has no
        such tool.
        """
        scheduling = scheduling_for(tool, model_name(agent), Speak.SILENT if silent else Speak.WHEN_IDLE)
        message: dict[str, Any] = msgspec.json.decode(encode(FunctionResponse(*request, response, scheduling)))
        return message

    async def token(
        self, agent: Agent, tools: Iterable[Declared], variables: Mapping[str, str], *, expires_s: float = 1800.0
    ) -> str:
        """An ephemeral token: one session directly from a browser, with this agent's setup and no other.

        It is valid for a session that begins within a minute and lasts `expires_s` at most. Raises `ModelRefused`;
        `OperatorError` on Vertex AI, which has no such tokens.
        """
        if self.settings.vertex:
            raise OperatorError("Vertex AI has no ephemeral tokens: use a key of the Gemini Developer API")
        now = datetime.now(UTC)
        config = live_config(agent, tools, instruction(agent, with_time(agent, variables, now.astimezone())))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "experimental"
                made = await self._client.aio.auth_tokens.create(
                    config=types.CreateAuthTokenConfig(
                        uses=1,
                        expire_time=now + timedelta(seconds=expires_s),
                        new_session_expire_time=now + timedelta(seconds=60),
                        # Without a list of fields to lock, all are locked.
                        live_connect_constraints=types.LiveConnectConstraints(
                            model=model_name(agent), config=types.LiveConnectConfig(**config)
                        ),
                    )
                )
        except Exception as error:
            raise self.translated(error) from None
        return made.name or ""

    async def close(self) -> None:
        await self._client.aio.aclose()

    @contextlib.asynccontextmanager
    async def session(
        self, model: str, config: Mapping[str, Any], timeout: asyncio.Timeout
    ) -> AsyncIterator[AnySession]:
        """A session that is set up. Entering raises `ModelRefused`; its code is 0 when no answer came in time."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with timeout:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        connecting = self._client.aio.live.connect(model=model, config=dict(config))  # type: ignore[arg-type]
                        session = await stack.enter_async_context(connecting)
            except TimeoutError:
                raise ModelRefused(0, "no answer to the setup in time") from None
            except Exception as error:
                raise self.translated(error) from None
            socket = socket_of(session)
            if getattr(session, "setup_complete", None) is None:
                await socket.close()
                raise ModelRefused(0, "the first message was not setupComplete")
            try:
                yield socket
            finally:
                # Before the SDK does it: leaving its context by an exception would close with 1011.
                await socket.close()

    def translated(self, error: BaseException) -> ModelRefused:
        """Any exception of the SDK, the socket or the network as a code and a reason without secrets."""
        match error:
            case genai_errors.APIError():
                code, reason = error.code or 1006, str(error.details or error.message or "")
            case ConnectionClosed():
                code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "connection lost")
                if error.sent is not None and error.sent.code == TOO_BIG:  # we closed the connection
                    code, reason = TOO_BIG, f"message too big: above {MESSAGE_MAX_BYTES // 2**20} MiB"
            case InvalidStatus():
                code, reason = error.response.status_code, "handshake refused"
            case ssl.SSLCertVerificationError():
                code, reason = 1015, f"its certificate is not trusted: {error.verify_message}"
            case OSError():
                code, reason = 1006, f"network: {error.strerror or type(error).__name__}"
            case WebSocketException():
                code, reason = 1006, f"handshake failed ({type(error).__name__})"
            case _:
                # The SDK's own ValueError or TypeError: about the setup, or a first message it cannot read.
                # The first line only: the others quote what was sent.
                code, reason = 1007, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return ModelRefused(code, without_key(reason, self.settings.api_key))
