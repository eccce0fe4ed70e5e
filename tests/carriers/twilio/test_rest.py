"""Twilio's REST calls, over real sockets against a server that answers from a list."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from offhook.gateway.carriers.twilio import rest as module
from offhook.gateway.carriers.twilio.rest import Account, NewCall, PhoneNumber, TwilioError, TwilioRest, VoiceHook
from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal.phone.twilio_account import Callee, SimulatedTwilio

ACCOUNT, SECRET = "AC" + "0" * 32, "planted-canary-secret"
CALL = "CA" + "1" * 32
BASE = f"/2010-04-01/Accounts/{ACCOUNT}"
HANG, DROP, REFUSE = object(), object(), object()  # answers that are none


def problem(status: int, code: int, message: str = "") -> tuple[int, dict[str, Any]]:
    return status, {"status": status, "code": code, "message": message, "more_info": "https://..."}


@dataclass
class FakeTwilio:
    """Answers each request with the next of `answers` (the last one again and again); keeps what was asked."""

    answers: list[Any] = field(default_factory=lambda: [(200, {})])
    asked: list[tuple[str, str, list[tuple[str, str]]]] = field(default_factory=list)
    authorization: list[str] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        form = list((await request.post()).items()) if request.method == "POST" else list(request.query.items())
        self.asked.append((request.method, request.raw_path.partition("?")[0], form))
        self.authorization.append(request.headers.get("Authorization", ""))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is HANG:
            await asyncio.sleep(30)
        if answer is DROP:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        status, body, *headers = answer
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, headers=headers[0] if headers else None)


@pytest.fixture
async def twilio() -> AsyncIterator[FakeTwilio]:
    fake = FakeTwilio()
    app = web.Application(client_max_size=1 << 20)
    app.router.add_route("*", "/{path:.*}", fake.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    await runner.cleanup()


@pytest.fixture
async def rest(twilio: FakeTwilio) -> AsyncIterator[TwilioRest]:
    async with aiohttp.ClientSession() as http:
        yield TwilioRest(http, ACCOUNT, SECRET, base_url=twilio.url, timeout_s=0.3, backoff_s=0.0)


# --- a live call


async def test_hang_up(twilio, rest):
    assert await rest.hang_up(CALL) is True
    assert twilio.asked == [("POST", f"{BASE}/Calls/{CALL}.json", [("Status", "completed")])]
    assert base64.b64decode(twilio.authorization[0].removeprefix("Basic ")).decode() == f"{ACCOUNT}:{SECRET}"


async def test_an_api_key_instead_of_the_auth_token(twilio):
    async with aiohttp.ClientSession() as http:
        await TwilioRest(http, ACCOUNT, SECRET, user="SK123", base_url=twilio.url).hang_up(CALL)
    assert base64.b64decode(twilio.authorization[0].removeprefix("Basic ")).decode() == f"SK123:{SECRET}"


async def test_run_twiml_and_redirect(twilio, rest):
    document = "<Response><Say>Tschüss &amp; bye + </Say></Response>"
    assert await rest.run_twiml(CALL, document) is True
    assert await rest.redirect(CALL, "https://h/after?a=1&b=2", fallback_url="https://h/f") is True
    assert await rest.redirect(CALL, "https://h/after") is True
    assert [form for _, _, form in twilio.asked] == [
        [("Twiml", document)],
        [("Url", "https://h/after?a=1&b=2"), ("Method", "POST"), ("FallbackUrl", "https://h/f")],
        [("Url", "https://h/after"), ("Method", "POST")],
    ]


@pytest.mark.parametrize(
    "answer",
    [
        problem(404, 20404, "The requested resource was not found"),
        problem(400, 21220, "Call is not in-progress. Cannot redirect."),
        (404, "<html>not found</html>"),
    ],
)
async def test_a_call_that_is_over_is_an_answer(twilio, rest, answer):
    twilio.answers = [answer]
    assert await rest.hang_up(CALL) is False
    assert await rest.run_twiml(CALL, "<Response/>") is False
    assert await rest.redirect(CALL, "https://h") is False
    assert len(twilio.asked) == 3


# --- what is repeated, and what must not be

CHANGES = {
    "hang_up": lambda rest: rest.hang_up(CALL),
    "set_number": lambda rest: rest.set_number(PhoneNumber("PN1", "+1"), voice_url="https://h"),
    "account": lambda rest: rest.account(),
}
ONCE = {
    "run_twiml": lambda rest: rest.run_twiml(CALL, "<Response/>"),
    "redirect": lambda rest: rest.redirect(CALL, "https://h"),
    "place_call": lambda rest: rest.place_call(NewCall(to="+1", caller_id="+2", url="https://h")),
}
FAULTS = {"500": (500, "oops"), "503": problem(503, 20503), "hang": HANG, "drop": DROP}
FINE = (200, {"sid": CALL, "call_sid": CALL, "status": "completed"})


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", CHANGES)
async def test_what_may_happen_twice_is_repeated(twilio, rest, call, fault):
    twilio.answers = [FAULTS[fault], FAULTS[fault], FINE]
    await CHANGES[call](rest)
    assert len(twilio.asked) == 3
    assert twilio.asked[0] == twilio.asked[2]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", ONCE)
async def test_what_must_not_happen_twice_is_not_repeated(twilio, rest, call, fault):
    twilio.answers = [FAULTS[fault], FINE]
    with pytest.raises(TwilioError):
        await ONCE[call](rest)
    assert len(twilio.asked) == 1


@pytest.mark.parametrize("call", [*CHANGES, *ONCE])
async def test_too_many_requests_are_repeated(twilio, rest, call):
    twilio.answers = [problem(429, 20429), problem(429, 20429), FINE]
    await (CHANGES | ONCE)[call](rest)
    assert len(twilio.asked) == 3


async def test_repeating_ends(twilio, rest):
    twilio.answers = [problem(429, 20429, "Too Many Requests")]
    with pytest.raises(TwilioError, match="hang up failed") as caught:
        await rest.hang_up(CALL)
    assert (caught.value.status, caught.value.code, len(twilio.asked)) == (429, 20429, module.TRIES)


async def test_retry_after_is_followed_within_reason(twilio, rest, monkeypatch):
    waited = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waited.append(seconds)
        await sleep(0)

    monkeypatch.setattr(module.asyncio, "sleep", noted)
    for retry_after in ("2", "86400", "Wed, 21 Oct 2026 07:28:03 GMT", "-1", "٣", "1.5"):
        headers = {"Retry-After": retry_after, "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}
        twilio.answers = [(429, {}, headers), FINE]
        await rest.hang_up(CALL)
    assert waited == [2.0, module.MAX_WAIT_S, 3.0, 0.0, 0.0, 1.5]


@pytest.mark.parametrize("call", [*CHANGES, *ONCE])
async def test_no_connection_is_tried_again_and_told(call, unused_tcp_port_factory):
    async with aiohttp.ClientSession() as http:
        nobody = TwilioRest(
            http, ACCOUNT, SECRET, base_url=f"http://127.0.0.1:{unused_tcp_port_factory()}", backoff_s=0.0
        )
        with pytest.raises(TwilioError, match="no connection to 127"):
            await (CHANGES | ONCE)[call](nobody)


async def test_a_hanging_request_ends_in_time(twilio, rest):
    twilio.answers = [HANG]
    async with asyncio.timeout(5):
        with pytest.raises(TwilioError, match="no answer in time"):
            await rest.run_twiml(CALL, "<Response/>")


async def test_a_refusal_is_not_repeated(twilio, rest):
    twilio.answers = [problem(401, 20003, "Authenticate")]
    with pytest.raises(TwilioError, match=r"hang up failed \(401, code 20003: Authenticate\)"):
        await rest.hang_up(CALL)
    assert len(twilio.asked) == 1


async def test_redirect_with_credentials_not_followed(twilio, rest):
    twilio.answers = [(307, "", {"Location": "/elsewhere"})]
    with pytest.raises(TwilioError):
        await rest.hang_up(CALL)
    assert len(twilio.asked) == 1


@pytest.mark.parametrize("body", ["", "<html>", "[]", "null", "[" * 100_000, "\x00", '{"sid": 3}', "{}"])
async def test_answers_that_are_none(twilio, rest, body):
    twilio.answers = [(200, body)]
    with pytest.raises(TwilioError, match="names no call"):
        await rest.place_call(NewCall(to="+1", caller_id="+2", url="https://h"))
    assert await rest.account() == Account("")
    assert await rest.numbers() == []


async def test_an_endless_answer_is_cut_off(twilio, rest, monkeypatch):
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 1000)
    twilio.answers = [(200, " " * 2000 + "{}")]
    with pytest.raises(TwilioError):
        await rest.account()


# --- new legs


async def test_place_call_in_full(twilio, rest):
    twilio.answers = [(201, {"sid": CALL})]
    sid = await rest.place_call(
        NewCall(
            to="+15550001111",
            caller_id="+15559998888",
            url="https://h/twilio/voice?agent=a&b",
            status_callback_url="https://h/status",
            ring_s=30,
            limit_s=600,
            machine_detection="Enable",
            machine_callback_url="https://h/amd",
        )
    )
    assert sid == CALL
    method, path, form = twilio.asked[0]
    assert (method, path) == ("POST", f"{BASE}/Calls.json")
    assert sorted(form) == [
        ("AsyncAmd", "true"),
        ("AsyncAmdStatusCallback", "https://h/amd"),
        ("From", "+15559998888"),
        ("MachineDetection", "Enable"),
        ("StatusCallback", "https://h/status"),
        ("StatusCallbackEvent", "answered"),
        ("StatusCallbackEvent", "completed"),
        ("StatusCallbackEvent", "initiated"),
        ("StatusCallbackEvent", "ringing"),
        ("TimeLimit", "600"),
        ("Timeout", "30"),
        ("To", "+15550001111"),
        ("Url", "https://h/twilio/voice?agent=a&b"),
    ]


async def test_place_call_at_its_least(twilio, rest):
    twilio.answers = [(201, {"sid": CALL})]
    await rest.place_call(NewCall(to="+1", caller_id="+2", url="https://h"))
    assert twilio.asked[0][2] == [("To", "+1"), ("From", "+2"), ("Url", "https://h"), ("Timeout", "60")]


@pytest.mark.parametrize("sid", ["../../Accounts/AC9", "a?b", "a#b", "a b", "%2e%2e", ".."])
async def test_a_strange_sid_leads_nowhere_else(twilio, rest, sid):
    await rest.hang_up(sid)
    path = twilio.asked[0][1]
    assert path.startswith(f"{BASE}/Calls/")
    assert path.endswith(".json")
    assert path.count("/") == f"{BASE}/Calls/".count("/")


# --- numbers


async def test_calls_placed_since_then_are_found(twilio, rest):
    since_s = 1_796_000_000.0
    dates = {"before": -60, "apart": -4, "after": 10}
    calls = [{"sid": sid, "date_created": formatdate(since_s + by_s, usegmt=True)} for sid, by_s in dates.items()]
    twilio.answers = [(200, {"calls": [*calls, {"sid": "undated", "date_created": None}, "no call"]})]
    assert await rest.calls("+1", "+2", since_s) == ["apart", "after", "undated"]  # no phone rings twice
    assert twilio.asked == [("GET", f"{BASE}/Calls.json", [("To", "+1"), ("From", "+2"), ("PageSize", "50")])]


async def test_the_simulated_account_lists_what_was_placed():
    busy = SimulatedTwilio(callees=lambda _: Callee(answers="busy", ring_s=0.0))
    async with busy as account, aiohttp.ClientSession() as http:
        rest = TwilioRest(http, account.account_sid, account.auth_token, base_url=account.url)
        began_s = time.time()
        sid = await rest.place_call(NewCall(to="+1", caller_id="+2", url="http://127.0.0.1:9/voice"))
        assert await rest.calls("+1", "+2", began_s) == [sid]
        assert await rest.calls("+1", "+3", began_s) == await rest.calls("+1", "+2", began_s + 60) == []


def listed(number: str, **more: object) -> dict[str, object]:
    return {"sid": "PN" + number, "phone_number": number, "friendly_name": None, "voice_url": "https://v", **more}


async def test_numbers_over_pages(twilio, rest):
    following = f"{BASE}/IncomingPhoneNumbers.json?PageSize=1000&Page=1&PageToken=PA%2B1"
    twilio.answers = [
        (200, {"incoming_phone_numbers": [listed("+1"), None], "next_page_uri": following}),
        (200, {"incoming_phone_numbers": [listed("+2", status_callback="https://s")], "next_page_uri": None}),
    ]
    assert await rest.numbers() == [
        PhoneNumber("PN+1", "+1", voice=VoiceHook("https://v")),
        PhoneNumber("PN+2", "+2", voice=VoiceHook("https://v"), status_callback=VoiceHook("https://s")),
    ]
    assert twilio.asked == [
        ("GET", f"{BASE}/IncomingPhoneNumbers.json", [("PageSize", "1000")]),
        ("GET", f"{BASE}/IncomingPhoneNumbers.json", [("PageSize", "1000"), ("Page", "1"), ("PageToken", "PA+1")]),
    ]


async def test_one_number(twilio, rest):
    twilio.answers = [(200, {"incoming_phone_numbers": [listed("+15550001111")]})]
    assert [n.number for n in await rest.numbers("+15550001111")] == ["+15550001111"]
    assert twilio.asked[0][2] == [("PageSize", "1000"), ("PhoneNumber", "+15550001111")]


@pytest.mark.parametrize("following", ["https://evil.example/x", "//evil.example/x", 7, "loop"])
async def test_pages_stay_on_the_host_and_end(twilio, rest, following):
    following = f"{BASE}/IncomingPhoneNumbers.json?Page=1" if following == "loop" else following
    twilio.answers = [(200, {"incoming_phone_numbers": [listed("+1")], "next_page_uri": following})]
    assert 1 <= len(await rest.numbers()) <= module.MAX_PAGES


async def test_set_number(twilio, rest):
    twilio.answers = [(200, listed("+1", voice_url="https://h/v"))]
    number = await rest.set_number(PhoneNumber("PN1", "+1"), voice_url="https://h/v", status_callback_url="https://h/s")
    assert number.voice == VoiceHook("https://h/v")
    assert twilio.asked == [
        (
            "POST",
            f"{BASE}/IncomingPhoneNumbers/PN1.json",
            [
                ("VoiceUrl", "https://h/v"),
                ("VoiceMethod", "POST"),
                ("StatusCallback", "https://h/s"),
                ("StatusCallbackMethod", "POST"),
            ],
        )
    ]


async def test_set_number_takes_it_off_trunk_and_application(twilio, rest):
    twilio.answers = [(200, listed("+1"))]
    number = PhoneNumber("PN1", "+1", application_sid="AP1", trunk_sid="TK1", receives="fax")
    await rest.set_number(number, voice_url="https://h/v", fallback=VoiceHook("https://h/f", "GET"))
    sent = dict(twilio.asked[0][2])
    assert (sent["TrunkSid"], sent["VoiceApplicationSid"], sent["VoiceReceiveMode"]) == ("", "", "voice")
    assert (sent["VoiceFallbackUrl"], sent["VoiceFallbackMethod"]) == ("https://h/f", "GET")


async def test_a_number_is_read_whole(twilio, rest):
    more = {"voice_application_sid": "AP1", "trunk_sid": "TK1", "voice_method": "get", "voice_receive_mode": "fax"}
    more |= {"capabilities": {"voice": False}, "voice_fallback_url": "https://f", "voice_fallback_method": "GET"}
    twilio.answers = [(200, {"incoming_phone_numbers": [listed("+1", **more)]})]
    (number,) = await rest.numbers()
    assert (number.application_sid, number.trunk_sid, number.receives) == ("AP1", "TK1", "fax")
    assert (number.voice, number.fallback) == (VoiceHook("https://v", "GET"), VoiceHook("https://f", "GET"))
    assert not number.can_voice


async def test_an_application_and_the_account_are_read(twilio, rest):
    twilio.answers = [(200, {"voice_url": "https://v", "voice_method": "GET"}), (200, {"status": "active"})]
    twilio.answers += [(200, {"status": "suspended", "type": "Trial"})]
    assert await rest.application("AP1") == VoiceHook("https://v", "GET")
    assert await rest.account() == Account("active")
    assert await rest.account() == Account("suspended", trial=True)
    assert [path for _, path, _ in twilio.asked] == [f"{BASE}/Applications/AP1.json", f"{BASE}.json", f"{BASE}.json"]


# --- secrets


@pytest.mark.parametrize("answer", [problem(401, 20003, "Authenticate"), (500, "x"), HANG, DROP, (200, "x" * 5000)])
async def test_the_secret_is_in_no_error_and_no_log(twilio, rest, answer, caplog, monkeypatch):
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 1000)
    caplog.set_level(logging.DEBUG)
    twilio.answers = [answer]
    with pytest.raises(TwilioError) as caught:
        await rest.run_twiml(CALL, "<Response/>")
    shown = repr(caught.value) + str(caught.value) + repr(rest) + caplog.text
    assert caught.value.__context__ is None  # aiohttp's own errors carry the request with its headers
    assert caught.value.__cause__ is None
    for hidden in (SECRET, base64.b64encode(f"{ACCOUNT}:{SECRET}".encode()).decode()):
        assert hidden not in shown


async def test_phone_numbers_are_masked_in_errors(twilio, rest):
    twilio.answers = [problem(400, 21211, "The 'To' number +15550001111 is not a valid phone number.")]
    with pytest.raises(TwilioError) as caught:
        await rest.place_call(NewCall(to="+15550001111", caller_id="+2", url="https://h"))
    assert "5550001" not in str(caught.value)
    assert "code 21211" in str(caught.value)


@pytest.mark.parametrize("url", ["http://api.twilio.com", "http://127.0.0.1.evil.example", "ftp://localhost.x", ""])
async def test_the_secret_travels_by_https_only(url):
    async with aiohttp.ClientSession() as http:
        with pytest.raises(OperatorError, match="https"):
            TwilioRest(http, ACCOUNT, SECRET, base_url=url)
