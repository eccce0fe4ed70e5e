"""The canary: its schedule, what it exports, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from offhook.gateway.cli.canary import seconds_of, serving_metrics
from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal.canary import canary
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.outside import OtherModel
from offhook.gateway.rehearsal.quick_clock import running_clock
from offhook.gateway.rehearsal.results.report import ExpectationResult, Report, report_of, samples_of
from offhook.gateway.rehearsal.run import rehearse
from offhook.gateway.rehearsal.scenario.load import parse_scenario
from offhook.metrics.canary import CanaryMetrics
from tests.rehearsal.results.paper_call import paper_report
from tests.rehearsal.stub_gateway import Line, StubGateway
from tests.rig.gateway import serving
from tests.rig.process import python_path

TURNS, CALLS = 10, 2  # of each series: 20 samples, below which no P95 is given
CALL = """\
name: canary
agent: {{name: anna, greeting: {{text: Hello}}}}
caller:
  steps:
    - wait_for_agent: end
{steps}    - hang_up
model:
  replies:
    - {{on: text, say: Hello, length_ms: 300, delay_ms: 50}}
  default: {{say: Well, length_ms: 300, delay_ms: {delay_ms}}}
expect: {{no_gap: true}}
"""
STEPS = "    - say: Uh-huh.\n    - wait_for_agent: end\n"


def samples(page: bytes) -> dict[tuple[str, str], float]:
    """Value by name and by the label beside `source`, which every sample has."""
    found = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("source") == "canary"
            found[sample.name, "".join(labels.values())] = sample.value
    return found


def p95_s(before: dict[tuple[str, str], float], after: dict[tuple[str, str], float], metric: str) -> float:
    """The upper boundary of the bucket that the P95 of the samples between two pages is in."""
    buckets = [(float(le), n - before[name, le]) for (name, le), n in after.items() if name == f"{metric}_bucket"]
    total = max(n for _, n in buckets)
    assert total >= TURNS * CALLS
    return min(le for le, n in buckets if n >= 0.95 * total)


def judged(*, ok: bool) -> Report:
    """Of the paper call, with one expectation."""
    call = paper_report()
    call.verdicts = [ExpectationResult(ok=ok, expectation="no_gap", words="a gap of 60 ms")]
    return report_of([call])


async def test_a_model_that_grows_slow_is_in_the_histogram(tmp_path):
    fast, slow = (parse_scenario(CALL.format(steps=STEPS * TURNS, delay_ms=delay_ms)) for delay_ms in (50, 450))
    clock, model, placed = running_clock(), OtherModel(), 0
    metrics = CanaryMetrics(CollectorRegistry(), with_record=True, clock=clock)
    pages = [samples(metrics.render())]
    done = asyncio.Event()
    async with (
        ModelServer(model.script_of, clock=clock) as model.server,
        serving([fast.agent], {"OFFHOOK_INSECURE": "1"}, model=model.server) as (_, url),
    ):

        async def place(folder: Path) -> Report:
            nonlocal placed
            if placed and placed % CALLS == 0:
                pages.append(samples(metrics.render()))
            if placed == 2 * CALLS:
                done.set()
                await asyncio.Event().wait()
            scenario = fast if placed < CALLS else slow
            placed += 1
            model.script = scenario.script()
            [(_, report)] = await rehearse(
                scenario, url, model.server, auth_token=None, public_url=url, seed=placed, clock=clock
            )
            return report_of([report])

        calling = asyncio.create_task(canary(place, metrics, tmp_path, every_s=25, clock=clock))
        await done.wait()
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
    for metric in ("offhook_canary_line_answer_seconds", "offhook_canary_turn_gap_seconds"):
        before_s, after_s = p95_s(pages[0], pages[1], metric), p95_s(pages[1], pages[2], metric)
        assert after_s - before_s == pytest.approx(0.4, abs=0.15), metric
    assert pages[2]["offhook_canary_calls_total", "passed"] == 2 * CALLS


@pytest.mark.clock_speed(1000.0)
async def test_no_failure_ends_the_schedule(tmp_path, caplog):
    """Beside what a call may raise: one that hangs is ended when the next one is due."""
    clock = running_clock()
    metrics = CanaryMetrics(CollectorRegistry(), with_record=False, clock=clock)
    outcomes = [OperatorError("no route"), judged(ok=False), RuntimeError("a bug"), None, judged(ok=True)]
    began_s: list[float] = []
    done = asyncio.Event()

    async def place(folder: Path) -> Report:
        began_s.append(clock())
        outcome = outcomes[len(began_s) - 1] if len(began_s) <= len(outcomes) else None
        if len(began_s) > len(outcomes):
            done.set()
        folder.mkdir(parents=True)
        (folder / "number").write_text(str(len(began_s)))
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is None:
            await asyncio.Event().wait()
        return outcome

    calling = asyncio.create_task(canary(place, metrics, tmp_path, every_s=60, clock=clock))
    await done.wait()
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    assert [round(at_s - began_s[0]) for at_s in began_s] == [0, 60, 120, 180, 240, 300]
    found = samples(metrics.render())
    assert (found["offhook_canary_calls_total", "passed"], found["offhook_canary_calls_total", "failed"]) == (1, 4)
    answers = [name for name, _ in samples_of(judged(ok=True).calls[0])].count("line_answer")
    assert found["offhook_canary_line_answer_seconds_count", ""] == 2 * answers > 0, "a failed call is measured, too"
    assert (tmp_path / "failed" / "number").read_text() == "4"
    assert all(said in caplog.text for said in ("no route", "a gap of 60 ms", "a bug", "not over after 60 s"))


@pytest.mark.parametrize(("every", "seconds"), [("60s", 60), ("15m", 900), ("1.5h", 5400), ("1d", 86_400)])
def test_a_duration_is_read(every, seconds):
    assert seconds_of(every) == seconds


@pytest.mark.parametrize(
    ("every", "said"),
    [
        (bad, "takes a number with s, m, h or d")
        for bad in ("15", "", "m", "-15m", "15 min", "1h30m", "nan", "1e3s", "٣m")
    ]
    + [("59s", "from 1m to 1d, not 59s"), ("0m", "from 1m to 1d"), ("2d", "from 1m to 1d")],
)
def test_any_other_duration_is_refused(every, said):
    with pytest.raises(OperatorError, match=said):
        seconds_of(every)


async def test_a_taken_metrics_port_is_named():
    metrics = CanaryMetrics(CollectorRegistry(), with_record=False, clock=running_clock())
    async with serving_metrics(metrics, "127.0.0.1", 0) as page:
        port = int(page.rpartition(":")[2].partition("/")[0])
        with pytest.raises(OperatorError, match=f"127.0.0.1:{port} .*--metrics-port"):
            async with serving_metrics(metrics, "127.0.0.1", port):
                pass


@pytest.mark.wall_clock
@pytest.mark.usefixtures("forked")
async def test_sigterm_in_a_call_stops_it_at_once(tmp_path):
    """A gateway that never says a word: the caller would wait for it for a long time."""

    async def silent(line: Line) -> None:
        await line.until(lambda: line.ws.closed, timeout_s=60)

    async with StubGateway(silent) as gateway:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "offhook", "canary", "--url", gateway.media_url, "--metrics-port", "0"),
            env={**os.environ, "PYTHONPATH": python_path()},
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            page = (await process.stdout.readline()).decode().split()[-1]
            async with asyncio.timeout(30):
                while not (gateway.lines and gateway.lines[0].of("media")):
                    await asyncio.sleep(0.05)
            async with aiohttp.ClientSession() as session, session.get(page) as answer:
                found = samples(await answer.read())
            began_s = time.monotonic()
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                assert await process.wait() == 0
            assert time.monotonic() - began_s < 3
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert found["offhook_canary_calls_total", "failed"] == 0
    assert not any(name.startswith("offhook_canary_turn_gap") for name, _ in found), "no record, no segments of it"
