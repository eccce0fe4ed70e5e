"""A balancer in this process: each connection is for one webhook or one stream, and goes to a gateway that is up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

__all__ = ["Front"]


class Front:
    """`ports(head)`: where a connection whose first bytes are these may go, the best first. What a gateway is sent
    waits while `flows` is clear.
    """

    def __init__(self, ports: Callable[[bytes], Iterable[int]]) -> None:
        self._ports = ports
        self.flows = asyncio.Event()
        self.flows.set()
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Front:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.abort()
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.read(65_536)
        if head.startswith(b"POST"):
            head = head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        await self.flows.wait()
        for port in self._ports(head):
            with suppress(OSError):
                back, forth = await asyncio.open_connection("127.0.0.1", port)
                forth.write(head)
                self._pairs.append((writer, forth))
                for work in (self._copy(reader, forth), self._copy(back, writer)):
                    self._tasks.add(asyncio.ensure_future(work))
                return
        writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    def abort(self) -> None:
        """Whatever is connected is so no longer, as when a host is gone."""
        for pair in self._pairs:
            for writer in pair:
                writer.transport.abort()
        self._pairs.clear()
