"""The bundled scenarios on the other provider: a dozen here, all of them by `make simulate-openai`."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from offhook.gateway.cli.quickly import gateway_here
from offhook.gateway.rehearsal.quick_clock import Clock, run_quickly
from offhook.gateway.rehearsal.results.report import Report
from offhook.gateway.rehearsal.run import run_scenario
from offhook.gateway.rehearsal.scenario.load import load_scenario
from offhook.gateway.tools.function import THREADS

HELD = (
    "appointments",
    "barge-in-hold",
    "barge-in-model",
    "barge-in-twice",
    "change-of-mind",
    "cough",
    "goodbye",
    "line-breaks",
    "model-falls-silent",
    "model-lost",
    "transfer-warm",
    "uh-huh",
)


async def _rehearsed(out: Path, clock: Clock) -> dict[str, Report]:
    """All at once, each with a gateway of its own in this process."""

    async def one(name: str) -> Report:
        return await run_scenario(
            load_scenario(name),
            out / name,
            environment={"OFFHOOK_PROVIDER": "openai"},
            gateway=partial(gateway_here, clock=clock),
            clock=clock,
        )

    return dict(zip(HELD, await asyncio.gather(*map(one, HELD)), strict=True))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    out = tmp_path_factory.mktemp("openai")
    return run_quickly(partial(_rehearsed, out), 10.0, lambda: THREADS.busy)


@pytest.mark.parametrize("name", HELD)
def test_scenario_passes_with_openai(reports: dict[str, Report], name: str) -> None:
    (call,) = reports[name].calls
    assert call.record is not None
    assert call.record.model == "openai/gpt-realtime-2.1"
    assert [verdict.words for verdict in call.verdicts if not verdict.ok] == []
