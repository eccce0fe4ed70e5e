"""`offhook canary`: a scenario's call on a schedule, its latency and results for Prometheus.

`mount(app)` adds it to the command line.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offhook.gateway.cli.running import rehearsal, run
from offhook.gateway.cli.serve import log_to_stderr
from offhook.gateway.errors import OperatorError

if TYPE_CHECKING:
    from offhook.gateway.rehearsal.canary import Place
    from offhook.gateway.rehearsal.outside import OtherGateway
    from offhook.gateway.rehearsal.scenario.load import Scenario
    from offhook.metrics.canary import CanaryMetrics

__all__ = ["mount", "seconds_of", "serving_metrics"]

LEAST_S, MOST_S = 60.0, 86_400.0
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_OWN_GATEWAY = {"OFFHOOK_DRAIN_S": "0"}  # its only call is the canary's


def mount(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(canary)


def seconds_of(every: str) -> float:
    """The seconds that `--every` means. Raises `OperatorError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", every.strip(), re.ASCII)
    if found is None:
        raise OperatorError(f"--every takes a number with s, m, h or d, such as 15m or 1h, not {every!r}")
    seconds = float(found[1]) * _UNITS_S[found[2]]
    if not LEAST_S <= seconds <= MOST_S:
        raise OperatorError(f"--every must be from 1m to 1d, not {every}")
    return seconds


def canary(
    scenario: Annotated[
        Path, typer.Argument(help="Scenario (*.call.yaml, or the name of a bundled one) whose call is placed.")
    ] = Path("change-of-mind"),
    every: Annotated[str, typer.Option(help="From the start of one call to the next: 90s, 15m, 1h.")] = "15m",
    url: Annotated[
        str,
        typer.Option(
            help="The gateway to call: its voice webhook (http, https) or its media socket (ws, wss), signed where "
            "TWILIO_AUTH_TOKEN is set. None: one is started for each call, with the real model."
        ),
    ] = "",
    public_url: Annotated[str, typer.Option(help="The URL that gateway knows itself by, if it is not --url's.")] = "",
    parameter: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: a custom parameter of the stream, for a media socket.")
    ] = None,
    provider: Annotated[str, typer.Option(help="Provider of the agent's model (gemini, openai); none: its own.")] = "",
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="For Prometheus; 0: any free one.")] = 9465,
    metrics_host: Annotated[
        str, typer.Option(help="0.0.0.0: whoever reaches this machine may read them.")
    ] = "127.0.0.1",
    out: Annotated[Path, typer.Option(help="Folder for the newest call, and the newest that failed.")] = Path(
        "out/canary"
    ),
) -> None:
    """Place a call every so often until SIGTERM or Ctrl-C; export its latency and result with source="canary"."""
    every_s = seconds_of(every)
    with rehearsal():
        from offhook.gateway.rehearsal.outside import check_outside, target_of
        from offhook.gateway.rehearsal.scenario.load import load_scenario
    loaded = load_scenario(scenario)
    loaded.check_steps("a canary")
    target = None
    if url:
        if provider:
            raise OperatorError("--provider is for a gateway that is started here, not for --url")
        check_outside(loaded)
        target = target_of(url, public_url, os.environ.get("TWILIO_AUTH_TOKEN", ""), parameter or [])
    elif public_url or parameter:
        raise OperatorError("--public-url and --parameter go with --url, another gateway's")
    else:
        _check_key(loaded, provider)
    out.mkdir(parents=True, exist_ok=True)
    log_to_stderr("info", [loaded.agent], os.environ)
    run(_canary(loaded, target, provider, every_s, metrics_host, metrics_port, out))


def _check_key(scenario: Scenario, provider: str) -> None:
    from offhook.gateway.cli.talk import has_key
    from offhook.gateway.providers import PROVIDERS, provider_of, with_provider

    if provider and provider not in PROVIDERS:
        raise OperatorError(f"--provider: give one of {', '.join(PROVIDERS)}")
    name = provider_of(with_provider(scenario.agent, provider))
    if not has_key(os.environ, name):
        key = "OPENAI_API_KEY" if name == "openai" else "GEMINI_API_KEY"
        raise OperatorError(f"the canary's own gateway needs the model's key: set {key}, or give --url")


def _place(scenario: Scenario, target: OtherGateway | None, provider: str) -> Place:
    from offhook.gateway.rehearsal.outside import rehearse_outside
    from offhook.gateway.rehearsal.run import run_scenario

    if target is not None:
        return partial(rehearse_outside, scenario, target, None, seed=None, clock=time.monotonic)
    environment = _OWN_GATEWAY | ({"OFFHOOK_PROVIDER": provider} if provider else {})
    return partial(run_scenario, scenario, environment=environment, real_model=True, clock=time.monotonic)


async def _canary(
    scenario: Scenario, target: OtherGateway | None, provider: str, every_s: float, host: str, port: int, out: Path
) -> None:
    """Until a signal; then the call of the moment is ended at once."""
    from prometheus_client.registry import CollectorRegistry

    from offhook.gateway.cli.stopping import END_S, Stopping
    from offhook.gateway.rehearsal.canary import canary as call_again
    from offhook.metrics.canary import CanaryMetrics

    metrics = CanaryMetrics(CollectorRegistry(), with_record=target is None, clock=time.monotonic)
    stopping = Stopping(0.0)
    async with serving_metrics(metrics, host, port) as page:
        print(f"metrics: {page}", flush=True)
        place = _place(scenario, target, provider)
        calling = asyncio.create_task(call_again(place, metrics, out, every_s=every_s, clock=time.monotonic))
        stopped = asyncio.create_task(stopping.requested.wait())
        await asyncio.wait([calling, stopped], return_when=asyncio.FIRST_COMPLETED)
        for task in (calling, stopped):
            task.cancel()
        ended, _ = await asyncio.gather(calling, stopped, return_exceptions=True)
    stopping.within(END_S)
    if isinstance(ended, Exception):  # a bug: no failure of a call ends the schedule
        raise ended


@asynccontextmanager
async def serving_metrics(metrics: CanaryMetrics, host: str, port: int) -> AsyncIterator[str]:
    """Serve `GET /metrics`; gives its URL. Raises `OperatorError`."""
    from aiohttp import web

    from offhook.gateway.web.listener import cannot_listen
    from offhook.metrics.exposition import CONTENT_TYPE

    async def page(request: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/metrics", page)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise cannot_listen(host, port, error, "--metrics-port") from None
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{runner.addresses[0][1]}/metrics"
    finally:
        await runner.cleanup()
