"""What the kernel knows of a connection: on asyncio's sockets and on uvloop's."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from offhook.gateway.observe.tcp import round_trip_s


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_round_trip_is_known_only_while_open(run):
    async def main() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()  # from 3.12 on a server's end waits for its connections

        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            sock = writer.get_extra_info("socket")
            writer.write(b"word\n")
            await reader.readline()
            found = round_trip_s(sock)
            assert found is None or 0 < found < 1
            writer.close()
            await writer.wait_closed()
            assert round_trip_s(sock) is None
        assert round_trip_s(None) is None

    run(main())
