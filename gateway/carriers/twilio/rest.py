"""Twilio's REST API, as far as calls and numbers need it: form POSTs with Basic auth. Source: Twilio docs, "Voice API".

Not the SDK's client, which has no default timeout, blocks the event loop, and reads settings from the environment.
Every request ends within its timeout; it is repeated only where that cannot have an effect twice:

    answer                          repeated for
    429 (Twilio did nothing)        every request
    no connection was made          every request
    5xx, timeout, connection lost   reads, and changes that may happen twice (hang up, set a number)

A call that is over already (404/20404, 400/21220) is an answer, not an error: it is the ordinary race with a
caller who hangs up.
"""

from __future__ import annotations

import asyncio
import base64
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from yarl import URL

from offhook.gateway.errors import OperatorError, PeerError
from offhook.gateway.retry_after import retry_after_s

__all__ = ["API_URL", "Account", "NewCall", "PhoneNumber", "TwilioError", "TwilioRest", "VoiceHook"]

API_URL = "https://api.twilio.com"
_VERSION = "/2010-04-01"

TIMEOUT_S = 5.0  # one try; a caller is waiting for most of these
TRIES = 3
MAX_WAIT_S = 5.0  # between tries, whatever Retry-After says
MAX_ANSWER_BYTES = 4 * 1024 * 1024  # a page of 1,000 numbers is about 1.5 MB
MAX_PAGES = 20
CREATED_APART_S = 5.0  # Twilio's dates and our clock

CALL_IS_OVER = {20404, 21220}  # resource not found; call not in progress, cannot redirect


class TwilioError(PeerError):
    """Twilio refused a request (`status`, Twilio's own `code`), or did not answer (`status` 0)."""

    def __init__(self, what: str, status: int = 0, code: int = 0, message: str = "") -> None:
        detail = f" ({status}, code {code}: {_masked(message)})" if status else f" ({message})"
        super().__init__(f"twilio: {what} failed{detail}")
        self.status, self.code = status, code


@dataclass(frozen=True, slots=True)
class Account:
    """The account that the credentials belong to."""

    status: str  # active, suspended, closed
    trial: bool = False


@dataclass(frozen=True, slots=True)
class VoiceHook:
    """A URL that Twilio requests, and how; "" for none."""

    url: str = ""
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class PhoneNumber:
    """A number of the account and where its calls go.

    A trunk receives the calls, if there is one; else the application's URLs are requested, if there is one; else the
    number's own. With `receives` "fax" no call arrives.
    """

    sid: str
    number: str  # E.164
    name: str = ""
    voice: VoiceHook = VoiceHook()
    fallback: VoiceHook = VoiceHook()
    status_callback: VoiceHook = VoiceHook()
    application_sid: str = ""
    trunk_sid: str = ""
    receives: str = "voice"  # voice_receive_mode
    can_voice: bool = True


@dataclass(frozen=True, slots=True)
class NewCall:
    """A call to place; its document is requested at `url` once it is answered."""

    to: str
    caller_id: str
    url: str
    status_callback_url: str = ""
    ring_s: int = 60
    limit_s: int | None = None
    machine_detection: Literal["", "Enable", "DetectMessageEnd"] = ""
    machine_callback_url: str = ""  # asynchronous: the result comes here, the call goes on meanwhile


