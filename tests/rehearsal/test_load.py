"""How many calls a gateway carries: the search, what is measured, and two short runs with real processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal.load.scrape import Late, Scrape, late_between, parse_metrics
from offhook.gateway.rehearsal.load.search import LoadPlan, LoadReport, LoadStep, load, next_calls, verdict_on
from offhook.gateway.rehearsal.load.worker import Lateness
from offhook.gateway.rehearsal.model.record import SessionRecord
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.run import PUBLIC_URL, gateway_process
from offhook.gateway.rehearsal.scenario.load import parse_scenario
from tests.rehearsal.short_call import SHORT

pytestmark = [pytest.mark.wall_clock(calm=True), pytest.mark.usefixtures("forked")]

ASK = LoadPlan(start=10, most=1_000)


def search(limit: int, ask: LoadPlan = ASK) -> list[int]:
    """The numbers tried on a gateway that carries `limit` calls."""
    tried: list[tuple[int, bool]] = []
    while (calls := next_calls(tried, ask)) is not None:
        assert len(tried) < 30
        tried.append((calls, calls <= limit))
    return [calls for calls, _ in tried]


@pytest.mark.parametrize("limit", [1, 3, 9, 10, 11, 37, 100, 140, 500, 999])
def test_the_highest_number_is_found_to_a_tenth(limit):
    tried = search(limit)
    good = max(calls for calls in tried if calls <= limit)
    failed = min(calls for calls in tried if calls > limit)
    assert failed - good <= max(1, 0.1 * failed)


def test_search_ends_at_maximum_or_below_a_failure():
    assert search(5_000) == [10, 20, 40, 80, 160, 320, 640, 1_000]
    assert search(5_000, LoadPlan(start=7, most=7)) == [7]
    assert search(0) == [10, 5, 2, 1]
    # 20 failed once though 40 was good: nothing above 20 is claimed.
    assert next_calls([(10, True), (20, False), (40, True)], ASK) == 15


def a_step(**changed) -> LoadStep:
    none = Late(0, None, None, 0)
    fields = {
        "calls": 10, "began_s": 0, "ended_s": 1, "average_calls": 9.9, "ended": 8, "failed": 0, "frames": none,
        "worst": none, "lag": none, "cpu_ms_per_call_s": 1, "cpu_share": 0.1, "memory_mib": 1,
        "memory_kib_per_call": 1, "descriptors_per_call": 1, "frames_dropped": 0, "callers_clock_p99_ms": 1.0,
    }  # fmt: skip
    return LoadStep(**{**fields, **changed})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, None),
        ({"frames": Late(1_000, 1.0, 4.9, 9)}, None),
        ({"frames": Late(1_000, 1.0, 5.3, 11)}, "frame lateness P99 5.3 ms (11 of 1000 beyond 5 ms)"),
        ({"frames": Late(200, 9.0, None, 200)}, None),  # too few for a P99
        ({"failed": 2}, "2 of 8 calls failed: x: never answered (2)"),
        ({"average_calls": 7.0}, "only 7 of 10 calls were active"),
        ({"frames_dropped": 3}, "3 frames were dropped"),
        ({"callers_clock_p99_ms": 12.0}, "the timers of the callers were late (P99 12.0 ms): this machine cannot"),
    ],
)
def test_a_failed_step_has_its_reason(changed, words):
    faults = verdict_on(a_step(**changed), {"x: never answered": 2})
    assert len(faults) == (words is not None)
    assert words is None or faults[0].startswith(words)


def test_frame_lateness_is_relative_to_the_fastest():
    session = SessionRecord(0, "", "key", 0.0)
    # 40 bytes a ms; 20 ms a frame, each 30 ms after it was spoken, the hundredth 7 ms later than that.
    session.audio_arrivals = [(0.020 * n + (0.037 if n == 100 else 0.030), 640 * n) for n in range(1, 151)]
    found = Lateness()
    late = found.since([session])
    assert late.n == 100, "the first second is left out"
    assert late.beyond == 1
    assert late.p50_ms == pytest.approx(0, abs=0.01)
    assert late.p99_ms is None, "withheld below 300"
    assert found.since([session]).n == 0, "each frame counts once"
    session.audio_arrivals = [(0.020 * n + 0.034, 640 * n) for n in range(151, 501)]
    assert found.since([session]).p99_ms == pytest.approx(4.0, abs=0.01), "the fastest is the call's, not the step's"


def test_histogram_increase_gives_count_percentiles():
    def seen(*cumulative: int) -> Scrape:
        bounds = ("0.001", "0.005", "0.01", "+Inf")
        lines = [f'late_seconds_bucket{{le="{le}"}} {n}' for le, n in zip(bounds, cumulative, strict=True)]
        return Scrape(0.0, parse_metrics("# HELP late_seconds x\n" + "\n".join(lines) + "\nother 3\n"))

    late = late_between(seen(10, 10, 10, 10), seen(210, 406, 410, 410), "late_seconds", 0.005)
    assert late == Late(400, pytest.approx(1.0), pytest.approx(5.0, abs=0.1), 4)
    few = late_between(seen(0, 0, 0, 0), seen(299, 299, 299, 299), "late_seconds", 0.005)
    assert (few.n, few.p99_ms) == (299, None)
    assert late_between(seen(1, 1, 1, 1), seen(1, 1, 1, 1), "late_seconds", 0.005).n == 0


def test_a_short_load_with_processes_of_its_own(tmp_path):
    (tmp_path / "short.call.yaml").write_text(SHORT.replace("answered_within_ms: 2500", "answered_within_ms: 9000"))
    (tmp_path / "other.call.yaml").write_text(SHORT.replace("say: Hello,", "say: Good day,"))
    given = "short.call.yaml other.call.yaml --start 3 --most 3 --hold 6 --ramp 0.5"
    ran = subprocess.run(
        [sys.executable, "-m", "offhook", "load", *given.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    report = msgspec.json.decode((tmp_path / "out" / "load" / "load.json").read_bytes(), type=LoadReport)
    step = report.steps[0]
    assert step.calls == 3, ran.stderr
    assert step.ended >= 3
    assert step.failed == 0, (step.faults, ran.stderr)
    assert 2 < step.average_calls < 3.2
    assert step.frames.n > 3 * 100
    assert step.worst.n > 0
    assert 0 < step.cpu_ms_per_call_s < 500
    assert step.memory_mib > 30
    assert 1 <= step.descriptors_per_call < 20
    assert len(report.moments) >= 6
    assert "highest number of calls carried" in ran.stdout
    assert "3 calls: reached within" in ran.stderr
    assert (tmp_path / "out" / "load" / "load.png").stat().st_size > 20_000
    assert not (tmp_path / "out" / "load" / "mix.json").exists(), "it held the token that signs"


async def test_remote_gateway_limited_to_one_fails_at_two(tmp_path):
    (tmp_path / "short.call.yaml").write_text(SHORT)
    agent = tmp_path / "agent.yaml"
    agent.write_text("name: anna\ngreeting: {text: Hello}\n")
    async with (
        ModelServer(parse_scenario(SHORT).script()) as model,
        gateway_process(
            agent,
            model,
            auth_token="secret",
            log=tmp_path / "gateway.log",
            environment={"OFFHOOK_MAX_CALLS": "1"},
        ) as url,
    ):
        environ = {"TWILIO_AUTH_TOKEN": "secret", "OFFHOOK_PUBLIC_URL": PUBLIC_URL}
        ask = LoadPlan(start=2, most=2, hold_s=4.0, ramp_s=0.2)
        report = await load(
            [tmp_path / "short.call.yaml"], tmp_path / "out", ask, url=url, environ=environ, clock=time.monotonic
        )
    assert report.first_failed in (1, 2)
    step = next(step for step in report.steps if step.calls == 2)
    assert step.failed
    assert any("short: not connected: say " in fault for fault in step.faults)
    assert "secret" not in json.dumps(msgspec.to_builtins(report))


async def test_an_absent_gateway_is_reported_in_one_line(tmp_path):
    (tmp_path / "short.call.yaml").write_text(SHORT)
    files = [Path(tmp_path / "short.call.yaml")]
    with pytest.raises(OperatorError, match="no gateway responds at"):
        await load(files, tmp_path / "out", ASK, clock=time.monotonic, url="http://127.0.0.1:9", environ={})
    await asyncio.sleep(0)
