"""The shipped HAProxy before gateways that end: a webhook that one of them took is repeated at another."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from offhook.gateway.rehearsal.cluster.processes import HAProxy, free_port, shipped_config
from tests.needs import require

pytestmark = pytest.mark.wall_clock
HEAD = b"POST /twilio/n/gw0/after HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
BODY = b"a=bc"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


class Server:
    """A gateway that answers every request with `ok`, or while it `ends` with the connection's end."""

    def __init__(self) -> None:
        self.ends, self.bodies = False, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"POST"):
                    self.bodies += await reader.readexactly(len(BODY)) == BODY
                    if self.ends:
                        break
                writer.write(ANSWER + b"ok")
        writer.close()


async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, apart: bool) -> bytes:
    """The answer's first line."""
    writer.write(HEAD)
    if apart:
        await writer.drain()
        await asyncio.sleep(0.03)  # two packets
    writer.write(BODY)
    answer = await asyncio.wait_for(reader.read(1_000), 5)
    return answer.partition(b"\r\n")[0]


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("apart", [False, True], ids=["whole", "body after its head"])
async def test_a_webhook_of_an_ending_node_is_repeated(apart: bool, before: int, tmp_path: Path) -> None:
    require("haproxy")
    nodes, ports = (Server(), Server()), (free_port(), free_port(), free_port())
    listeners = [
        await asyncio.start_server(node.serve, "127.0.0.1", port) for node, port in zip(nodes, ports, strict=False)
    ]
    config = "\n".join(line for line in shipped_config().splitlines() if "gw2" not in line) + "\n"
    names = ("OFFHOOK_GW0", "OFFHOOK_GW1", "OFFHOOK_BIND")
    bound = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
    balancer = HAProxy(tmp_path, "haproxy", config, bound)
    balancer.start()
    try:
        async with asyncio.timeout(10):
            while True:
                with suppress(OSError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", ports[2])
                    break
                await asyncio.sleep(0.02)
        for _ in range(before):
            assert await asked(reader, writer, apart=False) == b"HTTP/1.1 200 OK"
        nodes[0].ends = True
        assert await asked(reader, writer, apart) == b"HTTP/1.1 200 OK"
        assert [node.bodies for node in nodes] == [before + 1, 1]
        writer.close()
    finally:
        balancer.end()
        for listener in listeners:
            listener.close()
