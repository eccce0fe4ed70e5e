"""Whole rehearsals: rehearsal model, the real gateway, simulated calls; short ones."""

from __future__ import annotations

import asyncio
import io
import json

import msgspec
import pytest
from rich.console import Console

from offhook.gateway.rehearsal import run
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.phone.call import Glance
from offhook.gateway.rehearsal.results.report import Report, report_of
from offhook.gateway.rehearsal.scenario.expect import Expectation, judge
from offhook.gateway.rehearsal.scenario.load import parse_scenario
from offhook.media.wav import read_wav
from tests.rehearsal.results.paper_call import paper_report
from tests.rehearsal.short_call import SHORT
from tests.rig.gateway import serving

pytestmark = [pytest.mark.wall_clock(calm=True), pytest.mark.usefixtures("forked")]


async def test_a_scenario_through_the_gateway_s_own_process(tmp_path):
    glances: list[Glance] = []
    report = await run.run_scenario(parse_scenario(SHORT), tmp_path, progress=glances.append)
    [call] = report.calls
    assert [verdict.words for verdict in call.verdicts if not verdict.ok] == []
    assert report.ok
    assert call.record is not None
    assert call.record.simulated
    assert [turn.generation for turn in call.record.turns] == [reply.generation for reply in call.line.replies]
    assert all(reply.heard_ms == pytest.approx(600, abs=25) for reply in call.line.replies)
    added = [t.line_to_model_ms + t.model_to_line_ms for t in call.line.caller if t.line_to_model_ms is not None]
    assert added, "the gateway's share could be measured"
    assert 0 < added[0] < 200
    # The files.
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report) == report
    samples, rate_hz = read_wav(tmp_path / "call.wav")
    assert rate_hz == 8000
    assert len(samples) / 8000 == pytest.approx(call.line.duration_ms / 1000, abs=0.3)
    assert (tmp_path / "call.png").stat().st_size > 20_000
    assert {"recording", "picture", "report"} == report.paths.keys()
    # The progress.
    assert glances[-1].at_s > 2
    assert any(glance.agent_dbov > -40 for glance in glances)
    assert any("say 'Uh-huh.'" in glance.doing for glance in glances)


async def test_two_calls_at_once_through_in_process_gateway():
    scenario = parse_scenario(SHORT)
    async with (
        ModelServer(scenario.script()) as model,
        serving([scenario.agent], {"OFFHOOK_INSECURE": "1"}, model=model) as (gateway, url),
    ):
        lived = await run.rehearse(scenario, url, model, auth_token=None, public_url=url, calls=2)
        assert not gateway.calls
    assert [report.ok for _, report in lived] == [True, True]
    assert len({truth.call_sid for truth, _ in lived}) == 2


async def test_a_gateway_that_cannot_start_reports_why(tmp_path):
    scenario = parse_scenario(SHORT)
    async with ModelServer(scenario.script()) as model:
        with pytest.raises(run.GatewayFailed, match=r"nowhere\.yaml"):
            async with run.gateway_process(
                tmp_path / "nowhere.yaml", model, auth_token="x", log=tmp_path / "gateway.log"
            ):
                pass


async def test_own_keys_do_not_reach_a_rehearsed_gateway(monkeypatch, tmp_path):
    monkeypatch.setenv("GEMINI_API_KEY", "a real one")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "1")
    monkeypatch.setenv("TWILIO_ACCOUNT_SID", "AC1")
    seen: dict[str, str] = {}

    async def refused(*command, env, **more):
        seen.update(env)
        raise OSError("stop here")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refused)
    async with ModelServer(parse_scenario(SHORT).script()) as model:
        with pytest.raises(OSError, match="stop here"):
            async with run.gateway_process(
                tmp_path / "agent.yaml", model, auth_token="t", log=tmp_path / "gateway.log"
            ):
                pass
        assert seen["GOOGLE_GEMINI_BASE_URL"] == model.url
    assert seen["GEMINI_API_KEY"] == "rehearsal"
    assert not {"GOOGLE_GENAI_USE_VERTEXAI", "TWILIO_ACCOUNT_SID"} & seen.keys()


async def test_failed_demo_exits_with_1_and_writes_json(monkeypatch, tmp_path):
    async def failed(out_dir, progress, provider):
        for doing in ("wait for the agent to finish", "wait for the agent to finish", "hang up"):
            progress(Glance(at_s=1.0, caller_dbov=-30.0, agent_dbov=-100.0, doing=doing))
        report = paper_report()
        report.verdicts = [judge(Expectation("end_reason", "caller_hung_up"), report)]
        return report_of([report])

    monkeypatch.setattr(run, "run_demo", failed)
    out = io.StringIO()
    monkeypatch.setattr(run, "Console", lambda: Console(file=out, width=120))
    with pytest.raises(SystemExit) as exit_:
        await run.demo(tmp_path / "demo", tmp_path / "copy.json")
    assert exit_.value.code == 1
    assert json.loads((tmp_path / "copy.json").read_text())["totals"]["failed"] == 1
    assert "✗ the call ended by agent_hung_up, not by caller_hung_up" in out.getvalue()
    assert out.getvalue().count("wait for the agent to finish") == 1, "without a terminal each step is a line"


async def test_on_a_terminal_there_is_a_live_line(monkeypatch):
    out = io.StringIO()
    with run.live_line(Console(file=out, width=100, force_terminal=True)) as progress:
        progress(Glance(at_s=12.3, caller_dbov=-30.0, agent_dbov=-100.0, doing="hang up"))
        await asyncio.sleep(0.25)
    assert "12.3 s" in out.getvalue()
    assert "▮▮▮▮▮▯▯▯▯▯" in out.getvalue()
