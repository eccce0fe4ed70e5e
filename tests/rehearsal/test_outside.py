"""Another gateway under rehearsal, seen through its sockets alone: this project's own stands in for one."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from rich.console import Console

from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal.faults.cases import CASES
from offhook.gateway.rehearsal.faults.outside import faults_outside, judged
from offhook.gateway.rehearsal.faults.run import Required
from offhook.gateway.rehearsal.load import worker
from offhook.gateway.rehearsal.model.record import SessionRecord
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.outside import OtherModel, model_at, rehearse_outside, target_of
from offhook.gateway.rehearsal.phone.truth import CallTruth, Interval, StreamTruth
from offhook.gateway.rehearsal.quick_clock import running_clock
from offhook.gateway.rehearsal.results.measured import call_report
from offhook.gateway.rehearsal.scenario.load import parse_scenario
from tests.rehearsal.results.paper_call import paper_truth
from tests.rehearsal.short_call import SHORT
from tests.rig.gateway import serving

EXPECTED = "  segments_within_ms: {line_answer: 2500, turn_gap: 2500}\n  told_model: Hello\n  never_stopped: true\n"
KNOWN_TOKEN = {"TWILIO_AUTH_TOKEN": "a-token-of-the-carrier", "OFFHOOK_PUBLIC_URL": "https://phone.example"}


@pytest.mark.parametrize(
    ("environ", "path", "public_url"),
    [
        pytest.param(KNOWN_TOKEN, "/twilio/voice", "https://phone.example", id="signed webhook, by its public URL"),
        pytest.param({"OFFHOOK_INSECURE": "1"}, "/twilio/media", "", id="bare media socket"),
    ],
)
async def test_a_gateway_is_judged_by_what_the_line_shows(tmp_path, environ, path, public_url):
    scenario = parse_scenario(SHORT + EXPECTED)
    clock = running_clock()
    model = OtherModel()
    async with (
        ModelServer(model.script_of, clock=clock) as model.server,
        serving([scenario.agent], environ, model=model.server) as (_, url),
    ):
        there = url.replace("http", "ws") if path.endswith("media") else url
        gateway = target_of(there + path, public_url, environ.get("TWILIO_AUTH_TOKEN", ""), [])
        report = await rehearse_outside(scenario, gateway, model, tmp_path, seed=1, clock=clock)
        alone = await rehearse_outside(scenario, gateway, None, tmp_path / "no-model", seed=2, clock=clock)
    [call] = report.calls
    assert report.ok
    assert {verdict.words: verdict.mark for verdict in call.verdicts if verdict.mark != "✓"} == {
        "end_reason: not seen from outside": "–",  # its own word; the carrier's would be "caller"
        "segments_within_ms turn_gap: not seen from outside": "–",
    }
    assert {verdict.expectation for verdict in call.verdicts if verdict.ok} == {
        "rules", "answered_within_ms", "no_gap", "segments_within_ms", "told_model", "never_stopped",
    }  # fmt: skip
    assert [round(reply.heard_ms, -2) for reply in call.line.replies] == [600, 600]
    assert call.line.caller[0].line_to_model_ms is not None, "the model's frames are found in the caller's audio"
    assert (tmp_path / "call.png").stat().st_size > 20_000
    assert "told_model: not seen from outside" in [verdict.words for verdict in alone.calls[0].verdicts]


async def test_a_gateway_that_is_not_there_fails_the_rules(tmp_path):
    scenario = parse_scenario(SHORT)
    gateway = target_of("http://127.0.0.1:1/voice", "", "", [])
    report = await rehearse_outside(scenario, gateway, None, tmp_path, seed=None, clock=running_clock())
    assert not report.ok
    assert "11200: /voice answered not" in report.calls[0].verdicts[0].words


@pytest.mark.parametrize(
    ("url", "public_url", "parameters", "said"),
    [
        ("phone.example/voice", "", [], "begins with http"),
        ("ftp://phone.example", "", [], "begins with http"),
        ("https://phone.example/voice", "phone.example", [], "has a host"),
        ("wss://phone.example/media", "", ["agent"], "NAME=VALUE, not 'agent'"),
        ("https://phone.example/voice", "", ["agent=anna"], "goes with a media socket"),
    ],
)
def test_an_address_no_carrier_could_call_is_refused(url, public_url, parameters, said):
    with pytest.raises(OperatorError, match=said):
        target_of(url, public_url, "", parameters)


@pytest.mark.parametrize(("address", "said"), [("8090", "HOST:PORT"), ("127.0.0.1:", "HOST:PORT")])
async def test_an_address_without_host_or_port_is_refused(address, said):
    with pytest.raises(OperatorError, match=said):
        async with model_at(address, None, running_clock()):
            pass


async def test_a_taken_port_is_an_error_that_names_it():
    async with model_at("127.0.0.1:0", None, running_clock()) as model:
        port = model.server.url.rpartition(":")[2]
        with pytest.raises(OperatorError, match=f"127.0.0.1:{port}: .*in use"):
            async with model_at(f"127.0.0.1:{port}", None, running_clock()):
                pass


async def test_faults_from_outside_are_judged_or_named(capsys):
    """One that the model causes is judged, and needs --model-at; one inside the process is impossible."""
    scenario, clock = parse_scenario(SHORT), running_clock()
    cases = [case for case in CASES if case.number in (16, 31)]
    model = OtherModel()
    async with (
        ModelServer(model.script_of, clock=clock) as model.server,
        serving([scenario.agent], {"OFFHOOK_INSECURE": "1"}, model=model.server) as (_, url),
    ):
        gateway = target_of(f"{url}/twilio/voice", "", "", [])
        report = await faults_outside(cases, gateway, model, console=Console(), clock=clock)
        alone = await faults_outside(cases[:1], gateway, None, console=Console(), clock=clock)
    assert [(case.faults, case.skipped, case.calls) for case in report.cases] == [
        ([], "", 1),
        ([], "not possible from outside", 0),
    ]
    assert "--model-at" in alone.cases[0].skipped
    assert "– 31  the disk is full while a call is recorded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wanted", "changed", "said"),
    [
        (Required(answers=2), {}, []),
        (Required(answers=3), {}, ["the agent was heard 2 times, not 3"]),
        (Required(answers=2), {"ended_by": "rest"}, ["the call did not continue: ended by rest"]),
        (Required(ends_within_s=8.0), {}, ["the gateway did not end the call within 8 s"]),  # the caller gave up
        (Required(ends_within_s=8.0), {"ended_by": "twiml_end"}, []),
        (Required(ends_within_s=6.0), {"ended_by": "twiml_end"}, ["the gateway did not end the call within 6 s"]),
        (Required(answers=2), {"streams": []}, ["the call was not connected: ended by caller"]),
        (Required(answers=2), {"open": True}, ["1 sessions of the model are open although the call is over"]),
    ],
)
def test_a_call_is_judged_by_what_the_line_shows(wanted, changed, said):
    open_ = changed.pop("open", False)
    truth = CallTruth(call_sid="CA1", rang_s=1.0, ended_s=8.5, ended_by="caller")
    truth.streams = [StreamTruth(stream_sid="MZ1", url="", dialled_s=1.0, started_s=1.1)]
    truth.agent = [Interval(start_s=2.0, end_s=3.0), Interval(start_s=5.0, end_s=6.0)]
    truth = msgspec.structs.replace(truth, **changed)
    session = SessionRecord(0, "", "key", 1.2, closed_at_s=None if open_ else 8.6)
    assert judged(wanted, truth, [session]) == said


async def test_load_judges_another_gateway_by_the_line(monkeypatch):
    """A caller of `offhook load --url`: what needs this project's record is named, not passed."""
    scenario, clock = parse_scenario(SHORT), running_clock()
    monkeypatch.setattr(worker, "load_scenario", lambda _: scenario)
    async with (
        ModelServer(scenario.script(), clock=clock) as model,
        serving([scenario.agent], {"OFFHOOK_INSECURE": "1"}, model=model) as (_, url),
    ):
        gateway = target_of(f"{url.replace('http', 'ws')}/twilio/media", "", "", [])
        mix = worker.Mix(parts=[worker.Part(scenario="short", dials="+1555")], judged=False, outside=gateway)
        callers = worker.Callers(mix, clock)
        await callers.reach(worker.Order(calls=1))
        while not (report := callers.report()).ended:
            await asyncio.sleep(0.1)
        await callers.leave()
    assert (report.ended, report.failed, report.reasons) == (1, 0, {})
    assert report.unseen == ["end_reason: not seen from outside"]


def test_pauses_divide_replies_of_any_gateway():
    """The paper call without its marks: a clear and pauses of a second divide it, a hole of 60 ms does not."""
    truth = paper_truth()
    truth.marks = []
    replies = call_report(truth, None, by_marks=False).line.replies
    assert [(reply.heard_ms, reply.longest_gap_ms) for reply in replies] == [
        (1000.0, 0.0),
        (1000.0, 0.0),
        (2000.0, 60.0),
    ]
