"""The rehearsal model: a server that speaks Gemini Live and OpenAI Realtime from one script, over TLS.

Clients connect to it as to either service: base URL `ModelServer.url` (with /v1 for OpenAI), trusted certificate
`ModelServer.ca_path`. It has its own parsers and records protocol violations of the client.
"""

import asyncio
import copy
import re
import secrets
import ssl
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import trustme
from aiohttp import web

from offhook.gateway.errors import OperatorError
from offhook.gateway.files import write_whole
from offhook.gateway.rehearsal.model.connection import Connection
from offhook.gateway.rehearsal.model.realtime.session import RealtimeSession
from offhook.gateway.rehearsal.model.record import ClientViolation, SessionRecord
from offhook.gateway.rehearsal.model.script import Close, Script
from offhook.gateway.rehearsal.model.session import ResumptionHandle, Session
from offhook.gateway.rehearsal.model.text import TextAnswers
from offhook.gateway.rehearsal.model.turns import Progress, Trigger
from offhook.gateway.rehearsal.model.wire import SessionRefused, camel_keys
from offhook.gateway.rehearsal.quick_clock import Clock, running_clock

__all__ = ["ModelServer", "serve"]

_LIVE_PATH = re.compile(
    r"/ws/(?:google\.ai\.generativelanguage\.(?P<version>v1|v1beta|v1alpha)\.GenerativeService"
    r"\.(?P<method>BidiGenerateContent|BidiGenerateContentConstrained)"
    r"|google\.cloud\.aiplatform\.(?P<vertex>\w+)\.LlmBidiService/BidiGenerateContent)$"
)
_GENERATE_PATH = re.compile(r"/(?:v1|v1beta|v1alpha)/models/[^/:]+:generateContent")
_CHAT_PATHS = ("/v1/chat/completions", "/openai/v1/chat/completions")
_REALTIME_PATH = re.compile(r"(/openai)?/v1/realtime")
_HANDLE_LIFE_S = 2 * 3600.0
_TOKEN_LIFE_S = 30 * 60.0
_TOKEN_NEW_SESSION_S = 60.0
_BAD_KEY = Close(1007, "API key not valid. Please pass a valid API key.")
_BAD_OPENAI_KEY = Close(3000, "invalid_request_error.invalid_api_key")
_BETA = Close(4000, "invalid_request_error.beta_api_shape_disabled")
_PROTOCOLS = ("realtime",)
_KEY_PROTOCOL = "openai-insecure-api-key."
_NO_KEY = Close(1008, "Method doesn't allow unregistered callers. Please use an API key.")


@dataclass(slots=True)
class _Token:
    uses: int | None
    expires_s: float
    new_session_until_s: float
    setup: dict[str, Any]
    locked: tuple[str, ...] | None  # None: everything


