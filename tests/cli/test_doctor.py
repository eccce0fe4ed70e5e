"""`offhook doctor` and the other commands, against a gateway behind a TLS proxy and a simulated Twilio."""

from __future__ import annotations

import asyncio
import datetime
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import trustme
from typer.testing import CliRunner

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.cli import doctor
from offhook.gateway.cli.doctor import Finding, examine
from offhook.gateway.cli.main import app
from offhook.gateway.config import Settings, settings_from
from offhook.gateway.errors import ModelRefused, OperatorError
from offhook.gateway.rehearsal.model.reached import model_environ
from offhook.gateway.rehearsal.model.script import Close, Reply, Script
from offhook.gateway.rehearsal.model.script import Say as Speak
from offhook.gateway.rehearsal.phone.steps import HangUp, Pause, WaitForAgent
from offhook.gateway.rehearsal.phone.twilio_account import Callee
from tests.carriers.twilio.telephone_rig import API_TOKEN, Exchange, exchange

AGENTS = {
    "desk": ("greeting: {text: Greet.}", Script((Reply("text", (Speak("Hello.", length_ms=500),)),))),
    "refused": ("", Script(refuse=Close(1008, "models/unknown is not found"))),
}


CONSOLE_TOKEN = "console-token-canary"


@asynccontextmanager
async def tls_proxy(
    *, trusted: bool = True, days: float = 90.0, swap: tuple[bytes, bytes] = (b"", b"")
) -> AsyncIterator[tuple[str, list[int], str]]:
    """Its URL, where its target's port is to be put, and the trusted CA's file. `swap`: what it changes on the way."""
    authority, port = trustme.CA(), []
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    certificate = (authority if trusted else trustme.CA()).issue_cert("localhost", not_after=until)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection("127.0.0.1", port[0])

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError, ssl.SSLError):
                while data := await source.read(65_536):
                    sink.write(data.replace(*swap) if swap[0] else data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(copy(reader, onward), copy(there, writer))

    server = await asyncio.start_server(pipe, "127.0.0.1", 0, ssl=context)
    with authority.cert_pem.tempfile() as ca_file:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}", port, ca_file
    server.close()


@asynccontextmanager
async def behind(**proxy: Any) -> AsyncIterator[tuple[Exchange, Settings, dict[str, str]]]:
    calls = Callee((WaitForAgent("end"), Pause(100), HangUp()))
    async with (
        tls_proxy(**proxy) as (url, port, ca_file),
        exchange(
            AGENTS, environ={"OFFHOOK_PUBLIC_URL": url, "OFFHOOK_CONSOLE_TOKEN": CONSOLE_TOKEN}, callees=lambda _: calls
        ) as x,
    ):
        x.twilio.public_url = url
        port.append(int(x.url.rpartition(":")[2]))
        for number in x.twilio.numbers.values():
            number["voice_url"] = f"{url}/twilio/voice"
        # Both are trusted: the proxy, and the rehearsal model with its own authority.
        both = Path(ca_file).read_text() + Path(x.model.ca_path).read_text()
        Path(ca_file).write_text(both)
        environ = {**model_environ(x.model), **x.twilio.environ(), "OFFHOOK_API_TOKEN": API_TOKEN}
        # The commands and their TLS read the process's own environment.
        with mock.patch.dict(os.environ, {**environ, "SSL_CERT_FILE": ca_file}):
            yield x, replace(x.gateway.settings, port=port[0]), dict(os.environ)


async def found(settings: Settings, x: Exchange, environ: dict[str, str], agent: str = "desk") -> dict[str, Finding]:
    agents = [a for a in x.gateway.agents if a.name == agent]
    return {finding.what: finding async for finding in examine(settings, agents, environ)}


WHAT = ["settings", "port", "name", "certificate", "public URL", "webhook", "media stream", "privacy"]
WHAT += ["Twilio", "number", "clock", "model"]


async def test_all_is_well() -> None:
    async with behind() as (x, settings, environ):
        findings = await found(settings, x, environ)
    assert list(findings) == WHAT
    assert {f.ok for f in findings.values()} == {True}
    assert not any(f.hint for f in findings.values())


