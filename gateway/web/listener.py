"""One listening socket of the gateway and the application behind it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from offhook.gateway.errors import OperatorError
from offhook.gateway.web.connections import Connections

__all__ = ["Received", "cannot_listen", "listening_socket", "served"]

SHARED_BACKLOG = 1_024  # for several processes

# Takes one connection that another process has accepted: its descriptor, what was read of it, and what to call when it
# is closed.
Received = Callable[[int, bytes, Callable[[], None]], None]


@asynccontextmanager
async def served(
    app: web.Application,
    connections: Connections,
    host: str,
    port: int,
    variables: str,
    *,
    shared: socket.socket | None = None,
    on_received: Callable[[Received], None] = lambda receive: None,
) -> AsyncIterator[str]:
    """Serve `app` on a host and port (0: any free one), or on the `shared` socket; gives the local URL.

    `variables`: those that say where it listens. `on_received` is given the function for connections from other
    processes. Raises `OperatorError`.
    """
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    server, loop = runner.server, asyncio.get_running_loop()
    assert server is not None
    try:
        if shared is None:
            listener = await _listen(connections.guard(server), host, port, connections.backlog)
        else:
            listener = await loop.create_server(connections.guard(server), sock=shared, backlog=connections.backlog)
    except OSError as error:
        await runner.cleanup()
        raise cannot_listen(host, port, error, variables) from None
    tasks: set[asyncio.Future[object]] = set()

    def receive(descriptor: int, head: bytes, gone: Callable[[], None]) -> None:
        accepted = socket.socket(fileno=descriptor)
        accepted.setblocking(False)
        factory = connections.received(server, head, gone)
        task: asyncio.Future[object] = asyncio.ensure_future(loop.connect_accepted_socket(factory, accepted))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    on_received(receive)
    try:
        yield url_of(listener.sockets[0])
    finally:
        listener.close()
        connections.close()
        await runner.cleanup()


def listening_socket(host: str, port: int, variables: str) -> socket.socket:
    """A socket that several processes are to accept from; the kernel queues connections from now on.

    Raises `OperatorError`.
    """
    try:
        if host == "::" and socket.has_dualstack_ipv6():
            return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=SHARED_BACKLOG)
    except OSError as error:
        raise cannot_listen(host, port, error, variables) from None


def url_of(listener: socket.socket) -> str:
    """The local URL of a listening socket."""
    bound, port = listener.getsockname()[:2]
    return f"http://[{bound}]:{port}" if ":" in bound else f"http://{bound}:{port}"


def cannot_listen(host: str, port: int, error: OSError, variables: str) -> OperatorError:
    return OperatorError(f"cannot listen on {host}:{port} ({error.strerror}): choose another {variables}")


async def _listen(serving: Callable[[], asyncio.BaseProtocol], host: str, port: int, backlog: int) -> asyncio.Server:
    """A listening socket; `::` takes both families, where asyncio's own would take IPv6 only."""
    loop = asyncio.get_running_loop()
    if host == "::" and socket.has_dualstack_ipv6():
        both = socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
        return await loop.create_server(serving, sock=both, backlog=backlog)
    return await loop.create_server(serving, host, port, backlog=backlog)
