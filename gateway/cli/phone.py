"""The `offhook` commands of the telephone side: `call`, `number list|set`, `doctor`, `tunnel-help`.

`mount(app)` adds them to the command line.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from offhook.gateway.agent.load import load_agent
from offhook.gateway.cli.proxies import PROXIES
from offhook.gateway.config import Settings, check_proxies, settings_from
from offhook.gateway.errors import OperatorError
from offhook.gateway.numbers import AddressKind, mistake_in, read_address
from offhook.gateway.text import visible

if TYPE_CHECKING:  # every command imports this module: what takes long to import is imported where it is used
    import aiohttp

    from offhook.gateway.cli.doctor import Finding

__all__ = ["mount"]

POLL_S = 0.5

TUNNEL_HELP = """\
Twilio must reach this gateway over https and wss, at an address with a certificate of a public authority.

For trials, use a tunnel to the local port (it adds about 50 ms each way):
    cloudflared tunnel --url http://localhost:{port}        prints https://....trycloudflare.com
    ngrok http {port}                                       prints https://....ngrok-free.app

In production, use a proxy on a host of your own near Twilio's region (Virginia for US1). It must
  - forward WebSockets, with `Upgrade` and `Connection`, and not close long or silent ones
    (`offhook tunnel-help nginx` and `offhook tunnel-help haproxy` print a configuration; Caddy does both by default),
  - keep the path and the query unchanged: they are signed,
  - lead to port {port} alone. Console and metrics are on the admin listener, http://{admin}, and stay on
    this machine; `offhook serve` prints a link to them.

Then
    export OFFHOOK_PUBLIC_URL=https://voice.example.com
    offhook doctor                    checks all of it, from the public URL to the model
    offhook number set +15551234567   points a number to this gateway
"""


def mount(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(call)
    app.command()(doctor)
    app.command("tunnel-help")(tunnel_help)
    numbers = typer.Typer(help="The account's numbers and where their calls go.", no_args_is_help=True)
    numbers.command("list")(number_list)
    numbers.command("set")(number_set)
    app.add_typer(numbers, name="number")


def call(
    to: Annotated[str, typer.Argument(help="A number as +15551234567, or a SIP address.")],
    agent: Annotated[str, typer.Option("--agent", "-a", help="Name of the agent. Default: the gateway's first.")] = "",
    caller_id: Annotated[str, typer.Option("--from", help="The caller ID. Default: the agent's.")] = "",
    var: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the agent's instructions; repeatable.")] = None,
    key: Annotated[str, typer.Option(help="Name of your own for this call: repeated, it is not placed again.")] = "",
    url: Annotated[str, typer.Option(help="The gateway. Default: OFFHOOK_HOST and OFFHOOK_PORT.")] = "",
) -> None:
    """Place an outbound call through a running gateway, and print its status until it ends."""
    settings = settings_from(os.environ)
    variables = {}
    for given in var or []:
        name, equals, value = given.partition("=")
        if not equals:
            raise OperatorError(f"--var takes NAME=VALUE, not {given!r}")
        variables[name] = value
    body = {"to": to, "agent": agent, "from": caller_id, "variables": variables}
    status = asyncio.run(_call(settings, url or _local(settings), body, key))
    if status != "completed":
        raise typer.Exit(1)


def _local(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


async def _call(settings: Settings, url: str, body: dict[str, Any], key: str) -> str:
    import aiohttp

    from offhook.gateway.telephony.status import FINAL

    token = settings.api_token
    if not token:
        raise OperatorError("set OFFHOOK_API_TOKEN to the gateway's token")
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=10)) as http:
        placed = await _ask(http, "POST", f"{url}/calls", body, {"Idempotency-Key": key} if key else None)
        shown = ""
        while True:
            line = placed["status"]
            if placed["answered_by"]:
                line += f", answered by {placed['answered_by']}"
            if placed["error"]:
                line += f": {placed['error']}"
            if line != shown:
                print(line, flush=True)
                shown = line
            if placed["status"] in FINAL:
                return str(placed["status"])
            await asyncio.sleep(POLL_S)
            placed = await _ask(http, "GET", f"{url}/calls/{placed['id']}")


async def _ask(
    http: aiohttp.ClientSession,
    method: str,
    url: str,
    body: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    import aiohttp

    try:
        async with http.request(method, url, json=body, headers=headers) as answer:
            if answer.status >= 400:
                raise OperatorError(f"the gateway answered {answer.status}: {_error_of(await answer.text())}")
            placed: dict[str, Any] = await answer.json()
            return placed
    except (aiohttp.ClientError, TimeoutError) as error:
        raise OperatorError(
            f"no gateway at {url.rpartition('/calls')[0]} ({type(error).__name__}): start it first"
        ) from None


def _error_of(text: str) -> str:
    try:
        return visible(str(msgspec.json.decode(text)["error"]))
    except (ValueError, KeyError, TypeError, RecursionError):  # not the gateway's: a proxy's
        return visible(" ".join(text.split())[:200])


def number_list() -> None:
    """The account's numbers and where their calls go."""
    import aiohttp

    from offhook.gateway.carriers.twilio.webhooks import rest_for
    from offhook.gateway.cli.doctor import destination

    settings = settings_from(os.environ)

    async def listed() -> None:
        async with aiohttp.ClientSession() as http:
            rest = rest_for(settings, http)
            for number in await rest.numbers():
                goes = await destination(rest, number, settings.public_url)
                print(f"{number.number:16} {number.name:24} {goes.removeprefix('to ')}")

    asyncio.run(listed())


