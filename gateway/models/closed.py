"""What a closed connection of websockets leaves behind."""

from __future__ import annotations

from typing import Any

from websockets.protocol import State

from offhook.gateway.errors import forget_frames

__all__ = ["free"]


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
