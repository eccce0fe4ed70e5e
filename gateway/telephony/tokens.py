"""One-time stream tokens: proof that a media socket belongs to a call that one of our nodes answered. Pure.

A token travels in the document that answers the webhook, which the carrier may keep and show: so it is bound to its
call, short-lived and void after its first use. It is signed, so that any node with the fleet's key can check it:

    v1.<call>.<expiry>.<node>.<epoch>.<id>.<mac>        HMAC-SHA-256, cut to 128 bits
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["CLOCKS_APART_S", "MAX_BURNT", "TOKEN_LIFE_S", "StreamToken", "StreamTokens", "node_of"]

TOKEN_LIFE_S = 60.0  # from the webhook's answer to the stream takes about a second; a bad handshake a few
CLOCKS_APART_S = 60.0  # a token of another node is accepted for this much longer: its clock is not ours
MAX_BURNT = 10_000  # far more streams than one process can start in a minute; past it the oldest is forgotten
MAC_BYTES = 16
MAX_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class StreamToken:
    """What a valid token says."""

    call_id: str
    node: str
    epoch: int
    token_id: str


class StreamTokens:
    """Mints this node's tokens and checks every node's. `keys`: the fleet's, the first one signs; without one, tokens
    are this process's own.

    `now_s` is one clock that only grows; `wall(now_s)` is the same moment for all nodes.
    """

    def __init__(
        self,
        keys: Sequence[str] = (),
        node: str = "",
        *,
        life_s: float = TOKEN_LIFE_S,
        wall: Callable[[float], float] = lambda now_s: now_s,
    ) -> None:
        self._keys = [hashlib.sha256(b"offhook stream token\0" + key.encode()).digest() for key in keys]
        self._keys = self._keys or [secrets.token_bytes(32)]
        self._node, self._life_s, self._wall = node, life_s, wall
        self._burnt: dict[str, float] = {}  # token id -> when it would have expired; oldest first

    def __len__(self) -> int:
        """How many used tokens are remembered."""
        return len(self._burnt)

    def mint(self, call_id: str, now_s: float, epoch: int = 1) -> str:
        """A token for this call's next stream: URL-safe text."""
        expires_ms = int((self._wall(now_s) + self._life_s) * 1000)
        said = f"v1.{call_id}.{expires_ms:x}.{self._node}.{epoch}.{secrets.token_urlsafe(12)}"
        return f"{said}.{_mac(self._keys[0], said)}"

    def read(self, token: str, call_id: str, now_s: float) -> StreamToken | None:
        """What the token says; None when it is not a token of this call's, or too late, or used here before."""
        said, _, mac = token[:MAX_CHARACTERS].rpartition(".")
        fields = said.split(".")
        if len(fields) != 6 or fields[0] != "v1" or len(token) > MAX_CHARACTERS or not token.isascii():
            return None
        if not any(hmac.compare_digest(_mac(key, said), mac) for key in self._keys):
            return None
        _, named, expires_ms, node, epoch, token_id = fields
        late_s = self._wall(now_s) - int(expires_ms, 16) / 1000
        if named != call_id or late_s >= (0.0 if node == self._node else CLOCKS_APART_S) or token_id in self._burnt:
            return None
        return StreamToken(named, node, int(epoch), token_id)

    def burn(self, token: StreamToken, now_s: float) -> None:
        """Use it up in this process; the fleet's memory of it is the live store's."""
        while self._burnt and (len(self._burnt) >= MAX_BURNT or next(iter(self._burnt.values())) <= now_s):
            del self._burnt[next(iter(self._burnt))]
        self._burnt[token.token_id] = now_s + self._life_s + CLOCKS_APART_S

    def claim(self, token: str, call_id: str, now_s: float) -> StreamToken | None:
        """`read`, and used up if it is valid. A wrong token leaves the right one valid."""
        found = self.read(token, call_id, now_s)
        if found is not None:
            self.burn(found, now_s)
        return found


def node_of(token: str) -> str:
    """The node that the token names, unchecked; "" where it names none."""
    fields = token.split(".", 4)
    return fields[3] if len(fields) == 5 and fields[0] == "v1" else ""


def _mac(key: bytes, said: str) -> str:
    digest = hmac.digest(key, said.encode(), "sha256")[:MAC_BYTES]
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
