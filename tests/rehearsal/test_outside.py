"""Another gateway under rehearsal, seen through its sockets alone: this project's own stands in for one."""

from __future__ import annotations

import pytest

from offhook.gateway.errors import OperatorError
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.outside import OtherModel, model_at, rehearse_outside, target_of
from offhook.gateway.rehearsal.quick_clock import running_clock
from offhook.gateway.rehearsal.results.report import call_report
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
