"""A page's WebSocket that another process should have: its messages are passed on, both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import aiohttp
from aiohttp import WSMsgType, web

__all__ = ["Peer", "relay"]

SEND_S = 5.0  # for one message: a side that stopped reading is cut off
IN_ORDER = (1000, 1001)  # closed by the page, or with it (RFC 6455, 7.4.1)
LOST = 1011

Peer = Callable[[str, str], AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse | None]]  # its name, the path
_Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def relay(
    page: web.WebSocketResponse, there: aiohttp.ClientWebSocketResponse, accepted: Callable[[], None]
) -> None:
    """Pass messages on until either side is gone; the other one sees how. `accepted()`: the process has sent something,
    and so has taken the page's token.
    """
    up = asyncio.create_task(_pass_on(page, there), name="relay")
    down = asyncio.create_task(_pass_on(there, page, accepted), name="relay")
    try:
        await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
    code = page.close_code if page.closed else None
    await there.close(code=code if code in IN_ORDER else LOST)
    await page.close(code=there.close_code or LOST)


async def _pass_on(source: _Socket, to: _Socket, first: Callable[[], None] | None = None) -> None:
    async for message in source:
        if first is not None:
            first()
            first = None
        async with asyncio.timeout(SEND_S):
            if message.type is WSMsgType.BINARY:
                await to.send_bytes(message.data)
            elif message.type is WSMsgType.TEXT:
                await to.send_str(message.data)
