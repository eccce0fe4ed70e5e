"""The other nodes over HTTP: one whose port refuses."""

from __future__ import annotations

import asyncio

from aiohttp import web

from offhook.gateway.live import Node
from offhook.gateway.live.peers import REFUSED_S, Peers
from offhook.gateway.rehearsal.cluster.processes import free_port


async def test_a_port_that_refused_is_asked_anew_later() -> None:
    port, asked = free_port(), []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(text="here")

    app = web.Application()
    app.add_routes([web.post("/after", answer)])
    runner, peers = web.AppRunner(app, access_log=None), Peers()
    await peers.open()
    try:
        peers.nodes["b"] = Node(name="b", address=f"http://127.0.0.1:{port}")
        assert await peers.request("b", "POST", "/after", headers={}) is None
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        assert await peers.request("b", "POST", "/after", headers={}) is None
        assert asked == []  # the other calls of a node that died are not held up by it
        await asyncio.sleep(REFUSED_S + 0.1)
        passed = await peers.request("b", "POST", "/after", headers={})
        assert passed is not None
        assert (passed.body, asked) == (b"here", ["/after"])
    finally:
        await peers.close()
        await runner.cleanup()
