"""A simulated phone call: Twilio's protocols, a scripted caller, and the ground truth of what happened.

The carrier's clock ticks every 20 ms at absolute times. At tick k it sends the last 20 ms of the caller's
audio and begins to play the next 20 ms of the gateway's queue; both channels share one axis of samples. After a late
tick the next ones run at once, so nothing drifts.

The call uses only its own sockets and the gateway's address. Playback is in `playback`, webhooks in `twilio_leg`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, assert_never
from urllib.parse import urljoin, urlsplit, urlunsplit

import aiohttp

from offhook.gateway.rehearsal.phone import voice
from offhook.gateway.rehearsal.phone.carrier import RUBBISH, Carrier
from offhook.gateway.rehearsal.phone.live import LiveCaller
from offhook.gateway.rehearsal.phone.microphone import Microphone, Sound, cut_up, sound_of
from offhook.gateway.rehearsal.phone.outbox import Outbox
from offhook.gateway.rehearsal.phone.playback import TICK_S, Playback
from offhook.gateway.rehearsal.phone.steps import (
    Cough,
    Digit,
    HangUp,
    Keyboard,
    Pause,
    Say,
    SayOver,
    Step,
    WaitForAgent,
    WaitForEnd,
    described,
)
from offhook.gateway.rehearsal.phone.truth import (
    Announced,
    CallTruth,
    Interval,
    MarkReceived,
    StepTaken,
    StreamTruth,
    Utterance,
    Violation,
)
from offhook.gateway.rehearsal.phone.twilio_leg import ACCOUNT_SID, PlacedCall, WebhookClient
from offhook.gateway.rehearsal.phone.twilio_wire import (
    ClearMessage,
    ConnectVerb,
    DialVerb,
    EnqueueVerb,
    HangupVerb,
    MarkMessage,
    PauseVerb,
    PlayVerb,
    RedirectVerb,
    RejectVerb,
    SayVerb,
    Unfit,
    Verb,
    message,
    parse_twiml,
    payload,
    sign,
    signed_socket_url,
)
from offhook.gateway.rehearsal.quick_clock import Clock, running_clock
from offhook.media.mulaw import FRAME_BYTES, RATE_HZ, SILENCE, SILENCE_DBOV, encode, levels_dbov

__all__ = ["Conferences", "Glance", "SimulatedCall", "StepFailed"]

HANDSHAKE_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 3.0
VIOLATIONS_MAX = 200  # a broken stream causes thousands of the same kind

_CALLER_ID = re.compile(r"\+(?!266696687$|7378742833$)[1-9][0-9]{6,14}")  # a number that a called party can be shown


class Conferences(Protocol):
    """The account's conferences."""

    def join(self, name: str, call_sid: str, *, starts: bool, ends: bool) -> asyncio.Event:
        """Set when the conference is over."""

    def leave(self, name: str, call_sid: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Glance:
    """A call at one moment: seconds since its start, levels of the last 100 ms of both sides, the caller's step."""

    at_s: float
    caller_dbov: float
    agent_dbov: float
    doing: str


class StepFailed(Exception):
    """A step of the caller's script was impossible."""


class SimulatedCall:
    """One call. `await run()` places it, plays the caller's steps and returns the truth, also in `truth`.

    `url`: the gateway's address, `http://127.0.0.1:8080`. `public_url`: its public URL, which is signed; requests to it
    go to `url`. `auth_token` None: requests are not signed. `direct`: no webhook, the media socket is opened at once
    with these `parameters`. `entry`: the URL of another gateway's voice webhook, or with ws(s) of its media socket. The
    steps may be empty: then drive the call by its methods from another task, and end with `hang_up`. `placed`: an
    outbound call of the gateway that has just been answered. `conferences`: the account's; without them `<Conference>`
    ends at once. `live`: a caller who decides what to say, in place of the steps. `clock`: for all times in the truth;
    by default the running loop's.
    """

    def __init__(
        self,
        url: str,
        steps: Sequence[Step] = (),
        *,
        public_url: str | None = None,
        auth_token: str | None = None,
        direct: bool = False,
        entry: str = "",
        parameters: Mapping[str, str] | None = None,
        caller: str = "+15550100",
        dialled: str = "+15550199",
        carrier: Carrier | None = None,
        call_sid: str | None = None,
        directory: Path | None = None,
        placed: PlacedCall | None = None,
        conferences: Conferences | None = None,
        live: LiveCaller | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._live = live
        self._clock = clock or running_clock()
        self._public_url = (public_url or url).rstrip("/")
        self._auth_token, self._direct = auth_token, direct or entry.startswith("ws")
        there = urlsplit(entry or ("/twilio/media" if direct else "/twilio/voice"))
        self._entry = self._public_url + urlunsplit(("", "", there.path, there.query, ""))
        self._parameters = dict(parameters or {})
        self._carrier = carrier or Carrier()
        self._steps = tuple(steps)
        self._directory = directory
        self._placed, self._conferences = placed, conferences
        sid = call_sid or "CA" + secrets.token_hex(16)
        self.truth = CallTruth(call_sid=sid, caller=caller, dialled=dialled)
        for step in self._steps:  # speech is synthesised before the call
            if isinstance(step, Say | SayOver):
                self._sound(step.line, step.sound)

        self._over = asyncio.Event()
        self._hung_up = False
        self._ended_by = "caller"
        self._next: bytes | str | None = None  # set by REST: a TwiML document, or its URL
        self._problem: BaseException | None = None
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._leg = WebhookClient(
            self.truth,
            url.rstrip("/"),
            self._public_url,
            auth_token,
            placed,
            entry=self._entry,
            violation=self._violation,
            clock=self._clock,
            delay_s=self._carrier.delay_ms / 1000,
        )

        # The clock.
        self._tick = 0
        self._timer: asyncio.Handle | None = None

        self._microphone = Microphone(self._carrier)
        self._playback = Playback(self.truth, self._echo, echo_cleared=self._carrier.marks != "lost when cleared")
        self._next_interval = 0
        self._spoken_until_s = 0.0

        # The stream under way.
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._stream: StreamTruth | None = None
        self._outbox = Outbox(self._carrier, self._clock)
        self._stream_tick = 0
        self._cut = asyncio.Event()
        self._rubbish_sent = False

    # -- the call -----------------------------------------------------------------------------------------

    @property
    def call_sid(self) -> str:
        return self.truth.call_sid

    @property
    def over(self) -> bool:
        """The call has ended."""
        return self._over.is_set()

    @property
    def streaming(self) -> bool:
        """A media stream is up."""
        return self._stream is not None

    def glance(self) -> Glance:
        """The call at this moment, for a progress display."""
        steps = self.truth.steps
        return Glance(
            at_s=len(self._playback.right) / RATE_HZ,
            caller_dbov=float(
                levels_dbov(bytes(self._microphone.recorded[-5 * FRAME_BYTES :])).max(initial=SILENCE_DBOV)
            ),
            agent_dbov=float(levels_dbov(bytes(self._playback.right[-5 * FRAME_BYTES :])).max(initial=SILENCE_DBOV)),
            doing=steps[-1].step if steps else f"say {said[-1].text!r}" if (said := self.truth.spoken) else "",
        )

    async def run(self) -> CallTruth:
        """Place the call and run it to its end. Raises only for faults of this simulator."""
        truth = self.truth
        truth.rang_s = self._clock()
        self._leg.open()
        script = asyncio.create_task(self._play_script())
        try:
            truth.ended_by = await self._run_documents()
        finally:
            self._over.set()
            truth.ended_s = self._clock()
            if self._timer is not None:
                self._timer.cancel()
            self._wake()
            truth.left, truth.right = bytes(self._microphone.recorded), bytes(self._playback.right)
            if not self._direct and self._carrier.status_callbacks:
                self._leg.report_status("completed")
            outcomes = await asyncio.gather(script, *self._leg.callbacks, return_exceptions=True)
            await self._leg.session.close()
        if self._problem is not None:
            raise self._problem
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return truth

    def hang_up(self) -> None:
        """The caller hangs up: `stop`, and the socket is closed."""
        self._hung_up = True
        self._cut.set()
        self._wake()

    def end(self) -> bool:
        """REST ends the call; False if it had ended."""
        if self.over or self._hung_up:
            return False
        self._ended_by = "rest"
        self.hang_up()
        return True

    def update(self, document: bytes | str) -> bool:
        """REST replaces the TwiML by this document (bytes) or the one at this URL; False if the call has ended."""
        if self.over or self._hung_up:
            return False
        self._next = document
        self._cut.set()
        return True

    @property
    def _redirected(self) -> bool:
        return self._hung_up or self._next is not None

    async def _run_documents(self) -> str:
        """Run the call as the carrier does, to its end; returns what ended it: `CallTruth.ended_by`."""
        if self._direct:
            scheme, _, rest = self._entry.partition("://")
            url = f"{'wss' if scheme in ('https', 'wss') else 'ws'}://{rest}"
            await self._stream_until_closed(ConnectVerb(url, tuple(self._parameters.items())))
            return self._ended_by if self._hung_up else "stream_closed"
        status = {"CallStatus": "in-progress" if self._placed else "ringing"}
        document = await self._leg.fetch(self._leg.here, "POST", status)
        if self._carrier.duplicate_webhook:
            document = await self._leg.fetch(self._leg.here, "POST", status)
        while True:
            if self._hung_up:
                return self._ended_by
            if self._next is not None:  # the result of a request meanwhile is discarded
                document = await self._replaced()
                continue
            if document is None:
                return "webhook_failed"
            outcome = await self._execute(document)
            if self._redirected:
                continue
            if isinstance(outcome, str):
                return outcome
            document = await self._leg.fetch(*outcome)

    async def _replaced(self) -> tuple[Verb, ...] | None:
        """The document with which REST has replaced the last one."""
        what, self._next = self._next, None
        self._playback.announcement.clear()
        if isinstance(what, str):
            return await self._leg.fetch(what, "POST", {"CallStatus": "in-progress"})
        try:
            return parse_twiml(what or b"")
        except Unfit as unfit:
            self._violation(unfit.code, f"REST: {unfit.what}")
            return None

    async def _execute(self, document: tuple[Verb, ...]) -> str | tuple[str, str, dict[str, str]]:
        """Execute a document; returns how the call ended, or the request for the next document."""
        for verb in document:
            match verb:
                case ConnectVerb():
                    await self._stream_until_closed(verb)
                    if not self._redirected and verb.action:
                        return urljoin(self._leg.here, verb.action), verb.method, {"CallStatus": "in-progress"}
                case SayVerb():
                    self._announce("say", verb.text)
                    await self._speak_announcement(verb.text)
                case PlayVerb():
                    self._announce("play", verb.url or verb.digits)
                    if verb.loop == 0:
                        self._begin_axis()
                        await self.until(lambda: self._redirected, None)
                case PauseVerb():
                    self._begin_axis()
                    await self._wait(verb.length_s * 1000.0)
                case DialVerb():
                    self._announce("dial", verb.to)
                    shown = verb.caller_id or self.truth.caller
                    known = verb.conference or _CALLER_ID.fullmatch(shown) is not None
                    if not known:  # error 13214
                        self._violation(13214, f"<Dial> without callerId for a call from {shown!r}")
                    elif verb.conference:
                        await self._join_conference(verb)
                    elif verb.whisper:
                        await self._whisper(verb)
                    if not verb.action:
                        return "dial"
                    dial_status = self._carrier.dial_status if known else "failed"
                    result = {"CallStatus": "in-progress", "DialCallStatus": dial_status}
                    return urljoin(self._leg.here, verb.action), verb.method, result
                case EnqueueVerb():
                    self._announce("enqueue", verb.queue)
                    return "enqueue"
                case RedirectVerb():
                    return urljoin(self._leg.here, verb.url), verb.method, {"CallStatus": "in-progress"}
                case RejectVerb():
                    self._announce("reject", verb.reason)
                    return "reject"
                case HangupVerb():
                    self._announce("hangup")
                    return "twiml_hangup"
                case _:
                    assert_never(verb)
            if self._redirected:
                return ""
        return "twiml_end"

    async def _join_conference(self, verb: DialVerb) -> None:
        """Join a conference until it is over."""
        if self._conferences is None:
            return
        self._begin_axis()
        over = self._conferences.join(verb.to, self.call_sid, starts=verb.starts, ends=verb.ends)
        await self.until(lambda: self._redirected or over.is_set(), None)
        self._conferences.leave(verb.to, self.call_sid)

    async def _whisper(self, verb: DialVerb) -> None:
        """Play the whisper to the dialled party before the caller is connected."""
        for spoken in await self._leg.fetch_whisper(verb.whisper):
            if isinstance(spoken, SayVerb):
                self._announce("whisper", spoken.text)

    def _announce(self, verb: str, text: str = "") -> None:
        self.truth.announced.append(Announced(at_s=self._clock(), verb=verb, text=text))

    async def _speak_announcement(self, text: str) -> None:
        self._begin_axis()
        try:
            samples = await asyncio.to_thread(voice.line, text, RATE_HZ, "agent")
            self._playback.announcement += encode(samples)
        except voice.VoiceError:  # without espeak-ng the text is in the report and its duration is silent
            self._playback.announcement += bytes([SILENCE]) * round(0.06 * len(text) * RATE_HZ)
        await self.until(lambda: not self._playback.announcement or self._redirected, None)

    # -- the media socket ---------------------------------------------------------------------------------

    async def _stream_until_closed(self, connect: ConnectVerb) -> None:
        """One `<Stream>`, from the handshake until either side closes it."""
        named = hashlib.sha256(f"{self.call_sid} {len(self.truth.streams)}".encode()).hexdigest()[:32]
        stream = StreamTruth(stream_sid="MZ" + named, url=connect.url, dialled_s=self._clock())
        self.truth.streams.append(stream)
        if self._carrier.delay_ms:
            await asyncio.sleep(self._carrier.delay_ms / 1000)
        headers = {"User-Agent": "Twilio.TmeWs/1.0"}
        if self._auth_token is not None:
            headers["X-Twilio-Signature"] = sign(signed_socket_url(connect.url), {}, self._auth_token)
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                ws = await self._leg.session.ws_connect(
                    self._leg.address_of(connect.url),
                    headers=headers,
                    autoping=True,
                    compress=0,
                    max_msg_size=0,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_S),
                )
        except aiohttp.WSServerHandshakeError as error:
            stream.refused = f"answered {error.status} instead of 101"
            self._violation(31920, stream.refused)
            return
        except (aiohttp.ClientError, TimeoutError) as error:
            stream.refused = f"{type(error).__name__}: {error}"
            self._violation(31901 if isinstance(error, TimeoutError) else 31902, stream.refused)
            return

        self._outbox.begin(stream.stream_sid)
        self._playback.reset()
        self._cut.clear()
        self._outbox.queue('{"event":"connected","protocol":"Call","version":"1.0.0"}')
        start = {
            "accountSid": ACCOUNT_SID,
            "streamSid": stream.stream_sid,
            "callSid": self.truth.call_sid,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": RATE_HZ, "channels": 1},
            "customParameters": dict(connect.parameters),
        }
        self._outbox.event({"event": "start", "start": start})
        self._begin_axis()
        stream.started_s = self._clock()
        self._stream_tick = self._tick
        self._ws, self._stream = ws, stream
        self._leg.report_stream(connect.status_callback, stream, "stream-started")
        if self._redirected:
            self._cut.set()
        sender = asyncio.create_task(self._outbox.send(ws))
        reader = asyncio.create_task(self._read(ws, stream))
        cut = asyncio.create_task(self._cut.wait())
        try:
            await asyncio.wait((reader, cut), return_when=asyncio.FIRST_COMPLETED)
            self._ws = None
            if not reader.done():
                if self._redirected:
                    await self._stop(ws, stream, sender)
                else:  # dropped: no close frame, the peer sees 1006
                    stream.closed_by, stream.close_code = "network", 1006
                    connector = self._leg.session.connector
                    assert connector is not None
                    await connector.close()
        finally:
            self._ws = self._stream = None
            for task in (sender, reader, cut):
                task.cancel()
            ended = await asyncio.gather(sender, reader, cut, return_exceptions=True)
            stream.closed_s = self._clock()
            stream.unplayed = self._playback.reset()
            if stream.closed_by == "network":
                await self._leg.session.close()
                self._leg.open()
            else:
                await ws.close()
            for outcome in ended:
                if isinstance(outcome, Exception) and self._problem is None:
                    self._problem = outcome
        self._leg.report_stream(connect.status_callback, stream, "stream-stopped")

    async def _stop(self, ws: aiohttp.ClientWebSocketResponse, stream: StreamTruth, sender: asyncio.Task[None]) -> None:
        """After a hang-up: send what is queued, `stop`, and close."""
        stop = {"accountSid": ACCOUNT_SID, "callSid": self.truth.call_sid}
        self._outbox.last({"event": "stop", "stop": stop})
        await asyncio.wait((sender,), timeout=CLOSE_TIMEOUT_S)
        stream.closed_by = "carrier"
        await ws.close()
        stream.close_code = ws.close_code

    async def _read(self, ws: aiohttp.ClientWebSocketResponse, stream: StreamTruth) -> None:
        """Read until the gateway closes."""
        async for frame in ws:
            now_s = self._clock()
            if frame.type is aiohttp.WSMsgType.TEXT:
                try:
                    self._handle_message(frame.data, stream.stream_sid, now_s)
                except Unfit as unfit:
                    self._violation(unfit.code, unfit.what)
            elif frame.type is aiohttp.WSMsgType.BINARY:
                self._violation(31950, f"a binary frame of {len(frame.data)} bytes")
            if self._carrier.read_delay_ms:
                await asyncio.sleep(self._carrier.read_delay_ms / 1000.0)
        if not stream.closed_by:
            stream.close_code = ws.close_code
            stream.closed_by = "network" if ws.close_code in (None, 1006) else "gateway"

    def _handle_message(self, text: str, stream_sid: str, now_s: float) -> None:
        """Handle one message of the gateway."""
        found = message(text, stream_sid)
        if isinstance(found, ClearMessage):
            self._playback.clear(now_s, self.truth.began_s + self._tick * TICK_S)
        elif isinstance(found, MarkMessage):
            self._playback.queue_mark(found.mark.name, now_s)
        elif not self._playback.queue_audio(payload(found), now_s):
            self._violation(31931, "more than ten minutes of audio queued: discarded")

    def _echo(self, mark: MarkReceived, why: str) -> None:
        if self._carrier.marks == "lost" or self._silent() or self._stream is None:
            return
        mark.echoed, mark.echoed_s = why, self._clock()
        self._outbox.event({"event": "mark", "mark": {"name": mark.name}})

    def _violation(self, code: int, what: str) -> None:
        if len(self.truth.violations) < VIOLATIONS_MAX:
            self.truth.violations.append(Violation(at_s=self._clock(), code=code, what=what))

    # -- the clock ----------------------------------------------------------------------------------------

    def _begin_axis(self) -> None:
        """Start the axis of both channels now, unless it has started."""
        if self._timer is None and not self.over:
            self.truth.began_s = self._clock()
            self._timer = asyncio.get_running_loop().call_soon(self._ticks)

    def _ticks(self) -> None:
        """Run all ticks that are due, one at a time so that the socket is served between them."""
        if self.over:
            return
        loop = asyncio.get_running_loop()
        due_s = self.truth.began_s + self._tick * TICK_S
        now_s = self._clock()
        if now_s >= due_s:
            self.truth.latest_tick_ms = max(self.truth.latest_tick_ms, 1000.0 * (now_s - due_s))
            try:
                self._one_tick(due_s, now_s)
            except Exception as error:
                self._problem = error
                self.hang_up()
                return
            self._tick += 1
            due_s += TICK_S
        self._timer = loop.call_at(due_s, self._ticks)

    def _one_tick(self, due_s: float, now_s: float) -> None:
        self._playback.finish_frame()
        if self._tick:  # send the caller's last 20 ms
            live = None if self._live is None else self._live.speak(len(self._microphone.recorded))
            text = self._microphone.record(self._playback.right, live)
            self._send_frame(text, now_s)

        self._playback.play_frame(due_s, streaming=self._ws is not None)
        if self._live is not None:
            self._live.hear(bytes(self._playback.right[-FRAME_BYTES:]))
        if self._carrier.drop_after_s is not None and 0 < len(self.truth.streams) <= self._carrier.drops:
            started_s = self.truth.streams[-1].started_s
            if started_s is not None and now_s - started_s >= self._carrier.drop_after_s:
                self._cut.set()
        self._send_rubbish(now_s)
        for ready, future in self._waiting:
            if not future.done() and ready():
                future.set_result(None)

    def _send_rubbish(self, now_s: float) -> None:
        after_s, stream = self._carrier.rubbish_after_s, self._stream
        if after_s is None or self._rubbish_sent or stream is None or stream.started_s is None:
            return
        if now_s - stream.started_s >= after_s:
            self._rubbish_sent = True
            for text in RUBBISH:
                self._outbox.queue(text)

    def _silent(self) -> bool:
        """Whether the scenario silences the carrier at this moment."""
        after_s = self._carrier.silent_after_s
        if after_s is None or not 0 < len(self.truth.streams) <= self._carrier.drops:
            return False
        started_s = self.truth.streams[-1].started_s
        return started_s is not None and self._clock() - started_s >= after_s

    def _send_frame(self, text: str, now_s: float) -> None:
        stream = self._stream
        if self._ws is None or stream is None or self._silent():
            return
        at_ms = (self._tick - 1 - self._stream_tick) * 20 + self._carrier.start_offset_ms
        if self._outbox.frame(text, at_ms, now_s):
            stream.frames += 1
        else:
            self.truth.frames_dropped += 1

    # -- the caller ---------------------------------------------------------------------------------------

    async def say(self, line: str, sound: Path | None = None) -> Utterance:
        """Speak a line (a text, or the path of a WAV file; `sound`: that of the text) and wait for its end."""
        return await self._utter(line, "say", self._sound(line, sound))

    async def cough(self) -> Utterance:
        return await self._utter("", "cough", cut_up(voice.cough(RATE_HZ, self._carrier.seed)))

    async def keyboard(self, ms: float = 2_000.0) -> Utterance:
        keys = voice.keyboard(RATE_HZ, ms / 1000.0, self._carrier.seed)
        return await self._utter("", "keyboard", cut_up(keys))

    async def press(self, keys: str) -> None:
        """Press keys, 100 ms apart."""
        for key in keys:
            if self._stream is None or self.over:
                raise StepFailed("there is no stream to press a key on")
            self.truth.digits.append((self._clock(), key))
            self._outbox.event({"event": "dtmf", "dtmf": {"track": "inbound_track", "digit": key}})
            await self._listen(100.0)

    async def pause(self, ms: float) -> None:
        """Stay silent."""
        await self._listen(ms)
        if self.over:
            raise StepFailed("the call ended")

    async def agent_starts(self, nth: int | None = None, timeout_ms: float = 15_000.0) -> Interval:
        """Wait until the agent is audible: its next utterance, or its `nth` (from 1). Raises `StepFailed`."""
        await self._expect(lambda: self._agent_interval(nth) is not None, timeout_ms, "the agent was not heard")
        found = self._agent_interval(nth)
        assert found is not None
        return found

    async def agent_ends(self, nth: int | None = None, timeout_ms: float = 15_000.0) -> Interval:
        """Wait for the end of the agent's next utterance, or of its `nth`. Raises `StepFailed`."""
        until_s = self._clock() + timeout_ms / 1000.0
        interval = await self.agent_starts(nth, timeout_ms)
        left_ms = max(0.0, 1000.0 * (until_s - self._clock()))
        await self._expect(lambda: not interval.open, left_ms, "the agent did not fall silent")
        self._next_interval = max(self._next_interval, self.truth.agent.index(interval) + 1)
        return interval

    async def agent_has_talked(self, ms: float, timeout_ms: float = 15_000.0) -> Interval:
        """Wait until the agent's current or next utterance has lasted `ms` or has ended."""
        interval = await self.agent_starts(None, timeout_ms)
        await self._expect(lambda: not interval.open or self._clock() - interval.start_s >= ms / 1000.0, None)
        return interval

    async def ended(self, timeout_ms: float = 15_000.0) -> None:
        """Wait until the other side has ended the call. Raises `StepFailed`."""
        try:
            async with asyncio.timeout(timeout_ms / 1000.0):
                await self._over.wait()
        except TimeoutError:
            raise StepFailed(f"the call did not end within {timeout_ms / 1000.0:g} s") from None

    def _agent_interval(self, nth: int | None) -> Interval | None:
        intervals = self.truth.agent
        if nth is not None:
            return intervals[nth - 1] if len(intervals) >= nth else None
        for interval in intervals[self._next_interval :]:
            if interval.open or interval.end_s > self._spoken_until_s:
                return interval
        return None

    def _sound(self, line: str, sound: Path | None) -> Sound:
        if sound is None and line.lower().endswith(".wav"):
            sound = Path(line)
        return sound_of(line if sound is None else (self._directory or Path()) / sound)

    async def _utter(self, text: str, kind: str, sound: Sound) -> Utterance:
        if self.over or self._timer is None:
            raise StepFailed("there is no call to speak on")
        # Speech continues with the frame sent at the next tick.
        place = self._microphone.say(sound)
        first, last = place + sound.first, place + sound.last
        interval = self.truth.agent[-1] if self.truth.agent else None
        spoken = Utterance(
            text=text,
            kind=kind,
            onset_s=self.truth.began_s + first / RATE_HZ,
            end_s=self.truth.began_s + last / RATE_HZ,
            onset_place=first,
            end_place=last,
            over_agent=interval is not None and interval.open,
        )
        self.truth.spoken.append(spoken)
        if kind == "say":
            self._spoken_until_s = spoken.end_s
        await self._expect(lambda: self._microphone.silent, None)
        return spoken

    async def _listen(self, ms: float) -> None:
        last = self._tick + max(1, round(ms / 1000.0 / TICK_S))
        await self.until(lambda: self._tick >= last or self._hung_up, None)

    async def _wait(self, ms: float) -> None:
        """A document's pause; a redirection or hang-up ends it."""
        last = self._tick + max(1, round(ms / 1000.0 / TICK_S))
        await self.until(lambda: self._tick >= last or self._redirected, None)

    async def _expect(self, ready: Callable[[], bool], timeout_ms: float | None, what: str = "") -> None:
        if await self.until(ready, timeout_ms):
            return
        if self.over or self._hung_up:
            raise StepFailed("the call ended first")
        raise StepFailed(f"{what} within {(timeout_ms or 0.0) / 1000.0:g} s")

    async def until(self, ready: Callable[[], bool], timeout_ms: float | None) -> bool:
        """Wait, tick by tick, until `ready()`; False when the time or the call has ended before."""
        if ready() or self.over or self._hung_up:
            return ready()
        waiting = (ready, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000.0):
                await waiting[1]
        except TimeoutError:
            pass
        finally:
            self._waiting.remove(waiting)
        return ready()

    def _wake(self) -> None:
        """Wake every waiter: the call has ended or is about to."""
        for _, future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def _play_script(self) -> None:
        if self._live is not None:
            try:
                await self._live.converse(self)
            finally:
                self.hang_up()
            return
        if not self._steps:
            return
        for step in self._steps:
            taken = StepTaken(step=described(step), began_s=self._clock())
            self.truth.steps.append(taken)
            try:
                await self._do(step)
            except StepFailed as failure:
                taken.failed = str(failure)
            taken.ended_s = self._clock()
            if taken.failed:
                break
        self.hang_up()

    async def _do(self, step: Step) -> None:
        match step:
            case WaitForAgent(at="start"):
                await self.agent_starts(step.nth, step.timeout_ms)
            case WaitForAgent():
                await self.agent_ends(step.nth, step.timeout_ms)
            case Say():
                await self.say(step.line, step.sound)
            case SayOver():
                await self.agent_has_talked(step.after_ms, step.timeout_ms)
                await self.say(step.line, step.sound)
            case Cough():
                if step.over_after_ms is not None:
                    await self.agent_has_talked(step.over_after_ms)
                await self.cough()
            case Keyboard():
                await self.keyboard(step.ms)
            case Digit():
                await self.press(step.keys)
            case Pause():
                await self.pause(step.ms)
            case HangUp():
                self.hang_up()
            case WaitForEnd():
                await self.ended(step.timeout_ms)
            case _:
                assert_never(step)


def _level_dbov(codes: bytearray) -> float:
    """The loudest of the last 100 ms."""
    return float(levels_dbov(bytes(codes[-5 * FRAME_BYTES :])).max(initial=SILENCE_DBOV))
