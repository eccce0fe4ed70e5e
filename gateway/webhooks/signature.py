"""Signatures of Standard Webhooks (https://www.standardwebhooks.com): HMAC-SHA256 of id, time and body."""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from collections.abc import Sequence
from hashlib import sha256

from offhook.gateway.errors import OperatorError

__all__ = ["headers_of", "keys_of"]

PREFIX = "whsec_"
KEY_BYTES_MIN = 24


def keys_of(secrets: Sequence[str]) -> list[bytes]:
    """The keys of `whsec_...` secrets. Raises `OperatorError`."""
    keys = []
    for secret in secrets:
        try:
            key = b64decode(secret.removeprefix(PREFIX), validate=True)
        except (BadBase64, ValueError):
            key = b""
        if len(key) < KEY_BYTES_MIN:
            raise OperatorError(
                "OFFHOOK_WEBHOOK_SECRET must be whsec_ and 24 bytes or more in base64: make one with "
                '`echo "whsec_$(openssl rand -base64 32)"`'
            )
        keys.append(key)
    return keys


def headers_of(id: str, at_s: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """The headers of one attempt; with several keys one signature of each, so that a receiver may have either."""
    signed = f"{id}.{at_s}.".encode() + body
    signatures = (b64encode(hmac.new(key, signed, sha256).digest()).decode() for key in keys)
    return {
        "webhook-id": id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
