"""One call at its carrier: the states it goes through."""

from __future__ import annotations

__all__ = ["FINAL", "rank"]

# Twilio's words for a call's life, in their order; callbacks may arrive in another.
_RANKS = {"queued": 0, "initiated": 1, "ringing": 2, "in-progress": 3, "answered": 3}
FINAL = frozenset({"completed", "busy", "no-answer", "failed", "canceled"})


def rank(status: str) -> int:
    """Where `status` stands in a call's life; -1 for a word we do not know."""
    return 4 if status in FINAL else _RANKS.get(status, -1)
