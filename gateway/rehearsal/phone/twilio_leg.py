"""The HTTP side of a simulated call at Twilio: signed webhooks, TwiML documents and status callbacks.

Sources: Twilio, "Webhooks security", "TwiML for Programmable Voice: request parameters", "<Stream>: statusCallback".
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

import aiohttp

from offhook.gateway.rehearsal.phone.truth import CallTruth, Fetched, StreamTruth
from offhook.gateway.rehearsal.phone.twilio_wire import Unfit, Verb, parse_twiml, sign
from offhook.gateway.rehearsal.quick_clock import Clock

__all__ = ["ACCOUNT_SID", "PlacedCall", "WebhookClient"]

ACCOUNT_SID = "AC" + "0" * 32  # no real account's
WEBHOOK_TIMEOUT_S = 15.0  # Twilio's total for a webhook


@dataclass(frozen=True, slots=True)
class PlacedCall:
    """An outbound call of the gateway: the URL of its TwiML once answered, and of its status callbacks."""

    url: str
    status_url: str = ""
    status_events: tuple[str, ...] = ("completed",)


class WebhookClient:
    """Requests the gateway's webhooks for one call; `truth.fetched` has a record of each.

    `url`: where the gateway listens. `public_url`: its name in signed URLs; requests to it go to `url`. `auth_token`
    None: requests are not signed. `violation(code, what)` reports what Twilio would warn of. `here`: the URL of the
    document that is followed, to which relative URLs refer; `entry` is the first one's of a call that comes
    in. `delay_s`: what each request for a document takes on its way. `open` before the first request.
    """

    def __init__(
        self,
        truth: CallTruth,
        url: str,
        public_url: str,
        auth_token: str | None,
        placed: PlacedCall | None,
        *,
        entry: str,
        violation: Callable[[int, str], None],
        clock: Clock,
        delay_s: float = 0.0,
    ) -> None:
        self._delay_s = delay_s
        self._truth, self._url, self._public_url = truth, url, public_url
        self._auth_token, self._placed = auth_token, placed
        self._violation, self._clock = violation, clock
        self.here = placed.url if placed else entry
        self.session: aiohttp.ClientSession
        self.callbacks: set[asyncio.Task[tuple[Fetched, str]]] = set()

    def open(self) -> None:
        """Open a session with a connector of its own: closing it cuts this call's connections and no other's."""
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
        )

    def fields(self) -> dict[str, str]:
        """The form fields of every webhook."""
        truth = self._truth
        return {
            "CallSid": truth.call_sid,
            "AccountSid": ACCOUNT_SID,
            "From": truth.caller,
            "To": truth.dialled,
            "Caller": truth.caller,
            "Called": truth.dialled,
            "Direction": "outbound-api" if self._placed else "inbound",
            "ApiVersion": "2010-04-01",
        }

    def address_of(self, url: str) -> str:
        """The same URL at the gateway's real address."""
        there, public, real = urlsplit(url), urlsplit(self._public_url), urlsplit(self._url)
        if there.netloc != public.netloc:
            return url
        scheme = (
            {"https": "wss", "http": "ws"}.get(real.scheme, real.scheme)
            if there.scheme in ("ws", "wss")
            else real.scheme
        )
        return urlunsplit((scheme, real.netloc, there.path, there.query, ""))

    async def request(self, url: str, method: str, fields: Mapping[str, str]) -> tuple[Fetched, str]:
        """Request a webhook; returns its record (status 0: no answer) and the answer's content type."""
        if method == "GET":
            url, fields = f"{url}?{urlencode(fields)}", {}
        headers = {"User-Agent": "TwilioProxy/1.1", "I-Twilio-Idempotency-Token": secrets.token_hex(8)}
        if self._auth_token is not None:
            headers["X-Twilio-Signature"] = sign(url, fields, self._auth_token)
        fetched = Fetched(at_s=self._clock(), took_ms=0.0, path=urlsplit(url).path, status=0)
        self._truth.fetched.append(fetched)
        content_type = ""
        try:
            async with self.session.request(
                method,
                self.address_of(url),
                data=fields or None,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=WEBHOOK_TIMEOUT_S),
            ) as response:
                fetched.answer = (await response.read()).decode("utf-8", "replace")
                fetched.status, content_type = response.status, response.content_type
        except (aiohttp.ClientError, TimeoutError) as error:
            fetched.answer = f"{type(error).__name__}: {error}"
        fetched.took_ms = 1000.0 * (self._clock() - fetched.at_s)
        return fetched, content_type

    async def fetch(self, url: str, method: str, extra: Mapping[str, str]) -> tuple[Verb, ...] | None:
        """Fetch a TwiML document; None if that fails: Twilio would end the call."""
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        fetched, content_type = await self.request(url, method, {**self.fields(), **extra})
        if not 200 <= fetched.status < 300:
            self._violation(11200, f"{fetched.path} answered {fetched.status or 'not'}: {fetched.answer[:200]}")
            return None
        self.here = url
        return self._parsed(fetched, content_type)

    async def fetch_whisper(self, url: str) -> tuple[Verb, ...]:
        """Fetch the document that is played to a dialled party; empty if it is no TwiML."""
        leg = {**self.fields(), "CallSid": "CA" + secrets.token_hex(16), "ParentCallSid": self._truth.call_sid}
        return self._parsed(*await self.request(urljoin(self.here, url), "POST", leg)) or ()

    def _parsed(self, fetched: Fetched, content_type: str) -> tuple[Verb, ...] | None:
        """The verbs of an answer; None, and a violation, if it is no TwiML."""
        try:
            return parse_twiml(fetched.answer.encode(), content_type)
        except Unfit as unfit:
            self._violation(unfit.code, f"{fetched.path}: {unfit.what}")
            return None

    def report_status(self, status: str) -> None:
        """Send a status callback, if one was requested."""
        if self._placed is None:
            self._callback(self._public_url + "/twilio/status", {"CallStatus": status})
        elif self._placed.status_url and status in self._placed.status_events:
            self._callback(self._placed.status_url, {"CallStatus": status})

    def report_stream(self, url: str, stream: StreamTruth, event: str) -> None:
        """Send a stream's status callback, if `url` names one."""
        if url:
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            about = {"StreamSid": stream.stream_sid, "StreamName": stream.stream_sid, "Timestamp": stamp}
            self._callback(urljoin(self.here, url), {**about, "StreamEvent": event})

    def _callback(self, url: str, extra: Mapping[str, str]) -> None:
        """Send a callback without waiting; its answer is kept for the report."""
        self.callbacks.add(asyncio.create_task(self.request(url, "POST", {**self.fields(), **extra})))