class ModelServer:
    """`async with ModelServer(script) as server:` serves at `server.url` until the block is left.

    `script` is a Script for all connections or a function from the (camelCase) setup of each new session to
    its Script. `time_scale` divides lifetimes: 60 makes the ten minutes of a connection ten seconds.
    `keep_audio`: the records keep the received audio and, unless `keep_arrivals` is False, the time of each frame.
    `text`: the script of the text model at the same address, see `text`.
    `api_keys` None accepts any key, but not a request without one. Without `tls`, plain HTTP for hand-written clients.
    `clock`: for all times in the records; by default the running loop's.

    `sessions` and `violations` grow while the server runs; `failures` are exceptions of this server.
    """

    def __init__(
        self,
        script: Script | Callable[[dict[str, Any]], Script],
        *,
        text: Script | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        time_scale: float = 1.0,
        api_keys: frozenset[str] | None = None,
        keep_audio: bool = True,
        keep_arrivals: bool | None = None,
        tls: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self._script = script
        self._clock = clock or running_clock()
        self.text = TextAnswers(text or Script(), self._clock)
        self._host, self._port, self._tls = host, port, tls
        self.time_scale, self.keep_audio = time_scale, keep_audio
        self.keep_arrivals = keep_audio if keep_arrivals is None else keep_arrivals
        self._api_keys = api_keys
        self.sessions: list[SessionRecord] = []
        self.violations: list[ClientViolation] = []
        self.failures: list[BaseException] = []
        self.url = ""
        self.ca_path = ""
        self._connections: set[Connection] = set()
        self._handles: dict[str, ResumptionHandle] = {}
        self._carried: list[Progress] = []
        self._set_aside: list[tuple[Progress, Trigger | None]] = []
        self._tokens: dict[str, _Token] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> "ModelServer":
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        context = self._certificate() if self._tls else None
        site = web.TCPSite(self._runner, self._host, self._port, ssl_context=context, backlog=512)
        try:
            await site.start()
        except OSError:
            await self.__aexit__()
            raise
        port = self._runner.addresses[0][1]
        host = "127.0.0.1" if self._host in ("0.0.0.0", "::") else self._host
        self.url = f"{'https' if self._tls else 'http'}://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        for connection in self._connections:
            connection.close(Close(1001, "The server is going down."))
        await self._runner.cleanup()
        if self._folder is not None:
            self._folder.cleanup()

    def _certificate(self) -> ssl.SSLContext:
        ca = trustme.CA()
        names = {"localhost", "127.0.0.1", "::1", self._host} - {"0.0.0.0", "::"}
        certificate = ca.issue_cert(*sorted(names))
        self._folder = tempfile.TemporaryDirectory(prefix="offhook-rehearsal-")
        self.ca_path = str(Path(self._folder.name) / "ca.pem")
        ca.cert_pem.write_to_path(self.ca_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        return context

    # -- HTTP ---------------------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = re.sub("/{2,}", "/", request.path)
        if request.method == "POST" and (token := re.fullmatch(r"/(v1|v1beta|v1alpha)/auth_tokens", path)):
            return await self._create_token(request, token.group(1))
        if request.method == "GET" and _REALTIME_PATH.fullmatch(path):
            return await self._realtime(request, path)
        if request.method == "POST" and (path in _CHAT_PATHS or _GENERATE_PATH.fullmatch(path)):
            auth, secret = _credentials(request)
            denied = auth == "none" or (self._api_keys is not None and secret not in self._api_keys)
            return await self.text.answered(request, chat=path in _CHAT_PATHS, denied=denied)
        live = _LIVE_PATH.search(path)
        if request.method != "GET" or live is None:
            return web.json_response({"error": {"code": 404, "status": "NOT_FOUND"}}, status=404)
        constrained = live["method"] == "BidiGenerateContentConstrained"
        if constrained and live["version"] == "v1":
            return web.json_response({"error": {"code": 404, "status": "NOT_FOUND"}}, status=404)
        # Compression is refused: base64 audio costs more to compress than to send.
        ws = web.WebSocketResponse(autoping=False, autoclose=True, compress=False, max_msg_size=0, timeout=5.0)
        if not ws.can_prepare(request).ok:
            return web.json_response({"error": {"code": 400, "status": "FAILED_PRECONDITION"}}, status=400)
        auth, secret = _credentials(request)
        record = SessionRecord(len(self.sessions), path, auth, self._clock())
        self.sessions.append(record)
        try:
            await ws.prepare(request)
        except ConnectionError:  # closed before the answer
            record.closed_at_s, record.closed_by = self._clock(), "network"
            return web.Response(status=400)
        connection = Connection(ws, request, record, self._clock)
        version = live["version"] or live["vertex"]
        self._connections.add(connection)
        try:
            denied = self._denied(auth, secret, constrained)
            await Session(self, connection, record, version, vertex=live["vertex"] is not None).run(denied, secret)
        finally:
            self._connections.discard(connection)
        return ws

    async def _realtime(self, request: web.Request, path: str) -> web.StreamResponse:
        """OpenAI Realtime: without a key the handshake is refused, with a wrong one the session closed."""
        offered = [part.strip() for part in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        in_protocol = [part.removeprefix(_KEY_PROTOCOL) for part in offered if part.startswith(_KEY_PROTOCOL)]
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        secret = request.headers.get("api-key") or bearer or "".join(in_protocol[:1])
        if not secret:
            error = {"type": "invalid_request_error", "code": "missing_api_key", "message": "No API key was given."}
            return web.json_response({"error": error}, status=401)
        ws = web.WebSocketResponse(
            autoping=False, autoclose=True, compress=False, max_msg_size=0, timeout=5.0, protocols=_PROTOCOLS
        )
        if not ws.can_prepare(request).ok:
            return web.json_response({"error": {"code": "invalid_request"}}, status=400)
        record = SessionRecord(len(self.sessions), path, "bearer" if bearer else "key", self._clock())
        self.sessions.append(record)
        try:
            await ws.prepare(request)
        except ConnectionError:  # closed before the answer
            record.closed_at_s, record.closed_by = self._clock(), "network"
            return web.Response(status=400)
        connection = Connection(ws, request, record, self._clock)
        self._connections.add(connection)
        denied = _BETA if "OpenAI-Beta" in request.headers else None
        if self._api_keys is not None and secret not in self._api_keys:
            denied = _BAD_OPENAI_KEY
        try:
            await RealtimeSession(self, connection, record, request.query.get("model", "")).run(denied)
        finally:
            self._connections.discard(connection)
        return ws

    def _denied(self, auth: str, secret: str, constrained: bool) -> Close | None:
        if auth == "none":
            return _NO_KEY
        if auth == "token":
            return self._token_denied(secret) if constrained else _BAD_KEY
        if auth == "key" and (constrained or (self._api_keys is not None and secret not in self._api_keys)):
            return _BAD_KEY
        return None

    # -- for sessions -------------------------------------------------------------------------------------

    def progress_for(self, setup: dict[str, Any]) -> Progress:
        """The script of a new session: at its beginning, or where the last session stopped."""
        script = self._script(setup) if callable(self._script) else self._script
        if not script.carries_on:
            return Progress(script, self._clock())
        for progress in self._carried:
            if progress.script is script:
                return progress
        self._carried.append(Progress(script, self._clock()))
        return self._carried[-1]

    def set_aside(self, progress: Progress, unanswered: Trigger | None) -> None:
        """A session without a handle has ended here in its script; `unanswered`: what the caller waits for."""
        self._set_aside.append((progress, unanswered))

    def taken_up(self, script: Script) -> tuple[Progress, Trigger | None] | None:
        """Where the last session of this script ended, for one that was given the conversation so far."""
        for index in reversed(range(len(self._set_aside))):
            if self._set_aside[index][0].script == script:
                return self._set_aside.pop(index)
        return None

    def keep_handle(self, name: str, handle: ResumptionHandle) -> None:
        self._handles[name] = handle

    def resumed(self, name: str, model: str) -> ResumptionHandle:
        """Look a handle up. Raises `SessionRefused`: 1007 unknown, expired or another model, 1011 still in use."""
        handle = self._handles.get(name)
        if handle is None:
            raise SessionRefused(1007, "Request contains an invalid argument. Unknown session resumption handle.")
        ended_s = handle.owner.closed_at_s
        if ended_s is None:
            # A stalled session has not seen the client's close: this is a refusal, but not an error of the client.
            in_use = "Internal error encountered. The session is still in use."
            raise SessionRefused(1011, in_use, scripted=handle.connection.stalled)
        progress = handle.conversation.progress
        if progress.resumes_refused < len(progress.script.refuse_resumes):
            refusal = progress.script.refuse_resumes[progress.resumes_refused]
            progress.resumes_refused += 1
            raise SessionRefused(refusal.code, refusal.reason, scripted=True)
        if self._clock() - ended_s > _HANDLE_LIFE_S / self.time_scale:
            raise SessionRefused(
                1007, "Request contains an invalid argument. The session resumption handle has expired."
            )
        if model != handle.model:
            raise SessionRefused(1007, "Request contains an invalid argument. The model may not change on resumption.")
        return handle

    # -- ephemeral tokens ---------------------------------------------------------------------------------

    async def _create_token(self, request: web.Request, version: str) -> web.Response:
        if version == "v1":
            return web.json_response({"error": {"code": 404, "status": "NOT_FOUND"}}, status=404)
        auth, secret = _credentials(request)
        if self._denied(auth, secret, constrained=False) is not None:
            return web.json_response({"error": {"code": 400, "status": "INVALID_ARGUMENT"}}, status=400)
        try:
            body = camel_keys(msgspec.json.decode(await request.read() or b"{}", type=dict))
            now_s = datetime.now(UTC).timestamp()
            mask = body.get("fieldMask")
            token = _Token(
                uses=int(body.get("uses", 1)) or None,
                expires_s=_seconds(body.get("expireTime"), now_s + _TOKEN_LIFE_S),
                new_session_until_s=_seconds(body.get("newSessionExpireTime"), now_s + _TOKEN_NEW_SESSION_S),
                setup=(body.get("bidiGenerateContentSetup") or {}),
                locked=None if mask is None else tuple(_camel_path(part) for part in mask.split(",") if part),
            )
        except (msgspec.DecodeError, ValueError, TypeError, AttributeError):
            return web.json_response({"error": {"code": 400, "status": "INVALID_ARGUMENT"}}, status=400)
        name = f"auth_tokens/{secrets.token_hex(16)}"
        self._tokens[name] = token
        return web.json_response({"name": name})

    def _token_denied(self, secret: str) -> Close | None:
        token = self._tokens.get(secret)
        now_s = datetime.now(UTC).timestamp()
        if token is None or now_s > min(token.expires_s, token.new_session_until_s):
            return Close(1008, "Token expired or not valid.")
        if token.uses is not None:
            if token.uses == 0:
                return Close(1008, "Token has been used up.")
            token.uses -= 1
        return None

    def locked_setup(self, secret: str, setup: dict[str, Any]) -> dict[str, Any]:
        """The effective setup: a token may lock all of it (the client's is ignored) or some fields."""
        token = self._tokens.get(secret)
        if token is None or not token.setup:
            return setup
        if token.locked is None:
            return {"model": setup.get("model"), **token.setup}
        out = copy.deepcopy(setup)
        for path in token.locked:
            first, _, second = path.partition(".")
            into, source, key = out, token.setup, first
            if second:
                into, source, key = out.setdefault(first, {}), token.setup.get(first) or {}, second
            into.pop(key, None)
            if key in source:
                into[key] = source[key]
        return out


def _credentials(request: web.Request) -> tuple[Any, str]:
    header = request.headers.get("Authorization", "")
    if header.startswith("Token "):
        return "token", header[6:]
    if token := request.query.get("access_token"):
        return "token", token
    if key := request.headers.get("x-goog-api-key") or request.query.get("key"):
        return ("token" if key.startswith("auth_tokens/") else "key"), key
    if header.startswith("Bearer "):
        return "bearer", header[7:]
    return "none", ""


def _camel_path(path: str) -> str:
    [camel] = camel_keys({path: 0})
    return str(camel)


def _seconds(stamp: Any, default_s: float) -> float:
    if stamp is None:
        return default_s
    moment = datetime.fromisoformat(str(stamp))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


async def serve(
    host: str, port: int, script: Script, ca_out: Path | None = None, *, path: str = "", tls: bool = True, clock: Clock
) -> None:
    """Serve one script to every client until cancelled. The certificate to trust is written to `ca_out`.

    `path`: of the base URL that is printed. Without `tls` there is no certificate.
    """
    async with AsyncExitStack() as stack:
        try:
            server = await stack.enter_async_context(
                ModelServer(script, host=host, port=port, keep_audio=False, tls=tls, clock=clock)
            )
        except OSError as error:
            raise OperatorError(
                f"cannot listen on {host}:{port} ({error.strerror}): choose another --port or --host"
            ) from None
        if ca_out is not None and tls:
            await asyncio.to_thread(lambda: write_whole(ca_out, Path(server.ca_path).read_bytes()))
        trust = f", trust {ca_out or server.ca_path}" if tls else ""
        print(f"rehearsal model at {server.url}{path}{trust}", flush=True)
        await asyncio.Event().wait()
