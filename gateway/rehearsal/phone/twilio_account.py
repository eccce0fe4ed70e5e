"""A simulated Twilio account: its REST API over HTTP, as far as a voice gateway uses it, and its calls.

Requests are checked as Twilio checks them (credentials, account, parameters) and act on simulated calls, whose
webhooks are signed with the account's auth token. Sources: Twilio docs, "Voice API: Calls",
"Conferences", "IncomingPhoneNumbers", "Answering Machine Detection".
"""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from offhook.gateway.rehearsal.phone.call import SimulatedCall
from offhook.gateway.rehearsal.phone.carrier import Carrier
from offhook.gateway.rehearsal.phone.steps import Step
from offhook.gateway.rehearsal.phone.twilio_leg import ACCOUNT_SID, PlacedCall
from offhook.gateway.rehearsal.phone.twilio_wire import sign
from offhook.gateway.rehearsal.quick_clock import Clock, running_clock

__all__ = ["Callee", "RestRequest", "SimulatedTwilio"]

_VERSION = "/2010-04-01"
MAX_TWIML = 4_000  # inline, error 32018


@dataclass(frozen=True, slots=True)
class Callee:
    """A party the gateway may call. `answers`: the outcome after `ring_s`; an answered call plays `steps`.

    `answered_by`: the AMD result, reported `verdict_s` after the answer if it was requested.
    """

    steps: Sequence[Step] = ()
    answers: Literal["answered", "busy", "no-answer", "failed"] = "answered"
    ring_s: float = 0.2
    answered_by: str = "human"
    verdict_s: float = 1.0
    carrier: Carrier = field(default_factory=Carrier)


@dataclass(frozen=True, slots=True)
class RestRequest:
    """One REST request."""

    at_s: float
    method: str
    path: str  # after the account: /Calls.json
    form: dict[str, Any]
    status: int


@dataclass(slots=True)
class _Conference:
    over: asyncio.Event = field(default_factory=asyncio.Event)
    begun: bool = False
    members: dict[str, bool] = field(default_factory=dict)  # call -> whether its leaving is the end


