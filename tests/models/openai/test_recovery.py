"""What a close or a status means, and how long a session is tried for."""

from __future__ import annotations

import pytest

from offhook.gateway.models.openai.recovery import HOPELESS, PATIENCE, Cause, Trouble, cause_of, next_attempt


@pytest.mark.parametrize(
    ("code", "reason", "cause"),
    [
        (0, "no answer to the setup in time", Cause.TIMEOUT),
        (401, "handshake refused", Cause.KEY),
        (403, "", Cause.KEY),
        (3000, "invalid_request_error.invalid_api_key", Cause.KEY),
        (4000, "invalid_request_error.beta_api_shape_disabled", Cause.REFUSED),
        (4000, "unknown_parameter: Unknown parameter: 'session.x'. (session.x)", Cause.REFUSED),
        (404, "", Cause.REFUSED),
        (1015, "its certificate is not trusted", Cause.REFUSED),
        (429, "", Cause.RATE_LIMIT),
        (429, "insufficient_quota: You exceeded your current quota", Cause.QUOTA),
        (1001, "Your session hit the maximum duration of 60 minutes.", Cause.LIFETIME),
        (1000, "", Cause.LIFETIME),
        (1011, "", Cause.SERVER),
        (1012, "", Cause.SERVER),
        (1013, "", Cause.SERVER),
        (503, "handshake refused", Cause.SERVER),
        (1006, "connection lost", Cause.NETWORK),
        (500, "rate_limit_exceeded", Cause.RATE_LIMIT),
        (500, "session_expired", Cause.LIFETIME),
    ],
)
def test_cause_of_a_close(code: int, reason: str, cause: Cause) -> None:
    assert cause_of(code, reason) is cause


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause not in HOPELESS])
def test_attempts_end_in_time(cause: Cause) -> None:
    trouble, now_s, pauses = Trouble(), 100.0, []
    while True:
        trouble, pause_s = next_attempt(trouble, cause, now_s)
        if pause_s is None:
            break
        pauses.append(pause_s)
        now_s += pause_s + 0.2
    assert len(pauses) <= PATIENCE.attempts
    assert now_s - 100.0 <= PATIENCE.total_s + max(PATIENCE.delays_s)


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause in HOPELESS])
def test_what_cannot_help_is_not_repeated(cause: Cause) -> None:
    assert next_attempt(Trouble(), cause, 0.0)[1] is None
