"""HTTP tools against a real service on this machine: what works, what fails, and what is told to whom."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from aiohttp import web

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.agent.spec import ToolSettings
from offhook.gateway.agent.tools import HttpTool
from offhook.gateway.conversation.events import ToolPolicy
from offhook.gateway.errors import OperatorError
from offhook.gateway.tools import Tool, ToolCall, ToolError, ToolHost
from offhook.gateway.tools.build import build_tools
from offhook.gateway.tools.http.client import HttpClient
from offhook.metrics.catalogue import TOOL_FAILURES
from tests.tools.http.resolver import ScriptedResolver

SECRET = "planted-canary-4711"
HOST = cast(ToolHost, None)  # an HTTP tool has nothing to do with the call itself


class Service:
    """A real server whose next answers are scripted; `seen` keeps what it was asked."""

    def __init__(self) -> None:
        self.seen: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] = self._ok
        self.arrived = asyncio.Event()
        self.sent = 0  # bytes of a long answer
        self.gone = 0  # clients that left before their answer

    async def _ok(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"order": {"items": [{"name": "tea"}]}, "path": request.raw_path})

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        self.bodies.append(await request.read())
        self.arrived.set()
        try:
            return await self.answer(request)
        except (asyncio.CancelledError, ConnectionError):
            self.gone += 1
            raise

    @asynccontextmanager
    async def up(self, port: int = 0) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


TOKEN = {"TOKEN": SECRET}


@asynccontextmanager
async def tools_for(
    *settings: ToolSettings, environ: Mapping[str, str] = TOKEN, **kwargs: Any
) -> AsyncIterator[dict[str, Tool]]:
    client = HttpClient(**kwargs)
    await client.start()
    try:
        yield {s.name: client.tool(s, environ) for s in settings}
    finally:
        await client.close()


def tool(url: str, timeout_s: float = 10.0, **http: Any) -> ToolSettings:
    return ToolSettings(
        name="orders",
        description="Looks an order up.",
        timeout_s=timeout_s,
        http=HttpTool(url=url, allow_private=http.pop("allow_private", True), **http),
    )


async def call(tools: Mapping[str, Tool], key: str = "CA1:s1:1", **arguments: Any) -> Any:
    return await tools["orders"].run(ToolCall("1", "orders", arguments, key, {"caller": "+49111"}), HOST)


async def refused(tools: Mapping[str, Tool], **arguments: Any) -> ToolError:
    with pytest.raises(ToolError) as caught:
        await call(tools, **arguments)
    assert SECRET not in f"{caught.value!r} {caught.value} {caught.value.record}"
    assert str(caught.value).endswith((".", "}", "]")), "a plain sentence for the model"
    assert caught.value.reason in TOOL_FAILURES
    return caught.value


def answering(*answers: web.Response | int, then: web.Response | int | None = None) -> Any:
    """These answers one after the other; the last one, or `then`, again and again."""
    queue = list(answers)

    async def answer(request: web.Request) -> web.StreamResponse:
        found = queue.pop(0) if len(queue) > 1 or (then is not None and queue) else queue[0] if queue else then
        return web.json_response({"ok": True}, status=found) if isinstance(found, int) else cast(web.Response, found)

    return answer


async def test_an_order_is_looked_up() -> None:
    service = Service()
    async with service.up() as url:
        settings = tool(
            url + "/orders/{order_id}",
            headers={"Authorization": "Bearer ${TOKEN}", "X-Caller": "{{caller}}"},
            select="order.items[0].name",
        )
        async with tools_for(settings) as tools:
            assert tools["orders"].parameters == {
                "type": "object",
                "properties": {"order_id": {"type": "string"}},
                "required": ["order_id"],
            }
            assert await call(tools, order_id="A/17") == "tea"
    (request,) = service.seen
    assert request.raw_path == "/orders/A%2F17"
    assert request.headers["Authorization"] == f"Bearer {SECRET}"
    assert request.headers["X-Caller"] == "+49111"
    assert "Cookie" not in request.headers


async def test_text_is_returned_as_text_no_body_as_status() -> None:
    service = Service()
    async with service.up() as url, tools_for(tool(url)) as tools:
        service.answer = answering(web.Response(text="Two tables are free."))
        assert await call(tools) == "Two tables are free."
        service.answer = answering(web.Response(status=204))
        assert await call(tools) == {"status": 204}
        service.answer = answering(web.Response(body=b"\x89PNG", content_type="image/png"))
        assert "not text" in str(await refused(tools))


async def test_wrong_values_are_refused_before_the_request() -> None:
    service = Service()
    async with service.up() as url, tools_for(tool(url + "/orders/{order_id}")) as tools:
        for value in ("..", "", None, "\r\nHost: evil"):
            await refused(tools, order_id=value)
    assert service.seen == []


async def test_a_request_without_an_answer_times_out() -> None:
    service = Service()

    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    service.answer = hang
    async with service.up() as url, tools_for(tool(url, attempt_s=0.1)) as tools:
        error = await refused(tools)
    assert str(error) == "The service did not answer in time."
    assert "no answer within 0.1 s (3 attempts)" in error.record
    assert len(service.seen) == 3


async def test_the_tools_own_time_bounds_all_attempts() -> None:
    service = Service()

    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    service.answer = hang
    async with service.up() as url, tools_for(tool(url, timeout_s=0.4, attempt_s=5)) as tools:
        await refused(tools)
    assert len(service.seen) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
async def test_a_transient_failure_of_a_get_is_retried(status: int) -> None:
    service = Service()
    async with service.up() as url, tools_for(tool(url)) as tools:
        service.answer = answering(status, 200)
        assert await call(tools) == {"ok": True}
    assert len(service.seen) == 2


async def test_a_post_that_may_have_acted_is_never_retried() -> None:
    service = Service()
    async with service.up() as url, tools_for(tool(url, method="POST")) as tools:
        service.answer = answering(503)
        error = await refused(tools, people=4)
    assert str(error).endswith("It is not known whether this took effect: check before you try again.")
    assert len(service.seen) == 1


async def test_an_idempotent_post_is_retried_with_its_key() -> None:
    service = Service()
    async with service.up() as url, tools_for(tool(url, method="POST", idempotent=True)) as tools:
        service.answer = answering(503, 200)
        assert await call(tools, key="CA7:s1:42", people=4) == {"ok": True}
    assert [request.headers["Idempotency-Key"] for request in service.seen] == ["CA7:s1:42"] * 2
    assert service.bodies == [b'{"people":4}'] * 2


async def test_a_repeated_call_sends_the_same_key() -> None:
    booked: dict[str, int] = {}

    async def book(request: web.Request) -> web.StreamResponse:
        return web.json_response({"booking": booked.setdefault(request.headers["Idempotency-Key"], len(booked) + 1)})

    service = Service()
    service.answer = book
    async with service.up() as url, tools_for(tool(url, method="POST")) as tools:
        first = await call(tools, key="CA1:s1:1")
        again = await call(tools, key="CA1:s1:1")
        other = await call(tools, key="CA1:s1:2")
    assert first == again == {"booking": 1}
    assert other == {"booking": 2}


async def test_a_refusal_has_its_reason_but_no_html_page() -> None:
    service = Service()
    async with service.up() as url, tools_for(tool(url)) as tools:
        service.answer = answering(web.json_response({"error": "that table is taken"}, status=409))
        assert str(await refused(tools)) == 'The service refused this (409): {"error": "that table is taken"}'
        service.answer = answering(web.Response(text="<h1>Not found</h1>", content_type="text/html", status=404))
        assert str(await refused(tools)) == "The service refused this (404)."
        service.answer = answering(web.Response(text="key of tenant 7 expired", status=401))
        error = await refused(tools)
    assert str(error) == "The service did not allow this (401)."
    assert "key of tenant 7 expired" in error.record
    assert len(service.seen) == 3


async def test_ten_megabytes_are_not_read() -> None:
    service = Service()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        service.sent = 0
        for _ in range(160):
            await response.write(b"x" * 65_536)
            service.sent += 65_536
        return response

    service.answer = endless
    async with service.up() as url, tools_for(tool(url, max_bytes=1_000)) as tools:
        kind = "text/plain"
        assert await call(tools) == "x" * 1_000 + " [cut after 1000 bytes]"
        kind = "application/json"
        assert str(await refused(tools)) == "The service's answer was too long to be used. Ask for less."
    assert service.sent < 10_000_000
    assert service.gone == 2


async def test_gzip_is_decoded_and_a_bomb_is_cut() -> None:
    service = Service()
    zipped = {"Content-Encoding": "gzip", "Content-Type": "text/plain"}
    async with service.up() as url, tools_for(tool(url, max_bytes=1_000)) as tools:
        service.answer = answering(web.Response(body=gzip.compress(b"a" * 500_000_0), headers=zipped))
        assert await call(tools) == "a" * 1_000 + " [cut after 1000 bytes]"
        service.answer = answering(web.Response(body=gzip.compress(b"fine"), headers=zipped))
        assert await call(tools) == "fine"
        service.answer = answering(web.Response(body=b"not gzip", headers=zipped))
        assert str(await refused(tools)) == "The service gave an answer that cannot be read."


@pytest.mark.parametrize("body", ["{", "[" * 100_000, '{"a": NaN}', "\ufffe", "nothing"])
async def test_json_that_is_none_is_an_error(body: str) -> None:
    service = Service()
    async with service.up() as url, tools_for(tool(url)) as tools:
        service.answer = answering(web.Response(text=body, content_type="application/json"))
        assert str(await refused(tools)) == "The service gave an answer that cannot be read."


async def test_a_selected_part_that_is_missing_is_an_error() -> None:
    service = Service()
    async with service.up() as url, tools_for(tool(url, select="order.total")) as tools:
        error = await refused(tools)
    assert str(error) == "The service's answer lacks the field that is needed."
    assert "select order.total: total: not there, there is items" in error.record


async def test_cancelling_hangs_up_on_the_service() -> None:
    service = Service()

    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    service.answer = hang
    async with service.up() as url, tools_for(tool(url, method="POST")) as tools:
        task = asyncio.create_task(call(tools))
        await service.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            while not service.gone:
                await asyncio.sleep(0.01)


async def test_a_breaker_opens_on_failures_and_closes_again() -> None:
    now_s = 0.0
    service = Service()
    async with service.up() as url:
        port = int(url.rpartition(":")[2])
    async with tools_for(tool(url, method="POST"), clock=lambda: now_s) as tools:
        errors = [await refused(tools) for _ in range(2)]  # never sent, so tried three times each
        assert str(errors[0]) == "The service cannot be reached just now."
        assert "no connection" in errors[0].record
        assert str(errors[1]) == "The service is out of order just now. Offer to try again in a while."
        async with service.up(port):
            await refused(tools)
            assert service.seen == [], "it is left alone, though it is back"
            now_s = 30.0
            assert (await call(tools))["order"]
            assert (await call(tools))["order"]


async def test_agents_share_the_breaker_of_a_host() -> None:
    service = Service()
    service.answer = answering(500)
    async with service.up() as url:
        client = HttpClient()
        toolbox, another = (
            build_tools(
                parse_agent(
                    f"name: {name}\ntools:\n"
                    f"- {{name: orders, description: d, http: {{url: '{url}/{name}', allow_private: true}}}}"
                ),
                {},
                client,
            )
            for name in ("one", "two")
        )
        await client.start()
        for _ in range(2):  # tried three times each, and left alone after the fifth
            await refused(toolbox.tools)
        assert (await refused(another.tools)).reason == "left_alone"
        assert {request.path for request in service.seen} == {"/one"}
        await client.close()


async def test_refusals_do_not_open_the_breaker() -> None:
    service = Service()
    async with service.up() as url, tools_for(tool(url)) as tools:
        service.answer = answering(404)
        for _ in range(10):
            await refused(tools)
        service.answer = answering(200)
        assert await call(tools) == {"ok": True}


@pytest.mark.parametrize(
    "target",
    ["http://10.0.0.1/", "http://169.254.169.254/latest/", "https://evil.example/", "/elsewhere", "file:///etc"],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed(target: str, status: int) -> None:
    service = Service()
    async with service.up() as url, tools_for(tool(url, headers={"Authorization": "Bearer ${TOKEN}"})) as tools:
        service.answer = answering(web.Response(status=status, headers={"Location": target}))
        error = await refused(tools)
    assert "redirects are not followed" in error.record
    assert target in error.record
    assert len(service.seen) == 1


@asynccontextmanager
async def listening_ear() -> AsyncIterator[tuple[int, list[Any]]]:
    """A port on this machine, and who connected to it."""
    connected: list[Any] = []
    server = await asyncio.start_server(lambda reader, writer: (connected.append(1), writer.close()), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], connected


async def test_a_name_of_a_loopback_address_is_refused() -> None:
    async with (
        listening_ear() as (port, connected),
        tools_for(tool(f"https://localhost:{port}/", allow_private=False)) as tools,
    ):
        error = await refused(tools)
        assert connected == []
    assert str(error) == "This service may not be reached."
    assert "localhost leads to " in error.record
    assert "allow_private: true opens this" in error.record


async def test_a_name_rebound_between_requests_is_refused() -> None:
    async with listening_ear() as (port, connected):
        answers = ScriptedResolver(*[["127.0.0.1"]] * 5)
        settings = tool(f"https://rebinds.example:{port}/", allow_private=False)
        async with tools_for(settings, resolver=answers) as tools:
            error = await refused(tools)
            assert connected == []
    assert "rebinds.example leads to 127.0.0.1" in error.record


async def test_one_tools_allow_private_is_not_anothers() -> None:
    """The connection of the first is still open when the second asks for the same host."""
    service = Service()
    async with service.up() as url:
        inside = tool(url.replace("127.0.0.1", "localhost"))
        outside = ToolSettings(name="outside", description="x", http=HttpTool(url="https://localhost:9443/"))
        async with tools_for(inside, outside) as tools:
            await call(tools)
            with pytest.raises(ToolError, match="may not be reached"):
                await tools["outside"].run(ToolCall("2", "outside", {}, "k"), HOST)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/x",
        "https://2130706433/x",
        "https://0x7f.1/x",
        "https://[::ffff:10.0.0.1]/x",
        "https://169.254.169.254/x",
        "https://user@api.example.com/x",
        "https://api.example.com:22/x",
        "https://api.example.com:99999/x",
        "${BASE}/x",
    ],
)
def test_a_refused_address_is_reported_at_the_start(url: str) -> None:
    with pytest.raises(OperatorError, match=r"tool orders: http\.url: "):
        HttpClient().tool(tool(url, allow_private=False), {"BASE": "https://10.0.0.1"})


@pytest.mark.parametrize("environ", [{}, {"TOKEN": ""}, {"TOKEN": "two\nlines"}])
def test_a_missing_or_broken_secret_fails_the_start(environ: dict[str, str]) -> None:
    with pytest.raises(OperatorError, match=r"tool orders: http\.headers\.Authorization: TOKEN") as caught:
        HttpClient().tool(tool("https://a.example/", headers={"Authorization": "Bearer ${TOKEN}"}), environ)
    assert "two" not in str(caught.value)


async def test_a_secret_is_sent_and_appears_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    """The service repeats every secret it was given, in answers, refusals and redirects."""
    caplog.set_level(logging.DEBUG)
    service = Service()
    secret = SECRET + '/"ü '
    statuses = iter((200, 302, 401, 404, 409, 500, 503))

    async def tell_tale(request: web.Request) -> web.StreamResponse:
        status = next(statuses)
        told = {"headers": dict(request.headers), "path": request.raw_path, "body": service.bodies[-1].decode()}
        if status >= 300 and status < 400:
            return web.Response(status=status, headers={"Location": "http://x/" + request.raw_path})
        return web.json_response(told, status=status)

    service.answer = tell_tale
    async with service.up() as url:
        settings = tool(
            url + "/hooks",
            method="POST",
            headers={"Authorization": "Bearer ${TOKEN}"},
            query={"key": "${TOKEN}"},
            body={"secret": "${TOKEN}"},
        )
        async with tools_for(settings, environ={"TOKEN": secret}) as tools:
            said: list[str] = []
            for _ in range(7):
                try:
                    said.append(str(await call(tools)))
                except ToolError as error:
                    said.append(f"{error!r} {error.record}")
    assert len(service.seen) == 7
    assert all(SECRET in request.headers["Authorization"] for request in service.seen)
    assert not [text for text in said if SECRET in text]
    assert SECRET not in caplog.text
    assert any("[secret]" in text for text in said)


async def test_a_call_outside_start_and_stop_is_an_error() -> None:
    client = HttpClient()
    tools = {"orders": client.tool(tool("https://a.example/"), {})}
    with pytest.raises(ToolError):
        await call(tools)
    await client.start()
    await client.close()
    with pytest.raises(ToolError):
        await call(tools)


def test_the_settings_of_the_agent_file_reach_the_tool() -> None:
    settings = ToolSettings(
        name="orders",
        description="d",
        http=HttpTool(url="https://a.example/"),
        parameters={"type": "object", "properties": {}},
        blocking=True,
        on_barge_in="finish",
        announce="silent",
        timeout_s=3,
        filler="tone",
        outside_effects=True,
    )
    built = HttpClient().tool(settings, {})
    assert (built.blocking, built.on_barge_in, built.silent) == (True, ToolPolicy.FINISH, True)
    assert (built.timeout_s, built.filler, built.outside_effects) == (3, "tone", True)


# --- the cases of the field


ORDER = '{"order": {"status": "shipped", "city": "Köln"}}'


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("application/json; charset=utf-8", b"\xef\xbb\xbf" + ORDER.encode(), {"status": "shipped", "city": "Köln"}),
        ("Application/JSON;Charset=ISO-8859-1", ORDER.encode("latin-1"), {"status": "shipped", "city": "Köln"}),
        ("application/vnd.shop+json", ORDER.encode(), {"status": "shipped", "city": "Köln"}),
    ],
)
async def test_an_odd_but_legal_json_answer_is_read(kind: str, body: bytes, expected: Any) -> None:
    service = Service()
    async with service.up() as url, tools_for(tool(url, select="order")) as tools:
        service.answer = answering(web.Response(body=body, headers={"Content-Type": kind}))
        assert await call(tools) == expected


@pytest.mark.parametrize(
    ("charset", "text"),
    [("iso-8859-1", "Café Müller, Straße 5"), ("windows-1251", "Москва"), ("UTF-16", "Köln")],
)
async def test_a_text_is_decoded_by_its_charset(charset: str, text: str) -> None:
    service = Service()
    async with service.up() as url, tools_for(tool(url)) as tools:
        headers = {"Content-Type": f'text/plain; charset="{charset}"'}
        service.answer = answering(web.Response(body=text.encode(charset), headers=headers))
        assert await call(tools) == text


async def test_an_unknown_charset_is_no_success() -> None:
    service = Service()
    async with service.up() as url, tools_for(tool(url)) as tools:
        headers = {"Content-Type": "text/plain; charset=x-klingon"}
        service.answer = answering(web.Response(body=b"abc", headers=headers))
        error = await refused(tools)
        assert "x-klingon" in error.record
        assert error.reason == "bad_answer"
        service.answer = answering(web.Response(body=b"Gone.", headers=headers, status=410))
        assert (await refused(tools)).reason == "status"


RAW = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        RAW + b"Content-Length: 40\r\n\r\n" + b'{"a": 1}',
        RAW + b"Transfer-Encoding: chunked\r\n\r\n8\r\n" + b'{"a": 1}\r\n',
        RAW + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b'{"a": 1}' + b" " * 999)[:-9],
        RAW.replace(b"200 OK", b"206 Partial Content") + b"Content-Length: 8\r\n\r\n" + b'{"a": 1}',
        RAW + b"Content-Length: 4\r\n\r\n" + b'{"a": 1}',
    ],
    ids=["length", "chunks", "gzip", "partial", "short length"],
)
async def test_half_an_answer_is_an_error(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, tools_for(tool(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")) as tools:
        assert (await refused(tools)).reason in ("bad_answer", "unreachable")


async def test_retry_after_is_waited_for_within_the_time() -> None:
    service = Service()
    async with service.up() as url, tools_for(tool(url, timeout_s=6.0)) as tools:
        slow = web.Response(status=429, headers={"Retry-After": "1"})
        service.answer = answering(slow, 200)
        began_s = asyncio.get_running_loop().time()
        assert await call(tools) == {"ok": True}
        assert asyncio.get_running_loop().time() - began_s >= 1.0
        later = web.Response(status=503, headers={"Retry-After": "Fri, 27 Nov 2026 20:00:00 GMT", "Date": DATE})
        service.seen.clear()
        service.answer = answering(later, 200)
        error = await refused(tools)
    assert len(service.seen) == 1  # a minute is more than the tool has
    assert "(Retry-After: 60 s)" in error.record


DATE = "Fri, 27 Nov 2026 19:59:00 GMT"
