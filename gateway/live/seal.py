"""Encryption of what is kept of a live call outside its process: AES-256-GCM with the fleet's key. Pure but for nonces.

A checkpoint holds what caller and agent said, and the model session's resumption handle, which is a secret.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["Seal"]

NONCE_BYTES = 12


class Seal:
    """`keys`: the first one seals, each one opens."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [AESGCM(hashlib.sha256(b"offhook live state\0" + key.encode()).digest()) for key in keys]

    def seal(self, plain: bytes, call_id: str) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._keys[0].encrypt(nonce, plain, call_id.encode())

    def open(self, sealed: bytes, call_id: str) -> bytes | None:
        """None for what was not sealed with one of the keys, or for another call."""
        nonce, body = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        for key in self._keys:
            try:
                return key.decrypt(nonce, body, call_id.encode())
            except (InvalidTag, ValueError):
                continue
        return None
