"""`offhook doctor`: checks of all that a call needs, each failure with a hint how to fix it.

The public URL is requested as Twilio would request it: through DNS, TLS and every proxy, with signed requests. A
gateway that already listens on the configured port is checked; otherwise one is started for the checks.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from offhook.gateway.agent.spec import Agent
from offhook.gateway.carriers.twilio.rest import PhoneNumber, TwilioError
from offhook.gateway.carriers.twilio.signature import SIGNATURE_HEADER, sign
from offhook.gateway.carriers.twilio.webhooks import rest_for
from offhook.gateway.config import Settings
from offhook.gateway.errors import ModelRefused, OperatorError

__all__ = ["Finding", "examine", "points_here"]

TIMEOUT_S = 10.0
CLOCK_OFF_MAX_S = 60.0  # the validity of tokens and certificates depends on the clock
CERTIFICATE_DAYS_MIN = 14.0
NO_CALL = "CA" + "0" * 32

_UNREACHED = "open the port to the internet, or start the tunnel (a router may also refuse its own public address)"
HTTP_HINTS = {
    404: "another server answers there: does the proxy or tunnel lead to this gateway's port?",
    502: "the proxy cannot reach the gateway: is it running, and on the port that the proxy is configured with?",
    503: "the gateway or its proxy accepts no requests at the moment: is it draining?",
    504: "the gateway did not answer the proxy: check its address and port",
}
MODEL_HINTS = {
    0: "no answer in time: check the network, and GOOGLE_GEMINI_BASE_URL if it is set",
    400: "the key is not valid for this API: check GEMINI_API_KEY",
    401: "the key is not valid: check GEMINI_API_KEY",
    403: "the key has no access to this model: enable the Gemini API for its project",
    404: "unknown model: check `model.name` in the agent file",
    429: "the quota is exhausted: wait, or raise it",
    1007: "the model rejects this agent's settings: run `offhook check`",
    1008: "unknown model for this key, or an invalid key: check `model.name` and GEMINI_API_KEY",
    1011: "internal error of the service: try again in a minute",
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
        status = await rest.account_status()
        numbers = {number.number: number for number in await rest.numbers()}
    except TwilioError as error:
        hint = "see status.twilio.com, and OFFHOOK_TWILIO_BASE_URL if it is set"
        if error.status in (401, 403):
            hint = "the SID, token or key is wrong, or belongs to another region (US1 credentials fail elsewhere)"
        yield Finding("Twilio", False, str(error), hint)
        return
    if status != "active":
        yield Finding("Twilio", False, f"the account is {status}", "see the Twilio console")
        return
    yield Finding("Twilio", True, f"the account is active and has {len(numbers)} numbers")
    wanted = [number for agent in agents for number in (*agent.numbers, agent.outbound.caller_id) if number]
    for wants in dict.fromkeys(wanted):
        number = numbers.get(wants)
        if number is None:
            yield Finding("number", False, f"{wants} is not the account's", "buy it, or correct the agent file")
        elif settings.public_url and not points_here(number, settings.public_url):
            hint = f"offhook number set {wants}"
            yield Finding("number", False, f"calls to {wants} go to {number.voice_url or 'nowhere'}", hint)
        else:
            yield Finding("number", True, f"calls to {wants} come to this gateway")


def points_here(number: PhoneNumber, public_url: str) -> bool:
    """Whether this number's calls come to the gateway at `public_url`."""
    return number.voice_url == f"{public_url}/twilio/voice"


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
    from offhook.gateway.models.gemini.client import GeminiModel, GeminiSettings
    from offhook.gateway.models.gemini.setup import instruction, live_config, model_name

    what, name = "model", model_name(agent)
    try:
        models = GeminiModel(GeminiSettings.read(environ))
    except OperatorError as error:
        return Finding(what, False, "not configured", str(error))
    began_s = time.monotonic()
    try:
        config = live_config(agent, (), instruction(agent, {}))
        async with models.session(name, config, asyncio.timeout(TIMEOUT_S)):
            took_ms = (time.monotonic() - began_s) * 1000
    except ModelRefused as error:
        hint = MODEL_HINTS.get(error.code, "see the reason above")
        return Finding(what, False, f"{name} refused ({error.code}: {error.reason[:120]})", hint)
    finally:
        await models.close()
    return Finding(what, True, f"{name} answers: session set up in {took_ms:.0f} ms")