async def test_each_failure_comes_with_a_hint() -> None:
    async with behind() as (x, settings, environ):
        model = await found(settings, x, environ, "refused")
        assert model["model"].ok is False
        assert "model.name" in model["model"].hint

        other = await found(replace(settings, twilio_auth_tokens=("another",)), x, environ)
        assert (other["webhook"].ok, other["media stream"].ok, other["Twilio"].ok) == (False, False, False)
        assert "another OFFHOOK_PUBLIC_URL or TWILIO_AUTH_TOKEN" in other["webhook"].hint
        assert "region" in other["Twilio"].hint

        for number in x.twilio.numbers.values():
            number["voice_url"] = "https://demo.twilio.com/welcome"
        astray = await found(settings, x, environ)
        assert astray["number"].hint == f"offhook number set {x.numbers['desk']}"
        x.twilio.numbers.clear()
        assert "not the account's" in (await found(settings, x, environ))["number"].says

        long_ago = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
        with mock.patch.object(doctor, "parsedate_to_datetime", return_value=long_ago):
            assert "NTP" in (await doctor._clock(settings, x.http)).hint

        bare = await found(replace(settings, public_url="", twilio_auth_tokens=(), insecure=True), x, environ)
        assert bare["settings"].ok is False
        assert "public URL" not in bare
        assert "TWILIO_AUTH_TOKEN" in bare["Twilio"].hint


@pytest.mark.parametrize(
    ("public_url", "what", "says"),
    [
        ("https://no-such-host.invalid", "name", "has no address"),
        ("https://localhost:9", "certificate", "no connection to localhost:9"),
        ("http://localhost:9", "public URL", "no connection"),
        ("https://localhost:{port}", "certificate", "no TLS there"),
        ("http://localhost:{port}", "settings", "the public URL is http"),
        ("http://localhost:{port}/deep", "public URL", "answered 404"),
    ],
)
async def test_a_public_url_that_leads_nowhere(public_url: str, what: str, says: str) -> None:
    async with exchange(AGENTS) as x:
        port = int(x.url.rpartition(":")[2])
        settings = replace(x.gateway.settings, public_url=public_url.format(port=port), port=port)
        findings = await found(settings, x, dict(os.environ))
    assert findings[what].ok is False
    assert says in findings[what].says
    assert findings[what].hint


@pytest.mark.parametrize(
    ("proxy", "what", "says", "hint"),
    [
        ({"trusted": False}, "certificate", "issuer", "public authorities"),
        ({"days": 5.0}, "certificate", "expires in 5 days", "renew it now"),
        (
            {"swap": (b"Upgrade: websocket", b"X-grade: websocket")},
            "media stream",
            "400, not 101",
            "must pass on `Upgrade`",
        ),
        (
            {"swap": (b"Host: ", f"Authorization: Bearer {CONSOLE_TOKEN}\r\nHost: ".encode())},
            "privacy",
            "/metrics, /console, /console/api/calls answered without a token",
            "not to the admin listener",
        ),
    ],
)
async def test_a_proxy_that_is_not_right(proxy: dict[str, Any], what: str, says: str, hint: str) -> None:
    async with behind(**proxy) as (x, settings, environ):
        findings = await found(settings, x, environ)
    assert findings[what].ok is False
    assert says in findings[what].says
    assert hint in findings[what].hint


# --- the commands


async def run(environ: dict[str, str], *arguments: str) -> Any:
    with mock.patch.dict(os.environ, environ):
        return await asyncio.to_thread(CliRunner().invoke, app, list(arguments))


