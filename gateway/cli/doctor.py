"""`offhook doctor`: checks of all that a call needs, each failure with a hint how to fix it.

The public URL is requested as Twilio would request it: through DNS, TLS and every proxy, with signed requests. A
gateway that already listens on the configured port is checked; otherwise one is started for the checks.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from offhook.gateway.agent.spec import Agent
from offhook.gateway.carriers.twilio.rest import PhoneNumber, TwilioError, TwilioRest, VoiceHook
from offhook.gateway.carriers.twilio.signature import SIGNATURE_HEADER, sign
from offhook.gateway.carriers.twilio.webhooks import rest_for
from offhook.gateway.config import Settings
from offhook.gateway.errors import ModelRefused, OperatorError
from offhook.gateway.models import Model
from offhook.gateway.models.gemini.client import GeminiModel
from offhook.gateway.models.gemini.setup import live_config
from offhook.gateway.models.instructions import instruction
from offhook.gateway.models.openai.client import OpenAIModel
from offhook.gateway.models.openai.setup import session_config
from offhook.gateway.numbers import AddressKind, read_address
from offhook.gateway.providers import model_for, name_of, provider_of
from offhook.media.formats import MULAW_8K

__all__ = ["HERE", "Finding", "destination", "examine"]

TIMEOUT_S = 10.0
CLOCK_OFF_MAX_S = 60.0  # the validity of tokens and certificates depends on the clock
CERTIFICATE_DAYS_MIN = 14.0
NO_CALL = "CA" + "0" * 32
HERE = "here"

_UNREACHED = "open the port to the internet, or start the tunnel (a router may also refuse its own public address)"
HTTP_HINTS = {
    404: "another server answers there: does the proxy or tunnel lead to this gateway's port?",
    502: "the proxy cannot reach the gateway: is it running, and on the port that the proxy is configured with?",
    503: "the gateway or its proxy accepts no requests at the moment: is it draining?",
    504: "the gateway did not answer the proxy: check its address and port",
}
ACCOUNT_HINTS = {
    "suspended": "no calls are connected until that is lifted: check the balance and the notices in the Twilio console",
    "closed": "it cannot be used any more: set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN of another account",
}
# By the reason first: the service closes with the same code for a wrong key and for a wrong setup.
MODEL_HINTS_BY_REASON = (
    ("expired", "the key has expired: renew it and set {key}"),
    ("leaked", "the key was reported as leaked and is blocked: create another and set {key}"),
    ("api key|api_key|unauthenticated|credentials|access token", "the key is not valid: check {key}"),
    (
        "location is not supported|user location|country|region is not",
        "the API cannot be used from this machine's location: run the gateway in a supported one, or use Vertex AI",
    ),
    ("quota|resource.exhausted|rate limit|billing|credit", "the quota or the credit is used up: wait, or raise it"),
    (
        "has not been used|is disabled|permission|service_disabled|forbidden",
        "the key has no access: enable {api} for its project, and check the restrictions of {key}",
    ),
    (
        "is not found|not found for|unknown model|not supported|model_not_found|invalid_model",
        "unknown model for this key: check `model.name` in the agent file",
    ),
    ("overloaded|unavailable|internal error|deadline", "a fault of the service: try again in a minute"),
    ("certificate", "check SSL_CERT_FILE, and whether a proxy decrypts TLS"),
    ("^network|connection lost|handshake", "no connection: check the network, the proxy variables, and {base_url}"),
)
MODEL_HINTS = {
    0: "no answer in time: check the network, and {base_url} if it is set",
    400: "the key is not valid for this API: check {key}",
    401: "the key is not valid: check {key}",
    403: "the key has no access to this model: enable {api} for its project",
    404: "unknown model: check `model.name` in the agent file",
    429: "the quota is exhausted: wait, or raise it",
    1007: "the model rejects this agent's settings: run `offhook check`",
    1008: "unknown model for this key, or an invalid key: check `model.name` and {key}",
    1011: "internal error of the service: try again in a minute",
    3000: "the key is not valid: check {key}",
    4000: "the model rejects this agent's settings: run `offhook check`",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `ok` None: not checked, or not relevant. `hint`: how to fix it."""

    what: str
    ok: bool | None
    says: str
    hint: str = ""


