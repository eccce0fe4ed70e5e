"""How a lost session is replaced; pure.

A session cannot be resumed: each new one is given the conversation as text. So there is one kind of attempt, repeated
after 0, 0.5, 1, 2 and 4 s, within about half a minute; what another attempt cannot help (key, quota, model) is not
repeated. Sessions that come up and are lost again are one trouble, not many, until one has lasted `stable_s`.

Sources: OpenAI docs, "Error codes"; RFC 6455; close codes as reported for the service (3000, 4000, 1001).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

__all__ = ["PATIENCE", "Cause", "Patience", "Trouble", "cause_of", "next_attempt"]


class Cause(Enum):
    """Why a session ended, or did not begin; the value is the label of `model_errors_total`."""

    START = "start"
    ROTATION = "rotation"  # ours, in a quiet moment
    STUCK = "stuck"  # connected, and silent
    LIFETIME = "session_expired"  # the service's limit of 60 minutes
    KEY = "key"
    QUOTA = "quota"
    REFUSED = "refused"  # the model, the address, the setup
    RATE_LIMIT = "rate_limit"
    SERVER = "server_error"
    NETWORK = "network"
    TIMEOUT = "timeout"


ERRORS = frozenset(Cause) - {Cause.START, Cause.ROTATION, Cause.STUCK}
HOPELESS = frozenset({Cause.KEY, Cause.QUOTA, Cause.REFUSED})


@dataclass(frozen=True, slots=True)
class Patience:
    """The limits of recovery. Compressible, for calls in compressed time."""

    total_s: float = 30.0
    attempts: int = 8
    delays_s: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0)
    busy_s: float = 2.0  # the least pause after a rate limit
    stable_s: float = 10.0
    rotate_before_s: float = 180.0  # of the session's end: the notice for a quiet moment


PATIENCE = Patience()


@dataclass(frozen=True, slots=True)
class Trouble:
    """What has been tried since a session last worked."""

    since_s: float = -1.0
    attempts: int = 0


def next_attempt(
    trouble: Trouble, cause: Cause, now_s: float, patience: Patience = PATIENCE
) -> tuple[Trouble, float | None]:
    """What will have been tried, and the pause before the next attempt; None: give up."""
    if trouble.since_s < 0:
        trouble = Trouble(since_s=now_s)
    if cause in HOPELESS or trouble.attempts >= patience.attempts or now_s - trouble.since_s >= patience.total_s:
        return trouble, None
    pause_s = patience.delays_s[min(trouble.attempts, len(patience.delays_s) - 1)]
    if cause is Cause.RATE_LIMIT:
        pause_s = max(pause_s, patience.busy_s)
    return replace(trouble, attempts=trouble.attempts + 1), pause_s


_BY_WORD = (
    ("beta_api_shape", Cause.REFUSED),
    ("maximum duration", Cause.LIFETIME),
    ("session_expired", Cause.LIFETIME),
    ("insufficient_quota", Cause.QUOTA),
    ("quota", Cause.QUOTA),
    ("billing", Cause.QUOTA),
    ("api_key", Cause.KEY),
    ("api key", Cause.KEY),
    ("unauthorized", Cause.KEY),
    ("authentication", Cause.KEY),
    ("rate_limit", Cause.RATE_LIMIT),
    ("rate limit", Cause.RATE_LIMIT),
    ("model_not_found", Cause.REFUSED),
    ("invalid_model", Cause.REFUSED),
)


def cause_of(code: int, reason: str = "") -> Cause:
    """From a WebSocket close code or the HTTP status of a refused handshake, 0 for no answer in time; and the text
    beside it, which tells more where there is one.
    """
    text = reason.lower()
    for word, cause in _BY_WORD:
        if word in text:
            return cause
    if code == 0:
        return Cause.TIMEOUT
    if code in (401, 403, 3000):
        return Cause.KEY
    if code == 429:
        return Cause.RATE_LIMIT
    if 400 <= code < 500 or code in (1003, 1007, 1008, 1015) or 3000 < code < 5000:
        return Cause.REFUSED
    if code == 1001 or code == 1000:
        return Cause.LIFETIME
    if code in (1011, 1012, 1013) or 500 <= code < 600:
        return Cause.SERVER
    return Cause.NETWORK
