"""The other nodes over HTTP: a request for a call of theirs is passed on to them, once.

A dead peer refuses in under a millisecond, and a peer is reached while the live store is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import aiohttp
from yarl import URL

from offhook.gateway.live import DEAD_AFTER_S, Node

__all__ = ["FORWARD_S", "HOP", "WHO", "Passed", "Peers"]

HOP = "X-Offhook-Hop"  # a request with it came from a peer and is not passed on again
WHO = "X-Offhook-Who"  # in one that is passed on: who acts, percent-encoded
FORWARD_S = 0.3  # a webhook is answered in a few milliseconds; later than this the call is taken over
SOCKET_S = 2.0  # for an operator, who waits
REFUSED_S = 0.5  # a process takes longer to start: until then a port that has refused is nobody's
ANSWER_MAX = 4 << 20


class Passed(NamedTuple):
    """A peer's answer."""

    status: int
    body: bytes
    content_type: str


class Peers:
    """The nodes seen at the last beat, without this one."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self._http: aiohttp.ClientSession | None = None
        self._refused: set[str] = set()  # just now: all calls of a node that died ask for it at once

    async def open(self) -> None:
        self._http = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    def alive(self, name: str) -> Node | None:
        """The node, unless its beats have stopped."""
        node = self.nodes.get(name)
        return node if node is not None and node.address and node.age_s < DEAD_AFTER_S else None

    async def answers(self, name: str) -> bool:
        """Whether a node whose beats have stopped still answers: it may only have lost the store."""
        node = self.nodes.get(name)
        if node is None or not node.address or self._http is None:
            return False
        try:
            timeout = aiohttp.ClientTimeout(total=FORWARD_S)
            async with self._http.get(f"{node.address}/livez", timeout=timeout) as answer:
                return answer.status < 500
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    @asynccontextmanager
    async def socket(
        self, name: str, path: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse | None]:
        """A WebSocket to this node; None when it does not answer."""
        node, socket = self.alive(name), None
        if node is not None and self._http is not None:
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with asyncio.timeout(SOCKET_S):
                    socket = await self._http.ws_connect(node.address + path, headers={**headers, HOP: "1"})
        try:
            yield socket
        finally:
            if socket is not None:
                await socket.close()

    async def request(
        self,
        name: str,
        method: str,
        path_qs: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        timeout_s: float = FORWARD_S,
    ) -> Passed | None:
        """The answer of this node; None when it did not answer in time. `path_qs`: as received, still encoded."""
        node = self.alive(name)
        if node is None or self._http is None or name in self._refused:
            return None
        try:
            async with self._http.request(
                method,
                URL(node.address + path_qs, encoded=True),
                data=body or None,
                headers={**headers, HOP: "1"},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as answer:
                received = bytearray()
                async for part in answer.content.iter_any():
                    received += part
                    if len(received) > ANSWER_MAX:
                        return None
                return Passed(answer.status, bytes(received), answer.content_type)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError):
                self._refused.add(name)
                asyncio.get_running_loop().call_later(REFUSED_S, self._refused.discard, name)
            return None
