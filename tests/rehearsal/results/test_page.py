"""`offhook simulate` as one has it: verdicts in words, the page in a browser, the same seed the same calls."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from offhook.gateway.cli.rehearse import simulate
from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal.results.page import page
from offhook.gateway.rehearsal.results.report import ExpectationResult, Percentiles, report_of
from tests.rehearsal.results.paper_call import paper_report
from tests.rehearsal.short_call import SHORT
from tests.rig.chromium import Chromium

pytestmark = [pytest.mark.wall_clock, pytest.mark.usefixtures("forked")]

LIVELY = SHORT.replace("name: short", "name: lively").replace(
    "caller:", "carrier: {noise_dbfs: -50, jitter_ms: 30}\ncaller:", 1
)


def settled(value: Any) -> Any:
    """A report without what is time: no figures and dates, nor how far an interrupted reply was heard."""
    if isinstance(value, dict):
        cut = value.get("interrupted") or value.get("heard_text") not in (None, value.get("text"))
        timed = {"at", "started_at", *(["heard_text"] if cut else [])}
        return {name: settled(inner) for name, inner in value.items() if name not in timed}
    if isinstance(value, list):
        return [settled(inner) for inner in value]
    if isinstance(value, str):
        return re.sub(r"(?<!\w)\d+(\.\d+)?(?!\w)", "N", value)
    return value if isinstance(value, bool) or value is None else "N"


def test_page_has_verdicts_and_no_sparse_percentile():
    call = paper_report()
    call.verdicts = [ExpectationResult(ok=False, expectation="x", words="it <took> too long")]
    report = report_of([call], {"recording": "/out/a/call.wav", "picture": "/out/a/call.png"})
    report.totals.segments["turn_gap"] = Percentiles(count=19, p50_ms=5, p95_ms=None, p99_ms=None, max_ms=9)
    report.totals.segments["line_answer"] = Percentiles(count=20, p50_ms=5, p95_ms=777, p99_ms=None, max_ms=999)
    text = page([("a", report)], report, Path("/out"))
    assert "it &lt;took&gt; too long" in text
    assert 'src="a/call.wav"' in text
    assert 'src="a/call.png"' in text
    rows = re.findall(r"<tr>(.*)</tr>", text)
    (gap,) = [row for row in rows if ">turn_gap<" in row]
    assert gap.count("too few samples") == 2
    (answer,) = [row for row in rows if ">line_answer<" in row]
    assert ">20<" in answer
    assert ">777<" in answer
    assert answer.count("too few samples") == 1
    assert "http" not in text, "no remote resources"


HOSTILE = """<script>alert("x")</script>' onmouseover='y"""


def test_hostile_texts_on_the_page_are_escaped():
    call = paper_report()
    call.line.caller[0].text = HOSTILE
    call.line.barge_ins[0].text = HOSTILE
    call.end_reason = HOSTILE
    call.record.errors = [HOSTILE]
    for turn in call.record.turns:
        turn.reply_text = turn.heard_text = HOSTILE
    call.verdicts = [ExpectationResult(ok=False, expectation="x", words=HOSTILE)]
    report = report_of([call], {"recording": f"/out/{HOSTILE}.wav", "picture": f"/out/{HOSTILE}.png"})
    text = page([(HOSTILE, report)], report, Path("/out"))
    assert text.count("&lt;script&gt;") >= 10
    assert "<script" not in text
    assert not re.search(r"onmouseover=['\"]", text)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool, str]:
    """A good and a bad scenario, run as a user does; the folder."""
    folder = tmp_path_factory.mktemp("simulated")
    (folder / "short.call.yaml").write_text(SHORT)
    bad = SHORT.replace("name: short", "name: hasty").replace("answered_within_ms: 2500", "answered_within_ms: 1")
    (folder / "hasty.call.yaml").write_text(bad)
    given = "short.call.yaml hasty.call.yaml --out out --json all.json --junit results/junit.xml"
    ran = subprocess.run(
        [sys.executable, "-m", "offhook", "simulate", *given.split()],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 1, ran.stderr
    return folder, True, ran.stdout


def test_the_last_lines_name_and_count_failures(simulated):
    folder, _, printed = simulated
    assert "✓ short" in printed
    assert re.search(r"✗ hasty.*\n\s+'Uh-huh.' was answered after \d+ ms, later than 1\n", printed)
    assert re.search(r"\n✗ hasty: 'Uh-huh.' was answered after \d+ ms, later than 1\n1 passed, 1 failed\n$", printed)
    report = json.loads((folder / "all.json").read_text())
    assert report["totals"]["calls"] == 2
    assert report["totals"]["failed"] == 1
    suite = ElementTree.parse(folder / "results" / "junit.xml").getroot()
    assert suite.get("failures") == "1"
    (failure,) = suite.iter("failure")
    assert "later than 1" in (failure.get("message") or "")
    for name in ("short", "hasty"):
        for file in ("call.wav", "call.png", "report.json"):
            assert (folder / "out" / name / file).stat().st_size > 500


def test_page_plays_and_shows_calls_in_a_browser(chromium: Chromium, simulated):
    from playwright.sync_api import sync_playwright

    folder, *_ = simulated
    with sync_playwright() as running:
        browser = running.chromium.connect(chromium.endpoint)
        shown = browser.new_page(viewport={"width": 1200, "height": 900})
        errors: list[str] = []
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.goto((folder / "out" / "index.html").as_uri())
        assert "2 calls, 1 failed" in shown.title()
        assert shown.locator("section").count() == 2
        assert "hasty" in shown.locator("section").first.inner_text(), "what failed comes first"
        shown.locator("section img").first.scroll_into_view_if_needed()
        shown.wait_for_function("document.querySelector('section img').naturalWidth > 1000")
        shown.evaluate("document.querySelector('audio').load()")
        shown.wait_for_function("document.querySelector('audio').duration > 2")
        shown.screenshot(path=folder / "page.png", full_page=True)
        assert errors == []
        browser.close()


def test_quick_clock_page_warns_about_latencies(tmp_path):
    for name in ("short", "hasty"):
        text = SHORT if name == "short" else SHORT.replace("2500", "1")
        (tmp_path / f"{name}.call.yaml").write_text(text.replace("name: short", f"name: {name}"))
    ran = subprocess.run(
        [sys.executable, "-m", "offhook", "simulate", "short.call.yaml", "hasty.call.yaml", "--speed", "20"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 1, ran.stderr
    assert "✓ short" in ran.stdout
    assert re.search(r"answered after \d+ ms, later than 1", ran.stdout)
    assert "1 passed, 1 failed" in ran.stdout
    assert "The clock was stopped during computation" in ran.stdout
    shown = (tmp_path / "out" / "simulate" / "index.html").read_text()
    assert "The clock was stopped during computation" in shown
    call = json.loads((tmp_path / "out" / "simulate" / "short" / "report.json").read_text())["calls"][0]
    assert 2_000 < call["line"]["duration_ms"] < 20_000
    assert (tmp_path / "out" / "simulate" / "short" / "call.png").stat().st_size > 10_000


async def test_quick_clock_start_failure_is_one_line(tmp_path):
    tools = "  tools: [{function: 'nowhere:at_all'}]\n"
    (tmp_path / "a.call.yaml").write_text(SHORT.replace("caller:", f"{tools}caller:", 1))
    with pytest.raises(OperatorError, match=r"^short: .*nowhere"):
        await simulate([tmp_path / "a.call.yaml"], tmp_path / "out", speed=20.0)


def test_same_seed_gives_same_report_except_times(tmp_path):
    scenario = tmp_path / "lively.call.yaml"
    scenario.write_text(LIVELY)

    async def run(times: int) -> list[Any]:
        outs = [tmp_path / f"out{n}" for n in range(times)]
        jsons = [out / "all.json" for out in outs]
        await asyncio.gather(
            *(simulate([scenario], out, seed=7, json_path=path) for out, path in zip(outs, jsons, strict=True))
        )
        return [settled(json.loads(path.read_text())) for path in jsons]

    first, *others = asyncio.run(run(3))
    verdicts = {verdict["expectation"]: verdict["ok"] for verdict in first["calls"][0]["verdicts"]}
    assert {"rules", "released", "whole"} <= verdicts.keys()
    assert all(verdicts.values())
    assert first["calls"][0]["call_sid"].startswith("CA")
    for other in others:
        assert other == first