class SimulatedTwilio:
    """`async with SimulatedTwilio(gateway_url, ...) as twilio`: `twilio.url` is the API's address.

    `callees(number)` returns the party of a number; None: the number does not exist. `gateway_url` may be set later,
    before the first call. `faults` are answers (status, Twilio's code) for the next requests; `numbers` the account's.
    """

    def __init__(
        self,
        gateway_url: str = "",
        *,
        public_url: str = "",
        auth_token: str = "rehearsal-token",
        callees: Callable[[str], Callee | None] = lambda _: Callee(),
        numbers: Sequence[str] = (),
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or running_clock()
        self.gateway_url, self.public_url, self.auth_token = gateway_url, public_url, auth_token
        self.account_sid = ACCOUNT_SID
        self.calls: dict[str, SimulatedCall] = {}
        self.statuses: dict[str, str] = {}
        self.placed: list[dict[str, str]] = []  # by REST, as its list of calls has them
        self.requests: list[RestRequest] = []
        self.faults: deque[tuple[int, int]] = deque()
        self.numbers: dict[str, dict[str, Any]] = {
            f"PN{n:032x}": {"phone_number": number} for n, number in enumerate(numbers)
        }
        self.account: dict[str, str] = {"sid": self.account_sid, "status": "active", "type": "Full"}
        self.applications: dict[str, dict[str, str]] = {}  # by SID
        self.url = ""
        self._callees = callees
        self.failures: list[BaseException] = []  # exceptions of this simulator
        self._conferences: dict[str, _Conference] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self._http = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.close()
        await self._runner.cleanup()

    def environ(self) -> dict[str, str]:
        """Variables that point a gateway to this account."""
        return {
            "TWILIO_ACCOUNT_SID": self.account_sid,
            "TWILIO_AUTH_TOKEN": self.auth_token,
            "OFFHOOK_TWILIO_BASE_URL": self.url,
            "OFFHOOK_PUBLIC_URL": self.public_url,
        }

    def inbound(self, steps: Sequence[Step] = (), **options: Any) -> SimulatedCall:
        """A call to one of the account's numbers, that REST can reach; `run` it. Options as `SimulatedCall`'s."""
        call = SimulatedCall(
            self.gateway_url,
            steps,
            public_url=self.public_url,
            auth_token=self.auth_token,
            conferences=self,
            clock=self._clock,
            **options,
        )
        self.calls[call.call_sid] = call
        return call

    # --- conferences (`caller.Conferences`)

    def join(self, name: str, call_sid: str, *, starts: bool, ends: bool) -> asyncio.Event:
        conference = self._conferences.get(name)
        if conference is None or conference.over.is_set():
            conference = self._conferences[name] = _Conference()
        conference.members[call_sid] = ends
        conference.begun = conference.begun or starts
        return conference.over

    def leave(self, name: str, call_sid: str) -> None:
        conference = self._conferences[name]
        ends = conference.members.pop(call_sid, False)
        if ends or not conference.members:
            conference.over.set()

    def met(self, name: str) -> list[str]:
        """SIDs of the calls in a conference that has begun."""
        conference = self._conferences.get(name)
        return list(conference.members) if conference and conference.begun else []

    # --- the API

    async def _handle(self, request: web.Request) -> web.Response:
        form: dict[str, Any] = {}
        for name, value in (await request.post()).items():
            form[name] = [*form[name], value] if isinstance(form.get(name), list) else value
            if name == "StatusCallbackEvent":
                form[name] = [str(v) for v in (await request.post()).getall(name)]
        account = f"{_VERSION}/Accounts/{self.account_sid}"
        path = request.path.removeprefix(account)
        status, body = self._answer(request, path, form, known=request.path.startswith(account))
        self.requests.append(RestRequest(self._clock(), request.method, path, form, status))
        return web.json_response(body, status=status)

    def _answer(
        self, request: web.Request, path: str, form: Mapping[str, Any], *, known: bool
    ) -> tuple[int, dict[str, Any]]:
        basic = base64.b64encode(f"{self.account_sid}:{self.auth_token}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {basic}" or not known:
            return _problem(401, 20003, "Authenticate")
        if self.faults:
            status, code = self.faults.popleft()
            return _problem(status, code, "scripted fault")
        match request.method, path.strip("/").removesuffix(".json").split("/"):
            case "GET", [""]:
                return 200, {**self.account}
            case "GET", ["Applications", sid] if sid in self.applications:
                return 200, {"sid": sid, **self.applications[sid]}
            case "POST", ["Calls"]:
                return self._create(form)
            case "GET", ["Calls"]:  # newest first
                ends = {name.lower(): request.query[name] for name in ("To", "From") if name in request.query}
                found = [call for call in reversed(self.placed) if ends.items() <= call.items()]
                return 200, {"calls": [{**c, "status": self._status(c["sid"])} for c in found], "next_page_uri": None}
            case "GET", ["Calls", sid]:
                if sid not in self.calls and sid not in self.statuses:
                    return _problem(404, 20404, "The requested resource was not found")
                return 200, {"sid": sid, "status": self._status(sid)}
            case "POST", ["Calls", sid]:
                return self._update(sid, form)
            case "GET", ["IncomingPhoneNumbers"]:
                wanted = request.query.get("PhoneNumber", "")
                found = [{"sid": s, **n} for s, n in self.numbers.items() if wanted in ("", n["phone_number"])]
                return 200, {"incoming_phone_numbers": found, "next_page_uri": None}
            case "POST", ["IncomingPhoneNumbers", sid]:
                if sid not in self.numbers:
                    return _problem(404, 20404, "The requested resource was not found")
                # An empty SID takes the number off; each of the two SIDs excludes the other.
                self.numbers[sid] |= {_snake(name): value or None for name, value in form.items()}
                return 200, {"sid": sid, **self.numbers[sid]}
        return _problem(404, 20404, "The requested resource was not found")

    def _status(self, sid: str) -> str:
        call = self.calls.get(sid)
        if call is None:
            return self.statuses[sid]
        return "completed" if call.over else "in-progress"

    def _create(self, form: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        to, caller_id = str(form.get("To", "")), str(form.get("From", ""))
        if not to or not caller_id:
            return _problem(400, 21201 if not to else 21213, "No 'To' or no 'From' number is specified")
        if ("Url" in form) == ("Twiml" in form):
            return _problem(400, 21205, "Url parameter is required")
        callee = self._callees(to)
        if callee is None:
            return _problem(400, 21211, f"The 'To' number {to} is not a valid phone number")
        sid = "CA" + secrets.token_hex(16)
        self.statuses[sid] = "queued"
        self.placed.append(
            {"sid": sid, "to": to, "from": caller_id, "date_created": format_datetime(datetime.now(UTC))}
        )
        self._do(self._ring(sid, to, caller_id, callee, dict(form)))
        return 201, {"sid": sid, "status": "queued"}

    def _update(self, sid: str, form: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        call = self.calls.get(sid)
        if call is None and self.statuses.get(sid) in ("queued", "initiated", "ringing"):
            if form.get("Status") not in ("completed", "canceled"):
                return _problem(400, 21220, "Call is not in-progress. Cannot redirect.")
            self.statuses[sid] = "canceled"
            return 200, {"sid": sid, "status": "canceled"}
        if call is None:
            return _problem(404, 20404, "The requested resource was not found")
        if len(str(form.get("Twiml", ""))) > MAX_TWIML:
            return _problem(400, 32018, "Twiml is too long")
        if form.get("Status") == "completed":
            done = call.end()
        elif "Twiml" in form:
            done = call.update(str(form["Twiml"]).encode())
        else:
            done = call.update(str(form.get("Url", "")))
        if not done:
            return _problem(400, 21220, "Call is not in-progress. Cannot redirect.")
        return 200, {"sid": sid, "status": "in-progress"}

    # --- calls the gateway places

    def _do(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.failures.append(error)

    async def _ring(self, sid: str, to: str, caller_id: str, callee: Callee, form: dict[str, Any]) -> None:
        events = tuple(form.get("StatusCallbackEvent") or ("completed",))
        status_url = str(form.get("StatusCallback", ""))
        about = {
            "CallSid": sid,
            "AccountSid": self.account_sid,
            "From": caller_id,
            "To": to,
            "Direction": "outbound-api",
            "ApiVersion": "2010-04-01",
        }

        async def report(status: str, event: str) -> None:
            self.statuses[sid] = status
            if status_url and event in events:
                await self._post(status_url, {**about, "CallStatus": status})

        await report("initiated", "initiated")
        await report("ringing", "ringing")
        await asyncio.sleep(callee.ring_s)
        if self.statuses[sid] == "canceled" or callee.answers != "answered":
            await report("canceled" if self.statuses[sid] == "canceled" else callee.answers, "completed")
            return
        call = SimulatedCall(
            self.gateway_url,
            callee.steps,
            public_url=self.public_url,
            auth_token=self.auth_token,
            caller=caller_id,
            dialled=to,
            carrier=callee.carrier,
            call_sid=sid,
            placed=PlacedCall(str(form["Url"]), status_url, events),
            conferences=self,
            clock=self._clock,
        )
        self.calls[sid] = call
        self._do(report("in-progress", "answered"))
        if (verdict_url := str(form.get("AsyncAmdStatusCallback", ""))) and form.get("MachineDetection"):
            self._do(self._detect(call, verdict_url, {**about, "AnsweredBy": callee.answered_by}, callee.verdict_s))
        await call.run()

    async def _detect(self, call: SimulatedCall, url: str, fields: dict[str, str], after_s: float) -> None:
        await asyncio.sleep(after_s)
        if not call.over:
            await self._post(url, fields)

    async def _post(self, url: str, fields: dict[str, str]) -> None:
        parts, public, real = urlsplit(url), urlsplit(self.public_url), urlsplit(self.gateway_url)
        reached = (
            parts._replace(scheme=real.scheme, netloc=real.netloc).geturl() if parts.netloc == public.netloc else url
        )
        headers = {"X-Twilio-Signature": sign(url, fields, self.auth_token)}
        async with self._http.post(reached, data=fields, headers=headers) as response:
            await response.read()


def _snake(name: str) -> str:
    return re.sub("(?<!^)(?=[A-Z])", "_", name).lower()


def _problem(status: int, code: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {
        "status": status,
        "code": code,
        "message": message,
        "more_info": f"https://www.twilio.com/docs/errors/{code}",
    }
