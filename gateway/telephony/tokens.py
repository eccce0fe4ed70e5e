"""One-time stream tokens: proof that a media socket belongs to a call our webhook answered. Pure.

A token travels inside TwiML as a `<Parameter>` (Twilio drops query strings of stream URLs), and TwiML can be
read in Twilio's request inspector: so it is bound to its call, short-lived and burnt at its first use.
"""

from __future__ import annotations

import hmac
import secrets

__all__ = ["MAX_TOKENS", "TOKEN_LIFE_S", "StreamTokens"]

TOKEN_LIFE_S = 60.0  # from TwiML to `start` takes about a second; a bad handshake a few
MAX_TOKENS = 10_000  # far more calls than one process can ring in a minute; past it the oldest is void


class StreamTokens:
    """The tokens handed out and not used yet. `now_s` is one clock that only grows."""

    def __init__(self, life_s: float = TOKEN_LIFE_S, max_tokens: int = MAX_TOKENS) -> None:
        self._life_s, self._max_tokens = life_s, max_tokens
        self._held: dict[str, tuple[str, float]] = {}  # call_sid -> token, expiry; oldest first

    def __len__(self) -> int:
        return len(self._held)

    def mint(self, call_sid: str, now_s: float) -> str:
        """A token for this call's next stream: 256 bits, URL-safe text, 43 characters.

        A call has one at a time: asked again before it is used, the same one lives on, so that a repeated
        webhook cannot void the document that Twilio took.
        """
        self._drop_expired(now_s)
        token, _ = self._held.pop(call_sid, (None, 0.0))
        token = token or secrets.token_urlsafe(32)
        while len(self._held) >= self._max_tokens:
            del self._held[next(iter(self._held))]
        self._held[call_sid] = token, now_s + self._life_s
        return token

    def claim(self, token: str, call_sid: str, now_s: float) -> bool:
        """Whether this is the call's token, unused and in time; if so it is used up now.

        A wrong token leaves the right one alone: nobody else can burn it.
        """
        self._drop_expired(now_s)
        held, _ = self._held.get(call_sid, ("", 0.0))
        same = hmac.compare_digest(held.encode(), token.encode("utf-8", "surrogatepass"))
        if not held or not same:
            return False
        del self._held[call_sid]
        return True

    def _drop_expired(self, now_s: float) -> None:
        while self._held:
            call_sid, (_, expires_s) = next(iter(self._held.items()))
            if now_s < expires_s:
                return
            del self._held[call_sid]