async def test_the_commands() -> None:
    async with behind() as (x, settings, _):
        here = {"OFFHOOK_PORT": str(settings.port), "OFFHOOK_PUBLIC_URL": settings.public_url}
        number = x.numbers["desk"]
        x.twilio.numbers[next(iter(x.twilio.numbers))] |= {"voice_url": "https://demo.twilio.com/welcome"}
        assert f"{number}     " in (await run(here, "number", "list")).output
        pointed = await run(here, "number", "set", number)
        assert pointed.output == f"{number}: https://demo.twilio.com/welcome -> {settings.public_url}/twilio/voice\n"
        entry = next(n for n in x.twilio.numbers.values() if n["phone_number"] == number)
        assert entry["voice_fallback_url"] == f"{settings.public_url}/twilio/fallback"
        assert entry["status_callback"] == f"{settings.public_url}/twilio/status"
        assert "here" in (await run(here, "number", "list")).output
        called = await run(here, "call", "+15550301234", "--agent", "desk", "--var", "who=Ann")
        assert called.exit_code == 0
        assert called.output.splitlines()[-1].startswith("completed")
        assert API_TOKEN not in called.output
        refused = await run(here, "call", "5551234")
        assert isinstance(refused.exception, OperatorError)
        assert "has no country code: write it with its country code, as in +15551234567" in str(refused.exception)
        missing = await run(here, "number", "set", "+15550999999")
        assert "offhook number list" in str(missing.exception)
        national = await run(here, "number", "set", "555-123-4567")
        assert "has no country code" in str(national.exception)
        helped = await run(here, "tunnel-help")
        assert f"http://localhost:{settings.port}" in helped.output
        assert f"lead to port {settings.port} alone" in helped.output
        nobody = await run({"OFFHOOK_PORT": "9"}, "call", "+15550301234")
        assert "start it first" in str(nobody.exception)
        assert settings_from(os.environ).api_token == API_TOKEN


# --- where a number's calls go