def number_set(
    number: Annotated[str, typer.Argument(help="One of the account's numbers, as +15551234567.")],
    fallback_url: Annotated[
        str,
        typer.Option(help="Used when this gateway does not answer, best on another host. Default: the gateway itself."),
    ] = "",
) -> None:
    """Point a number's calls at this gateway: voice URL, fallback URL and status callback."""
    import aiohttp

    from offhook.gateway.carriers.twilio.rest import VoiceHook
    from offhook.gateway.carriers.twilio.webhooks import rest_for
    from offhook.gateway.cli.doctor import HERE, destination

    settings = settings_from(os.environ)
    public = settings.public_url
    if what := mistake_in(number, {AddressKind.NUMBER}):
        raise OperatorError(f"{number!r} {what}")
    number = read_address(number).text
    if not public:
        raise OperatorError("set OFFHOOK_PUBLIC_URL: the number is pointed to it (`offhook tunnel-help`)")

    async def set_it() -> None:
        async with aiohttp.ClientSession() as http:
            rest = rest_for(settings, http)
            found = await rest.numbers(number)
            if not found:
                raise OperatorError(f"{number} is not one of the account's numbers: see `offhook number list`")
            before = await destination(rest, found[0], public)
            # A fallback on another host keeps its method: a file on a web server takes GET.
            own = VoiceHook(f"{public}/twilio/fallback")
            now = await rest.set_number(
                found[0],
                voice_url=f"{public}/twilio/voice",
                fallback=VoiceHook(fallback_url, found[0].fallback.method) if fallback_url else own,
                status_callback_url=f"{public}/twilio/status",
            )
            after = await destination(rest, now, public)
            if after != HERE:
                raise OperatorError(
                    f"{now.number}: its calls still go {after}: remove that in the Twilio console (the number's Voice "
                    "configuration), then run this again"
                )
            print(f"{now.number}: {before.removeprefix('to ')} -> {now.voice.url}")

    asyncio.run(set_it())


def doctor(
    agent: Annotated[list[Path] | None, typer.Option("--agent", "-a", help="Agent file (YAML).")] = None,
) -> None:
    """Check all that a call needs, from the public URL to the model; each failure comes with a hint."""
    settings = settings_from(os.environ)
    check_proxies(os.environ)  # no session with the model could be checked
    agents = [load_agent(path) for path in agent or map(Path, settings.agents)]
    from offhook.gateway.cli.doctor import examine

    async def examined() -> list[Finding]:
        findings = []
        async for finding in examine(settings, agents, os.environ):
            mark = {True: "ok  ", False: "FAIL", None: "?   "}[finding.ok]
            print(f"{mark} {finding.what}: {finding.says}", flush=True)
            if finding.hint:
                print(f"     -> {finding.hint}", flush=True)
            findings.append(finding)
        return findings

    if any(finding.ok is False for finding in asyncio.run(examined())):
        raise typer.Exit(1)


def tunnel_help(
    proxy: Annotated[str, typer.Argument(help="nginx or haproxy: print a configuration for it.")] = "",
) -> None:
    """How to make the gateway reachable by Twilio: tunnels for trials, proxies for production."""
    settings = settings_from(os.environ)
    if proxy:
        if proxy not in PROXIES:
            raise OperatorError(f"there is a configuration for {' and '.join(PROXIES)}, not for {proxy}")
        print(PROXIES[proxy](settings), end="")
        return
    print(TUNNEL_HELP.format(port=settings.port, admin=f"{settings.admin_host}:{settings.admin_port}"), end="")