async def examine(settings: Settings, agents: Sequence[Agent], environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Run all checks, in the order in which a call depends on them."""
    async with AsyncExitStack() as stack:
        trust = aiohttp.TCPConnector(ssl=ssl.create_default_context())  # as the environment is now (SSL_CERT_FILE)
        session = aiohttp.ClientSession(connector=trust, cookie_jar=aiohttp.DummyCookieJar())
        http = await stack.enter_async_context(session)
        for finding in _settings(settings):
            yield finding
        yield await _listening(settings, agents, environ, stack)
        async for finding in _public(settings, http):
            yield finding
        async for finding in _account(settings, agents, http):
            yield finding
        yield await _clock(settings, http)
        for agent in agents:
            yield await _model(agent, environ)


def _settings(settings: Settings) -> list[Finding]:
    found = []
    url = urlsplit(settings.public_url)
    if not settings.public_url:
        hint = (
            "set OFFHOOK_PUBLIC_URL to the https address at which Twilio reaches this gateway (`offhook tunnel-help`)"
        )
        found.append(Finding("settings", False, "no public URL", hint))
    elif url.scheme != "https":
        hint = "media streams need TLS: put a proxy with a certificate or a tunnel in front (`offhook tunnel-help`)"
        found.append(Finding("settings", False, f"the public URL is {url.scheme}", hint))
    elif url.path:
        hint = "this works only if the proxy removes the path; a host of its own for the gateway is simpler"
        found.append(Finding("settings", None, f"the public URL has a path, {url.path}", hint))
    if not settings.twilio_auth_tokens:
        hint = "set TWILIO_AUTH_TOKEN to the account's primary token, or no webhook can be verified"
        found.append(Finding("settings", False, "no auth token", hint))
    if settings.insecure:
        found.append(Finding("settings", False, "OFFHOOK_INSECURE=1", "remove it: requests are not authenticated"))
    return found or [Finding("settings", True, settings.public_url)]


async def _listening(
    settings: Settings, agents: Sequence[Agent], environ: Mapping[str, str], stack: AsyncExitStack
) -> Finding:
    """The gateway that already listens, or one started for these checks."""
    from offhook.gateway.app import Gateway

    where = f"{settings.host}:{settings.port}"
    probe = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    probe.settimeout(1.0)
    with probe:
        taken = settings.port != 0 and await asyncio.to_thread(probe.connect_ex, (settings.host, settings.port)) == 0
    if taken:
        return Finding("port", True, f"a server listens on {where}: assumed to be the gateway")
    if not agents:
        return Finding("port", None, f"nothing listens on {where}", "name an agent file, and a gateway is started")
    try:
        await stack.enter_async_context(Gateway(settings, agents, environ).listening())
    except OperatorError as error:
        return Finding("port", False, str(error), "see above")
    return Finding("port", True, f"{where} is free; a gateway was started there for these checks")


async def _public(settings: Settings, http: aiohttp.ClientSession) -> AsyncIterator[Finding]:
    if not settings.public_url:
        return
    host = urlsplit(settings.public_url).hostname or ""
    try:
        addresses = {a[4][0] for a in await asyncio.get_running_loop().getaddrinfo(host, None)}
    except OSError:
        yield Finding(
            "name", False, f"{host} has no address", "check the host of OFFHOOK_PUBLIC_URL, and its DNS record"
        )
        return
    yield Finding("name", True, f"{host} is {', '.join(sorted(map(str, addresses)))}")
    secure = urlsplit(settings.public_url).scheme == "https"
    if secure:
        certificate = await _certificate(host, urlsplit(settings.public_url).port or 443)
        yield certificate
        if certificate.ok is False and not certificate.says.startswith("expires"):
            return
    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with http.get(settings.public_url + "/livez", timeout=timeout, allow_redirects=False) as answer:
            body = await answer.content.read(100)
    except (aiohttp.ClientError, TimeoutError) as error:
        yield Finding("public URL", False, f"no connection ({type(error).__name__})", _UNREACHED)
        return
    if answer.status != 200 or body.strip() != b"alive":
        hint = HTTP_HINTS.get(answer.status, "does the proxy or tunnel lead to this gateway's port?")
        if 300 <= answer.status < 400:
            there = answer.headers.get("Location", "")[:100]
            hint = f"streams do not follow redirections: set OFFHOOK_PUBLIC_URL to where this leads ({there})"
        yield Finding("public URL", False, f"/livez answered {answer.status}", hint)
        return
    yield Finding("public URL", True, "the gateway answers there")
    yield await _webhook(settings, http)
    yield await _upgrade(settings, http)
    yield await _refused_outside(settings, http)


async def _certificate(host: str, port: int) -> Finding:
    """The TLS certificate at the public URL, verified as strictly as Twilio verifies it."""
    what = "certificate"
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port, ssl=ssl.create_default_context())
    except ssl.SSLCertVerificationError as error:
        hint = "Twilio accepts certificates of public authorities only, with the full chain: fix the proxy's"
        return Finding(what, False, error.verify_message or "not trusted", hint)
    except (ssl.SSLError, ConnectionResetError):
        return Finding(what, False, "no TLS there", "the public URL must lead to a port that speaks TLS")
    except (OSError, TimeoutError) as error:
        return Finding(what, False, f"no connection to {host}:{port} ({type(error).__name__})", _UNREACHED)
    found = writer.get_extra_info("peercert")
    writer.close()
    days = (ssl.cert_time_to_seconds(found["notAfter"]) - time.time()) / 86_400
    if days < CERTIFICATE_DAYS_MIN:
        return Finding(what, False, f"expires in {days:.0f} days", "renew it now, and automate the renewal")
    return Finding(what, True, f"valid for {days:.0f} days")


async def _webhook(settings: Settings, http: aiohttp.ClientSession) -> Finding:
    """A webhook signed as Twilio signs it, for a call that does not exist: it has no effect."""
    if not settings.twilio_auth_tokens:
        return Finding("webhook", None, "not checked: no auth token")
    url, form = settings.public_url + "/twilio/status", {"CallSid": NO_CALL}
    headers = {SIGNATURE_HEADER: sign(settings.twilio_auth_tokens[0], url, form)}
    try:
        async with http.post(url, data=form, headers=headers, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as answer:
            status = answer.status
    except (aiohttp.ClientError, TimeoutError) as error:
        return Finding("webhook", False, f"no answer ({type(error).__name__})", "see the proxy's log")
    if status == 204:
        return Finding("webhook", True, "a signed webhook is accepted")
    if status == 403:
        hint = "the gateway that runs has another OFFHOOK_PUBLIC_URL or TWILIO_AUTH_TOKEN, or a proxy changes the path"
        return Finding("webhook", False, "a signed webhook is refused (403)", hint)
    return Finding("webhook", False, f"answered {status}", HTTP_HINTS.get(status, "see the gateway's log"))


async def _upgrade(settings: Settings, http: aiohttp.ClientSession) -> Finding:
    """The media stream's WebSocket upgrade, up to the 101."""
    url = settings.public_url.replace("http", "ws", 1) + "/twilio/media"
    token = next(iter(settings.twilio_auth_tokens), "")
    try:
        socket_ = await http.ws_connect(
            url,
            headers={SIGNATURE_HEADER: sign(token, url)},
            compress=15,
            timeout=aiohttp.ClientWSTimeout(ws_close=2.0),
        )
    except aiohttp.WSServerHandshakeError as error:
        hints = {
            400: "the proxy does not forward WebSockets: it must pass on `Upgrade` and `Connection`",
            403: "the gateway that runs has another OFFHOOK_PUBLIC_URL or TWILIO_AUTH_TOKEN",
            426: "the proxy does not forward WebSockets: it must pass on `Upgrade` and `Connection`",
        }
        hint = hints.get(error.status) or HTTP_HINTS.get(error.status, "see the proxy's log")
        return Finding("media stream", False, f"{url} answered {error.status}, not 101", hint)
    except (aiohttp.ClientError, TimeoutError) as error:
        return Finding("media stream", False, f"no answer ({type(error).__name__})", "see the proxy's log")
    compressed = bool(socket_.compress)
    with suppress(aiohttp.ClientError, ConnectionError):
        await socket_.close()
    if compressed:
        hint = "a proxy compresses WebSocket messages: disable that, audio does not shrink"
        return Finding("media stream", False, "101, with permessage-deflate", hint)
    return Finding("media stream", True, f"{url} answers 101")


OPERATORS_ONLY = ("/metrics", "/console", "/console/api/calls", "/livez/../metrics")


async def _refused_outside(settings: Settings, http: aiohttp.ClientSession) -> Finding:
    """Console and metrics at the public URL, requested as anyone on the internet may request them."""
    what, served = "privacy", []
    for path in OPERATORS_ONLY:
        for headers in ({}, {"Host": f"localhost:{settings.port}"}, {"X-Forwarded-For": "127.0.0.1"}):
            url = URL(settings.public_url + path, encoded=True)
            try:
                timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
                async with http.get(url, headers=headers, timeout=timeout, allow_redirects=False) as answer:
                    if answer.status < 300:
                        served.append(path)
            except aiohttp.ClientConnectionError:
                pass  # a proxy that closes the connection refuses, too
            except (aiohttp.ClientError, TimeoutError) as error:
                return Finding(what, False, f"{path}: no answer ({type(error).__name__})", "see the proxy's log")
    if served:
        hint = (
            f"transcripts and metrics are public: the proxy must lead to OFFHOOK_PORT ({settings.port}) alone, not to "
            "the admin listener, and must add no credentials"
        )
        return Finding(what, False, f"{', '.join(dict.fromkeys(served))} answered without a token", hint)
    return Finding(what, True, "console and metrics are refused from outside")


async def _account(settings: Settings, agents: Sequence[Agent], http: aiohttp.ClientSession) -> AsyncIterator[Finding]:
    try:
        rest = rest_for(settings, http)
    except OperatorError as error:
        yield Finding("Twilio", False, "no credentials", str(error))
        return
    try:
        account = await rest.account()
        numbers = {number.number: number for number in await rest.numbers()}
    except TwilioError as error:
        hint = "see status.twilio.com, and OFFHOOK_TWILIO_BASE_URL if it is set"
        if error.status in (401, 403):
            hint = "the SID, token or key is wrong, or belongs to another region (US1 credentials fail elsewhere)"
        yield Finding("Twilio", False, str(error), hint)
        return
    if account.status != "active":
        hint = ACCOUNT_HINTS.get(account.status, "see the Twilio console")
        yield Finding("Twilio", False, f"the account is {account.status}", hint)
        return
    if account.trial:
        hint = (
            "trial calls begin with Twilio's notice, end after 10 minutes and reach verified numbers only: upgrade it"
        )
        yield Finding("Twilio", None, f"a trial account with {len(numbers)} numbers", hint)
    else:
        yield Finding("Twilio", True, f"the account is active and has {len(numbers)} numbers")
    wanted = [number for agent in agents for number in (*agent.numbers, agent.outbound.caller_id) if number]
    for wants in dict.fromkeys(wanted):
        address = read_address(wants)
        number = numbers.get(address.text)
        if address.kind is not AddressKind.NUMBER:
            yield Finding("number", None, f"{wants} is {address.kind.value}: not checked")
        elif number is None:
            yield Finding("number", False, f"{wants} is not the account's", "buy it, or correct the agent file")
        else:
            yield await _number(rest, number, settings.public_url)


async def _number(rest: TwilioRest, number: PhoneNumber, public_url: str) -> Finding:
    """Where calls to this number go, and whether their reports arrive."""
    name, fix = number.number, f"offhook number set {number.number}"
    goes = await destination(rest, number, public_url) if public_url else HERE
    if goes != HERE:
        if not number.can_voice:
            fix = "use a number with the capability voice"
        return Finding("number", False, f"calls to {name} go {goes}", fix)
    for hook, what in ((number.fallback, "fallback"), (number.status_callback, "status callback")):
        if public_url and _same_origin(hook.url, public_url) and hook.method != "POST":
            says = f"calls to {name} come to this gateway, but its {what} by {hook.method}, which is answered 405"
            return Finding("number", False, says, fix)
    return Finding("number", True, f"calls to {name} come to this gateway")


async def destination(rest: TwilioRest, number: PhoneNumber, public_url: str) -> str:
    """Where a number's calls go: `HERE`, or in words that follow "calls go"."""
    if not number.can_voice:
        return "nowhere: the number has no capability voice"
    if number.receives != "voice":
        return f"nowhere: the number receives {number.receives}"
    if number.trunk_sid:
        return f"to the SIP trunk {number.trunk_sid}: the number's own URLs are ignored"
    if not number.application_sid:
        return _hooked(number.voice, public_url)
    by = f"the application {number.application_sid}: the number's own URLs are ignored"
    try:
        goes = _hooked(await rest.application(number.application_sid), public_url)
    except TwilioError as error:
        return f"to {by}" if error.status == 404 else f"to {by} ({error})"
    return HERE if goes == HERE else f"{goes}, by {by}"


def _hooked(voice: VoiceHook, public_url: str) -> str:
    if not voice.url:
        return "nowhere"
    if not _same_origin(voice.url, public_url) or urlsplit(voice.url).path != _path(public_url) + "/twilio/voice":
        return f"to {voice.url}"
    if voice.method != "POST":
        return f"to {voice.url} by {voice.method}, which is answered with 405"
    return HERE


def _same_origin(url: str, public_url: str) -> bool:
    """Whether both have the same scheme, host and port. Twilio's overrides (`#rc=2`) and user-info do not matter."""
    return bool(url and public_url) and _origin(url) == _origin(public_url)


def _origin(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # no URL
        return url, "", None
    return parts.scheme, parts.hostname or "", port or {"https": 443, "http": 80}.get(parts.scheme)


def _path(public_url: str) -> str:
    return urlsplit(public_url).path.rstrip("/")


async def _clock(settings: Settings, http: aiohttp.ClientSession) -> Finding:
    """This machine's clock against the Date header of Twilio's API (whole seconds)."""
    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with http.get(settings.twilio_base_url, timeout=timeout, allow_redirects=False) as answer:
            off_s = abs(parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time())
    except (aiohttp.ClientError, TimeoutError, KeyError, ValueError) as error:
        return Finding("clock", None, f"not checked ({type(error).__name__})")
    if off_s > CLOCK_OFF_MAX_S:
        return Finding("clock", False, f"{off_s:.0f} s off", "synchronise it by NTP: tokens depend on it")
    return Finding("clock", True, f"correct within {off_s + 1:.0f} s")


async def _model(agent: Agent, environ: Mapping[str, str]) -> Finding:
    """A session with this agent's model, opened and closed."""
    try:
        provider, name = provider_of(agent), name_of(agent)
        models = model_for(provider, environ)
    except OperatorError as error:
        return Finding("model", False, "not configured", str(error))
    began_s = time.monotonic()
    try:
        async with _session(models, agent, name):
            took_ms = (time.monotonic() - began_s) * 1000
    except ModelRefused as error:
        hint = _model_hint(error, environ, provider)
        return Finding("model", False, f"{name} refused ({error.code}: {error.reason[:120]})", hint)
    finally:
        await models.close()
    return Finding("model", True, f"{name} answers: session set up in {took_ms:.0f} ms ({provider})")


def _session(models: Model, agent: Agent, name: str) -> AbstractAsyncContextManager[object]:
    """A session with the agent's settings, on any provider. Entering raises `ModelRefused`."""
    timeout = asyncio.timeout(TIMEOUT_S)
    if isinstance(models, OpenAIModel):
        config = session_config(agent, (), instruction(agent, {}), caller=MULAW_8K, line=MULAW_8K)
        return models.session(name, config, timeout)
    assert isinstance(models, GeminiModel)
    return models.session(name, live_config(agent, (), instruction(agent, {})), timeout)


def _model_hint(error: ModelRefused, environ: Mapping[str, str], provider: str = "gemini") -> str:
    """How to fix a refusal, by its reason, else by its code."""
    found = (hint for reason, hint in MODEL_HINTS_BY_REASON if re.search(reason, error.reason, re.IGNORECASE))
    hint = next(found, MODEL_HINTS.get(error.code, "see the reason above"))
    if provider == "openai":
        return hint.format(key="OPENAI_API_KEY", base_url="OPENAI_BASE_URL", api="the Realtime API")
    key = "GOOGLE_API_KEY" if environ.get("GOOGLE_API_KEY") else "GEMINI_API_KEY"  # the SDK's order
    base_url = "GOOGLE_VERTEX_BASE_URL" if environ.get("GOOGLE_VERTEX_BASE_URL") else "GOOGLE_GEMINI_BASE_URL"
    return hint.format(key=key, base_url=base_url, api="the Gemini API")