AP, TK = "AP" + "3" * 32, "TK" + "4" * 32


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"voice_application_sid": AP},
            f"calls to {{n}} go to the application {AP}: the number's own URLs",
        ),
        ({"trunk_sid": TK}, f"calls to {{n}} go to the SIP trunk {TK}"),
        ({"voice_method": "GET"}, "/twilio/voice by GET, which is answered with 405"),
        ({"voice_receive_mode": "fax"}, "go nowhere: the number receives fax"),
        ({"capabilities": {"voice": False, "sms": True}}, "go nowhere: the number has no capability voice"),
        ({"voice_url": ""}, "go nowhere"),
        ({"voice_url": "{url}/twilio/voice/"}, "go to https://"),
        ({"voice_url": "https://voice.example.net/twilio/voice"}, "go to https://voice.example.net"),
        ({"status_callback": "{url}/twilio/status", "status_callback_method": "GET"}, "its status callback by GET"),
        ({"voice_fallback_url": "{url}/twilio/fallback", "voice_fallback_method": "GET"}, "its fallback by GET"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_number_whose_calls_go_elsewhere(fields: dict[str, Any], says: str) -> None:
    async with exchange(AGENTS, environ={"OFFHOOK_PUBLIC_URL": "https://voice.example.com"}) as x:
        number, url = x.numbers["desk"], "https://voice.example.com"
        entry = next(entry for entry in x.twilio.numbers.values() if entry["phone_number"] == number)
        entry |= {"voice_url": f"{url}/twilio/voice", "voice_method": "POST"}
        entry |= {name: value.format(url=url) if isinstance(value, str) else value for name, value in fields.items()}
        agents = [agent for agent in x.gateway.agents if agent.name == "desk"]
        before = [f async for f in doctor._account(x.gateway.settings, agents, x.http) if f.what == "number"]
        assert [f.ok for f in before] == [False]
        assert says.format(n=number) in before[0].says
        environ = {**x.twilio.environ(), "OFFHOOK_PUBLIC_URL": url}
        listed = (await run(environ, "number", "list")).output.splitlines()[0]
        assert listed.endswith(" here") == says.startswith("its ")  # a list has only where calls go
        done = await run(environ, "number", "set", number)
        if "capabilities" in fields:
            assert "its calls still go nowhere" in str(done.exception)
            return
        assert done.output.endswith(f"-> {url}/twilio/voice\n"), done.exception
        after = [f async for f in doctor._account(x.gateway.settings, agents, x.http) if f.what == "number"]
        assert [f.ok for f in after] == [True]
        assert (await run(environ, "number", "list")).output.splitlines()[0].endswith(" here")


@pytest.mark.parametrize(
    "fields",
    [
        {"voice_url": "https://voice.example.com/twilio/voice#rc=2&rt=5000"},  # Twilio's connection overrides
        {"voice_url": "https://user:word@Voice.example.com:443/twilio/voice"},
        {"voice_url": "https://elsewhere.example", "voice_application_sid": AP},  # it leads here
    ],
)
async def test_a_number_that_comes_here_in_other_words(fields: dict[str, Any]) -> None:
    async with exchange(AGENTS, environ={"OFFHOOK_PUBLIC_URL": "https://voice.example.com"}) as x:
        x.twilio.applications[AP] = {"voice_url": "https://voice.example.com/twilio/voice", "voice_method": "POST"}
        for entry in x.twilio.numbers.values():
            entry |= fields
        findings = [f async for f in doctor._account(x.gateway.settings, x.gateway.agents, x.http)]
        assert {f.ok for f in findings if f.what == "number"} == {True}


@pytest.mark.parametrize(
    ("account", "ok", "hint"),
    [
        ({"status": "suspended"}, False, "check the balance"),
        ({"status": "closed"}, False, "of another account"),
        ({"type": "Trial"}, None, "verified numbers only"),
    ],
)
async def test_an_account_that_is_not_in_order(account: dict[str, str], ok: bool | None, hint: str) -> None:
    async with exchange(AGENTS) as x:
        x.twilio.account |= account
        findings = [f async for f in doctor._account(x.gateway.settings, x.gateway.agents, x.http)]
        assert (findings[0].what, findings[0].ok) == ("Twilio", ok)
        assert hint in findings[0].hint


async def test_a_sip_address_is_no_number_of_the_account() -> None:
    async with exchange(AGENTS) as x:
        agent = parse_agent("name: a\nnumbers: ['sip:desk@x.sip.twilio.com']\n")
        findings = [f async for f in doctor._account(x.gateway.settings, [agent], x.http)]
        assert [(f.ok, f.says) for f in findings[1:]] == [
            (None, "sip:desk@x.sip.twilio.com is a SIP address: not checked")
        ]


# --- why a model refuses


@pytest.mark.parametrize(
    ("code", "reason", "hint"),
    [
        (1007, "API key expired. Please renew the API key.", "renew it and set GEMINI_API_KEY"),
        (1007, "API key not valid. Please pass a valid API key.", "not valid: check GEMINI_API_KEY"),
        (1007, "User location is not supported for the API use.", "cannot be used from this machine's location"),
        (1008, "Your API key was reported as leaked. Please use another API key.", "create another"),
        (1008, "models/x is not found for API version v1beta", "check `model.name`"),
        (1011, "You exceeded your current quota, please check your plan and billing details", "the quota"),
        (1008, "Generative Language API has not been used in project 1 before or it is disabled", "enable the Gemini"),
        (1011, "The service is currently unavailable.", "try again"),
        (1006, "network: ConnectionRefusedError", "check the network"),
        (1015, "its certificate is not trusted: self-signed", "SSL_CERT_FILE"),
        (1007, "Request contains an invalid argument.", "offhook check"),
        (429, "", "quota"),
        (4999, "?", "see the reason above"),
    ],
)
def test_the_fix_follows_the_reason(code: int, reason: str, hint: str) -> None:
    assert hint in doctor._model_hint(ModelRefused(code, reason), {})


def test_the_fix_names_the_key_that_is_used() -> None:
    error = ModelRefused(1007, "API key expired. Please renew the API key.")
    assert "GOOGLE_API_KEY" in doctor._model_hint(error, {"GOOGLE_API_KEY": "k", "GEMINI_API_KEY": "k"})


async def test_an_expired_key_is_named_by_doctor() -> None:
    script = Script(refuse=Close(1007, "API key expired. Please renew the API key."))
    async with exchange({"desk": ("", script)}) as x:
        finding = await doctor._model(x.gateway.agents[0], model_environ(x.model))
    assert finding.ok is False
    assert "GEMINI_API_KEY" in finding.hint
    assert "offhook check" not in finding.hint


@pytest.mark.parametrize(
    ("script", "ok", "says"),
    [
        (Script(), True, "gpt-realtime-2.1 answers"),
        (Script(refuse=Close(3000, "invalid_request_error.invalid_api_key")), False, "check OPENAI_API_KEY"),
        (Script(refuse=Close(1011, "insufficient_quota")), False, "the quota"),
    ],
)
async def test_doctor_opens_a_session_with_openai(script: Script, ok: bool, says: str) -> None:
    async with exchange({"desk": ("model: {provider: openai}", script)}) as x:
        finding = await doctor._model(x.gateway.agents[0], model_environ(x.model))
    assert finding.ok is ok
    assert says in finding.says + finding.hint
