"""What both links need of a WebSocket: TLS, frames made by hand, and a closed connection of websockets freed."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from typing import Any

from websockets.protocol import State

from offhook.gateway.errors import OperatorError, forget_frames

try:
    from websockets.speedups import apply_mask
except ImportError:  # a wheel without C
    from websockets.utils import apply_mask

__all__ = ["free", "text_frame", "tls_context"]

_KEYS_AT_ONCE = 1024  # a system call for each would be one per frame


def _mask_keys() -> Iterator[bytes]:
    """Unpredictable and of one use, as RFC 6455, 5.3 demands."""
    while True:
        fresh = os.urandom(4 * _KEYS_AT_ONCE)
        for at in range(0, len(fresh), 4):
            yield fresh[at : at + 4]


_next_key = _mask_keys().__next__


def tls_context(ca_file: str) -> ssl.SSLContext:
    """`ca_file` replaces the trusted certificates, if it is given. Raises `OperatorError` if it cannot be used."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError):
        raise OperatorError(f"SSL_CERT_FILE cannot be used: {ca_file}") from None


def text_frame(payload: bytes) -> bytes:
    """A text message in one frame, masked, as a client sends it (RFC 6455, 5.2)."""
    key, size = _next_key(), len(payload)
    if size < 126:
        head = bytes((0x81, 0x80 | size))
    elif size < 65_536:
        head = b"\x81\xfe" + size.to_bytes(2, "big")
    else:
        head = b"\x81\xff" + size.to_bytes(8, "big")
    return b"".join((head, key, apply_mask(payload, key)))


def free(ws: Any) -> None:
    """Break the cycles of a connection that is closed: its parser, and an exception of that, hold the protocol that
    holds them, until a full collection. One that is not closed, or not of websockets, is left alone.
    """
    protocol = getattr(ws, "protocol", None)
    if getattr(protocol, "state", None) is State.CLOSED:
        parser = getattr(protocol, "parser", None)
        if parser is not None:
            parser.close()
        forget_frames(getattr(protocol, "parser_exc", None))
