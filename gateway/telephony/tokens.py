"""One-time stream tokens: proof that a media socket belongs to a call our webhook answered. Pure.

A token travels in the document that answers the webhook, which the carrier may keep and show: so it is bound to its
call, short-lived and void after its first use.
"""

from __future__ import annotations

import hmac
import secrets

__all__ = ["MAX_TOKENS", "TOKEN_LIFE_S", "StreamTokens"]

TOKEN_LIFE_S = 60.0  # from the webhook's answer to the stream takes about a second; a bad handshake a few
MAX_TOKENS = 10_000  # far more calls than one process can ring in a minute; past it the oldest is void


class StreamTokens:
    """The tokens issued and not used yet. `now_s` is one clock that only grows."""

    def __init__(self, life_s: float = TOKEN_LIFE_S, max_tokens: int = MAX_TOKENS) -> None:
        self._life_s, self._max_tokens = life_s, max_tokens
        self._held: dict[str, tuple[str, float]] = {}  # call_id -> token, expiry; oldest first

    def __len__(self) -> int:
        return len(self._held)

    def mint(self, call_id: str, now_s: float) -> str:
        """A token for this call's next stream: 256 bits, URL-safe text, 43 characters.

        A call has one at a time: minted again before it is used, it stays the same, so that a repeated webhook
        cannot void the document that the carrier took.
        """
        self._drop_expired(now_s)
        token, _ = self._held.pop(call_id, (None, 0.0))
        token = token or secrets.token_urlsafe(32)
        while len(self._held) >= self._max_tokens:
            del self._held[next(iter(self._held))]
        self._held[call_id] = token, now_s + self._life_s
        return token

    def claim(self, token: str, call_id: str, now_s: float) -> bool:
        """Whether this is the call's token, unused and in time; if so it is used up now.

        A wrong token leaves the right one valid.
        """
        self._drop_expired(now_s)
        held, _ = self._held.get(call_id, ("", 0.0))
        same = hmac.compare_digest(held.encode(), token.encode("utf-8", "surrogatepass"))
        if not held or not same:
            return False
        del self._held[call_id]
        return True

    def _drop_expired(self, now_s: float) -> None:
        while self._held:
            call_id, (_, expires_s) = next(iter(self._held.items()))
            if now_s < expires_s:
                return
            del self._held[call_id]
