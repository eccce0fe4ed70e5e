"""This process among the others: its name, and which store they share."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

from offhook.gateway.errors import OperatorError
from offhook.gateway.live import LiveStore

__all__ = ["NODE_NAME", "live_store_for", "node_name"]

NODE_NAME = re.compile(r"[a-z0-9-]{1,40}")  # what a URL may name: looked up, never dialled


def node_name(replica: str) -> str:
    """The name for this boot: the given one, or a random one. Raises `OperatorError` for one that no URL can carry."""
    name = replica.lower()
    if name and not NODE_NAME.fullmatch(name):
        raise OperatorError(f"OFFHOOK_REPLICA must be 1 to 40 of a-z, 0-9 and -, not {replica!r}")
    return name or secrets.token_hex(4)


def live_store_for(url: str, *, clock: Callable[[], float], wall: Callable[[], float]) -> LiveStore | None:
    """The store that `OFFHOOK_LIVE` names; None for "". Raises `OperatorError`."""
    if not url:
        return None
    scheme, found, rest = url.partition("://" if "://" in url else ":")
    if found and scheme in ("redis", "rediss", "unix"):
        from offhook.gateway.live.redis import RedisLive

        return RedisLive(url, clock)
    if scheme == "sqlite" and rest.startswith("/"):
        from offhook.gateway.live.sqlite import SqliteLive

        return SqliteLive("/" + rest.lstrip("/"), wall)
    raise OperatorError(
        "OFFHOOK_LIVE must be redis://host:6379/0 (rediss:// with TLS, unix:// for a socket) or "
        "sqlite:/dev/shm/offhook/live.db, on one machine"
    )