class TwilioRest:
    """Twilio's REST API for one account, over a `ClientSession` that the caller opens and closes.

    `user` and `secret` are an API key and its secret, or the account SID and its auth token. `base_url` names
    another region's host, or a simulated Twilio. All methods raise `TwilioError` unless they say otherwise.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        account_sid: str,
        secret: str,
        *,
        user: str = "",
        base_url: str = API_URL,
        timeout_s: float = TIMEOUT_S,
        backoff_s: float = 0.25,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise OperatorError(f"Twilio's API URL must be https (the secret travels with it), not {base_url!r}")
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._account = f"{_VERSION}/Accounts/{quote(account_sid, safe='')}"
        basic = base64.b64encode(f"{user or account_sid}:{secret}".encode()).decode()
        self._headers = {"Authorization": f"Basic {basic}"}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._backoff_s = backoff_s

    def __repr__(self) -> str:
        return f"TwilioRest({self._base_url!r})"

    # --- a live call

    async def hang_up(self, call_sid: str) -> bool:
        """End the call; False when it was over already."""
        return await self._change_call("hang up", call_sid, {"Status": "completed"}, repeatable=True)

    async def run_twiml(self, call_sid: str, twiml: str) -> bool:
        """Have the call leave its document (its stream ends) and run `twiml`; False when it is over.

        At most 4,000 characters (`twiml.MAX_INLINE_CHARACTERS`): above it, serve the document and `redirect`.
        """
        return await self._change_call("update", call_sid, {"Twiml": twiml}, repeatable=False)

    async def redirect(self, call_sid: str, url: str, *, fallback_url: str = "") -> bool:
        """Have the call leave its document (its stream ends) and run the one at `url`; False when it is over."""
        form = {"Url": url, "Method": "POST", "FallbackUrl": fallback_url}
        return await self._change_call("redirect", call_sid, form, repeatable=False)

    # --- new legs

    async def place_call(self, call: NewCall) -> str:
        """Place a call: its SID. Not repeated when Twilio may have received it: no phone rings twice."""
        form: dict[str, str | Sequence[str]] = {
            "To": call.to,
            "From": call.caller_id,
            "Url": call.url,
            "Timeout": str(call.ring_s),
            "TimeLimit": str(call.limit_s or ""),
        }
        if call.status_callback_url:
            form["StatusCallback"] = call.status_callback_url
            form["StatusCallbackEvent"] = ("initiated", "ringing", "answered", "completed")
        if call.machine_detection:
            form["MachineDetection"] = call.machine_detection
            if call.machine_callback_url:
                form |= {"AsyncAmd": "true", "AsyncAmdStatusCallback": call.machine_callback_url}
        return _sid("place a call", await self._request("place a call", "POST", "/Calls.json", form), "sid")

    async def calls(self, to: str, caller_id: str, since_s: float) -> list[str]:
        """The newest calls that were created with these ends since then (seconds since 1970, in Twilio's clock)."""
        answer = await self._request(
            "list calls", "GET", "/Calls.json", {"To": to, "From": caller_id, "PageSize": "50"}
        )
        page = answer.get("calls")
        items = [item for item in page if isinstance(item, dict)] if isinstance(page, list) else []
        return [str(item.get("sid")) for item in items if _created_s(item) >= since_s - CREATED_APART_S]

    # --- numbers

    async def numbers(self, number: str = "") -> list[PhoneNumber]:
        """The account's numbers, or the one that is `number` (E.164)."""
        form = {"PageSize": "1000", "PhoneNumber": number}
        found: list[PhoneNumber] = []
        answer = await self._request("list numbers", "GET", "/IncomingPhoneNumbers.json", form)
        for _ in range(MAX_PAGES):
            page = answer.get("incoming_phone_numbers")
            found += [_number(item) for item in page if isinstance(item, dict)] if isinstance(page, list) else []
            following = str(answer.get("next_page_uri") or "")
            if not following.startswith("/"):  # a path of the same host, or there is no further page
                break
            answer = await self._request("list numbers", "GET", following, whole_path=True)
        return found

    async def set_number(
        self,
        number: PhoneNumber,
        *,
        voice_url: str,
        fallback: VoiceHook = VoiceHook(),
        status_callback_url: str = "",
    ) -> PhoneNumber:
        """Point a number's calls at these URLs (POST), and take it off its trunk and its application, whose URLs would
        be requested instead. An empty URL stays unchanged.
        """
        form = {
            "VoiceUrl": voice_url,
            "VoiceMethod": "POST",
            "VoiceFallbackUrl": fallback.url,
            "VoiceFallbackMethod": fallback.method if fallback.url else "",
            "StatusCallback": status_callback_url,
            "StatusCallbackMethod": "POST" if status_callback_url else "",
            "VoiceReceiveMode": "voice" if number.receives != "voice" else "",
        }
        cleared = {"TrunkSid": number.trunk_sid, "VoiceApplicationSid": number.application_sid}
        path = f"/IncomingPhoneNumbers/{_segment(number.sid)}.json"
        fields = [*_fields(form), *((name, "") for name, sid in cleared.items() if sid)]
        return _number(await self._request("set a number", "POST", path, fields, repeatable=True))

    async def application(self, sid: str) -> VoiceHook:
        """What a TwiML application requests for a call."""
        answer = await self._request("read an application", "GET", f"/Applications/{_segment(sid)}.json")
        return _hook(answer, "voice_url", "voice_method")

    async def account(self) -> Account:
        """The account: shows that the credentials work."""
        answer = await self._request("read the account", "GET", ".json")
        return Account(str(answer.get("status", "")), trial=answer.get("type") == "Trial")

    # --- requests

    async def _change_call(self, what: str, call_sid: str, form: Mapping[str, str], *, repeatable: bool) -> bool:
        try:
            await self._request(what, "POST", f"/Calls/{_segment(call_sid)}.json", form, repeatable=repeatable)
        except TwilioError as error:
            if error.status == 404 or error.code in CALL_IS_OVER:
                return False
            raise
        return True

    async def _request(
        self,
        what: str,
        method: str,
        path: str,
        form: Mapping[str, str | Sequence[str]] | Sequence[tuple[str, str]] | None = None,
        *,
        repeatable: bool = False,
        whole_path: bool = False,
    ) -> dict[str, Any]:
        """One request, repeated until it is answered or must not be repeated: the answer's JSON object."""
        repeatable = repeatable or method == "GET"
        url = URL(self._base_url + (path if whole_path else self._account + path), encoded=True)
        fields = _fields(form) if isinstance(form, Mapping) else list(form or ())
        if method == "GET" and fields:
            url = url.with_query(fields)
        for attempt in range(1, TRIES + 1):
            wait_s = self._backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
            try:
                status, retry_after, answer = await self._once(method, url, fields)
            except aiohttp.ClientConnectorError as error:
                failure, again = TwilioError(what, message=f"no connection to {error.host}"), True
            except TimeoutError:
                failure, again = TwilioError(what, message="no answer in time"), repeatable
            except (aiohttp.ClientError, OSError) as error:
                # Only the class: aiohttp's errors carry the request with its Authorization header.
                failure, again = TwilioError(what, message=type(error).__name__), repeatable
            else:
                if status < 300:
                    return answer
                message = str(answer.get("message", ""))
                failure = TwilioError(what, status, _int(answer.get("code")), message)
                again = status == 429 or (status >= 500 and repeatable)
                wait_s = max(wait_s, retry_after)
            if not again or attempt == TRIES:
                raise failure
            await asyncio.sleep(min(wait_s, MAX_WAIT_S))
        raise AssertionError("not reached")

    async def _once(self, method: str, url: URL, fields: list[tuple[str, str]]) -> tuple[int, float, dict[str, Any]]:
        """Status, Retry-After in seconds (0: none) and the JSON object of one request."""
        async with self._http.request(
            method,
            url,
            data=aiohttp.FormData(fields) if method == "POST" else None,
            headers=self._headers,
            timeout=self._timeout,
            allow_redirects=False,  # the credentials are for this host only
        ) as response:
            body = bytearray()
            async for part in response.content.iter_any():
                body += part
                if len(body) > MAX_ANSWER_BYTES:
                    raise aiohttp.ClientPayloadError("answer too long")
            return response.status, retry_after_s(response.headers), _object(bytes(body))


def _object(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (ValueError, RecursionError):  # an error page of a proxy
        return {}


def _fields(form: Mapping[str, str | Sequence[str]]) -> list[tuple[str, str]]:
    """Name and value of each field that has one; a sequence is a repeated name."""
    return [
        (name, value)
        for name, values in form.items()
        for value in ((values,) if isinstance(values, str) else values)
        if value
    ]


def _number(item: Mapping[str, Any]) -> PhoneNumber:
    def text(name: str) -> str:
        return str(item.get(name) or "")

    can = item.get("capabilities")
    return PhoneNumber(
        sid=text("sid"),
        number=text("phone_number"),
        name=text("friendly_name"),
        voice=_hook(item, "voice_url", "voice_method"),
        fallback=_hook(item, "voice_fallback_url", "voice_fallback_method"),
        status_callback=_hook(item, "status_callback", "status_callback_method"),
        application_sid=text("voice_application_sid"),
        trunk_sid=text("trunk_sid"),
        receives=text("voice_receive_mode") or "voice",
        can_voice=not isinstance(can, dict) or can.get("voice") is not False,
    )


def _hook(item: Mapping[str, Any], url: str, method: str) -> VoiceHook:
    return VoiceHook(str(item.get(url) or ""), str(item.get(method) or "POST").upper())


def _created_s(item: Mapping[str, Any]) -> float:
    """`date_created`, an RFC 2822 date; one that cannot be read counts as new: no phone rings twice."""
    try:
        return parsedate_to_datetime(str(item.get("date_created"))).timestamp()
    except ValueError:
        return math.inf


def _sid(what: str, answer: Mapping[str, Any], name: str) -> str:
    sid = answer.get(name)
    if not isinstance(sid, str) or not sid:
        raise TwilioError(what, message="the answer names no call")
    return sid


def _segment(text: str) -> str:
    """`text` as one path segment: a call id made up by a peer must not lead to another resource."""
    return quote(text, safe="").replace(".", "%2E")


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _masked(message: str) -> str:
    """Twilio's words without the phone numbers in them."""
    return re.sub(r"\+?\d{5,}(?=\d{2})", "***", message)[:200]
