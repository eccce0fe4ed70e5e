"""TwiML documents. No I/O: each function returns the text of one, to be served as text/xml.

Built with the SDK's `VoiceResponse`, which escapes names, numbers and agents' lines; a raw `&` in a URL is a
usual cause of dropped calls. Source: Twilio docs, "TwiML for Programmable Voice".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from twilio.twiml.voice_response import Dial, VoiceResponse

from offhook.gateway.agent.spec import Fallback
from offhook.gateway.errors import OperatorError
from offhook.gateway.numbers import AddressKind, read_address

__all__ = [
    "CONTENT_TYPE",
    "HOLD_MUSIC_URL",
    "MAX_INLINE_CHARACTERS",
    "MAX_PARAMETER_CHARACTERS",
    "connect_stream",
    "dial",
    "fallback",
    "hang_up",
    "hold",
    "join",
    "press",
    "redirect",
    "say",
    "whisper",
]

CONTENT_TYPE = "text/xml"
MAX_PARAMETER_CHARACTERS = 500  # <Parameter>: name and value together must stay under this
MAX_INLINE_CHARACTERS = 4000  # TwiML sent with a REST call (error 32018 above); fetched documents may have 64 kB
HOLD_MUSIC_URL = "http://com.twilio.music.classical.s3.amazonaws.com/BusyStrings.mp3"  # of Twilio docs, "<Enqueue>"

_SENDS_AWAY = Fallback().say  # "... try again later" must not be followed by a connection
# Characters that XML 1.0 excludes, escaped or not: the SDK would write them and Twilio drop the call (12100).
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def connect_stream(
    media_url: str,
    after_url: str,
    parameters: Mapping[str, str] | None = None,
    status_callback_url: str = "",
) -> str:
    """Connect the call to a two-way media stream; when it ends, the next document is requested at `after_url`.

    `media_url`: wss, without a query (Twilio drops it). `parameters` arrive in the stream's `start`.
    Raises `OperatorError` for a URL or a parameter that Twilio does not accept.
    """
    if not media_url.startswith("wss://") or "?" in media_url or "#" in media_url:
        raise OperatorError(f"a media URL must be wss:// without a query, not {media_url!r}")
    response = VoiceResponse()
    connect = response.connect(action=after_url, method="POST")
    # No `track`: a two-way stream has the inbound one only (31941). No audio format: mu-law 8 kHz is the only one.
    stream = connect.stream(url=media_url, status_callback=status_callback_url or None)
    for name, value in (parameters or {}).items():
        if len(name) + len(value) >= MAX_PARAMETER_CHARACTERS:
            raise OperatorError(
                f"stream parameter {name[:40]!r} is too long: Twilio accepts fewer than "
                f"{MAX_PARAMETER_CHARACTERS} characters for name and value together"
            )
        stream.parameter(name=_clean(name), value=_clean(value))
    return str(response)


def hang_up() -> str:
    """End the call."""
    response = VoiceResponse()
    response.hangup()
    return str(response)


def say(line: str, then: str = "") -> str:
    """Have Twilio's own voice say `line`, then continue with the document at `then`, or hang up."""
    response = VoiceResponse()
    if line:
        response.say(_clean(line))
    if then:
        response.redirect(then, method="POST")
    else:
        response.hangup()
    return str(response)


def fallback(agent_fallback: Fallback, *, caller_id: str = "") -> str:
    """When no agent can answer: a line or a recording, then a human, a queue, or a hang-up.

    `caller_id` as of `dial`.
    """
    response = VoiceResponse()
    goes_on = bool(agent_fallback.dial or agent_fallback.enqueue)
    if agent_fallback.play:
        response.play(_clean(agent_fallback.play))
    elif agent_fallback.say and not (goes_on and agent_fallback.say == _SENDS_AWAY):
        response.say(_clean(agent_fallback.say))
    if agent_fallback.dial:
        _target(response.dial(caller_id=_clean(caller_id) or None), agent_fallback.dial)
    elif agent_fallback.enqueue:
        response.enqueue(_clean(agent_fallback.enqueue))
    response.hangup()  # an unanswered dial ends here, not in the silence of an empty document
    return str(response)


def dial(
    target: str,
    *,
    action_url: str = "",
    caller_id: str = "",
    timeout_s: int | None = None,
    whisper_url: str = "",
) -> str:
    """Connect the caller with `target`: a phone number, a SIP address (`sip:...`) or a client (`client:...`).

    `caller_id`: the number to show; the caller's unless given. Twilio requires it when the caller is no telephone
    number (error 13214).

    When that leg ends, `action_url` is requested with DialCallStatus; without it the call ends. `whisper_url`: TwiML
    for the target alone, before the two are joined.
    """
    response = VoiceResponse()
    leg = response.dial(
        action=action_url or None,
        method="POST" if action_url else None,
        caller_id=_clean(caller_id) or None,
        timeout=timeout_s,
    )
    _target(leg, target, whisper_url)
    return str(response)


def redirect(url: str, after_s: int = 0) -> str:
    """Continue with the document at `url`, after `after_s` of silence."""
    response = VoiceResponse()
    if after_s:
        response.pause(length=after_s)
    response.redirect(url, method="POST")
    return str(response)


def hold(music_url: str, line: str = "") -> str:
    """Play this sound file in a loop, after a line, until a REST request ends it."""
    response = VoiceResponse()
    if line:
        response.say(_clean(line))
    response.play(_clean(music_url), loop=0)
    return str(response)


def press(digits: str, then: str) -> str:
    """Send these keys' tones (0-9 A-D # *; `w` is half a second's pause), then continue with the document at `then`."""
    response = VoiceResponse()
    response.play(digits=digits)
    response.redirect(then, method="POST")
    return str(response)


def join(
    conference: str,
    *,
    action_url: str = "",
    caller_id: str = "",
    wait_url: str = "",
    ends: bool = True,
    starts: bool = True,
) -> str:
    """Put the call into a conference. Until a participant with `starts` joins, all hear `wait_url`'s music. A
    participant with `ends` ends the conference for all by leaving. `caller_id` as of `dial`.
    """
    response = VoiceResponse()
    leg = response.dial(
        action=action_url or None, method="POST" if action_url else None, caller_id=_clean(caller_id) or None
    )
    leg.conference(
        _clean(conference),
        start_conference_on_enter=starts,
        end_conference_on_exit=ends,
        wait_url=wait_url or None,
        beep=False,
    )
    return str(response)


def whisper(line: str) -> str:
    """Say this to a person who is about to be connected."""
    response = VoiceResponse()
    if line:
        response.say(_clean(line))
    return str(response)


def _target(leg: Dial, target: str, whisper_url: str = "") -> None:
    address = read_address(target)
    whisper = {"url": whisper_url, "method": "POST"} if whisper_url else {}
    if address.kind is AddressKind.SIP:
        leg.sip(_clean(address.text), **whisper)
    elif address.kind is AddressKind.CLIENT:
        leg.client(_clean(address.text.removeprefix("client:")), **whisper)
    else:
        leg.number(_clean(address.text), **whisper)


def _clean(text: str) -> str:
    return _NOT_XML.sub("", text)
