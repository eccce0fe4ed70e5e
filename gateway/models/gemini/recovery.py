"""How a lost model connection is replaced; pure.

Every loss has a cause. For each cause these steps are tried, in this order and no further:

1. resume with the newest handle, at once;
2. resume again, after 0.5, 1, 2 and 4 s (fewer where the handle is likely at fault);
3. a fresh session that is given the call so far;
4. give up.

All within about half a minute and eight attempts, counted until a session has lasted for `stable_s`: sessions that
come up and are lost again are one trouble, not many. An invalid argument is never repeated.

Sources: RFC 6455 close codes; Google, Live API session management; the codes' meaning in practice as reported
for google-genai, LiveKit and Pipecat.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["PATIENCE", "Cause", "Connect", "GiveUp", "Patience", "Step", "Tried", "cause_of", "next_step"]


class Cause(Enum):
    """Why a connection is needed."""

    START = "start"
    ROTATION = "rotation"  # ours, in a quiet moment
    LIFETIME = "lifetime"  # the service ended a connection that had reached its maximum age
    NETWORK = "network"
    BACKEND = "backend"  # the service failed, or did not answer the setup
    BUSY = "busy"  # try again later
    INVALID = "invalid"  # an argument, the handle or the context is refused (1007)
    TOO_BIG = "too_big"  # a message above a limit, of either side: it would be sent again
    REFUSED = "refused"  # the model, a field or the quota (1008)
    FORBIDDEN = "forbidden"  # key, project, address, certificate: another attempt will not help
    STUCK = "stuck"  # connected, and silent


@dataclass(frozen=True, slots=True)
class Patience:
    """The limits of recovery. Compressible, for calls in compressed time."""

    total_s: float = 30.0
    attempts: int = 8
    delays_s: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0)
    stable_s: float = 10.0  # a session that lasted this long ends the trouble before it
    handle_lives_s: float = 2 * 3600 - 60  # two hours in the service
    advise_rotation_s: float = 530.0  # connections end at about 600 s, goAway comes at about 540 s
    advised_time_left_s: float = 50.0


PATIENCE = Patience()


@dataclass(frozen=True, slots=True)
class Tried:
    """What has been tried in the present trouble.

    `last` is the attempt that failed; None when a session was up and was lost.
    """

    since_s: float = -1.0
    attempts: int = 0
    resumes: int = 0
    fresh: int = 0
    last: Connect | None = None


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect after this pause. `resume`: with the handle, else fresh. `bare`: no resumption field at all."""

    after_s: float
    resume: bool
    bare: bool = False


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The model cannot be reached, or not again."""

    why: str


Step = Connect | GiveUp

# How often the handle is tried for a cause, where it may itself be at fault; elsewhere five times.
_RESUMES = {Cause.BACKEND: 2, Cause.STUCK: 1, Cause.REFUSED: 1, Cause.INVALID: 0, Cause.TOO_BIG: 0}
# How many fresh sessions, where more of the same would not help; elsewhere as many as there are attempts.
_FRESH = {
    Cause.BACKEND: 3,
    Cause.STUCK: 3,
    Cause.LIFETIME: 3,
    Cause.ROTATION: 3,
    Cause.REFUSED: 2,
    Cause.INVALID: 1,
    Cause.TOO_BIG: 1,
}


def cause_of(code: int, reason: str = "") -> Cause:
    """From a WebSocket close code or the HTTP status of a refused handshake; 0 for no answer in time."""
    text = reason.lower()
    if code == 1000:
        return Cause.LIFETIME
    if code == 1007:
        return Cause.INVALID
    if code == 1009:
        return Cause.TOO_BIG
    if code == 1008:
        # "The operation was aborted" ends sessions that ran well; any other reason is a refusal.
        return Cause.BACKEND if "abort" in text else Cause.REFUSED
    if code == 1011:
        return Cause.LIFETIME if "deadline expired" in text else Cause.BACKEND
    if code in (1012, 1013, 408, 429) or 500 <= code < 600:
        return Cause.BUSY
    if 400 <= code < 500 or code == 1015:  # 1015: its certificate is not trusted
        return Cause.FORBIDDEN
    if code == 0:
        return Cause.BACKEND
    return Cause.NETWORK


def next_step(
    tried: Tried, cause: Cause, now_s: float, *, has_handle: bool, patience: Patience = PATIENCE
) -> tuple[Tried, Step]:
    """The next step towards a connection, and what will then have been tried."""
    if tried.since_s < 0:
        tried = Tried(since_s=now_s)
    if cause is Cause.FORBIDDEN:
        return tried, GiveUp("the key, the project, the address or the certificate is refused")
    if tried.attempts >= patience.attempts or now_s - tried.since_s >= patience.total_s:
        return tried, GiveUp(f"{tried.attempts} attempts in {now_s - tried.since_s:.0f} s")
    fresh_failed = tried.last is not None and not tried.last.resume
    if has_handle and not fresh_failed and tried.resumes < _RESUMES.get(cause, 5):
        step = Connect(_delay(patience, tried.resumes), resume=True)
        return _made(tried, step), step
    if tried.fresh >= _FRESH.get(cause, patience.attempts):
        return tried, GiveUp(f"{cause.value} after {tried.fresh} fresh sessions")
    # A refused setup is tried once more without the one field reported to cause it.
    bare = tried.last is not None and fresh_failed and (cause is Cause.REFUSED or tried.last.bare)
    step = Connect(0.0 if cause is Cause.REFUSED else _delay(patience, tried.fresh), resume=False, bare=bare)
    return _made(tried, step), step


def _made(tried: Tried, step: Connect) -> Tried:
    return Tried(
        tried.since_s,
        tried.attempts + 1,
        tried.resumes + step.resume,
        tried.fresh + (not step.resume),
        step,
    )


def _delay(patience: Patience, times: int) -> float:
    return patience.delays_s[min(times, len(patience.delays_s) - 1)]
