"""The judge: what it is asked, what is a verdict, and how text models are reached over their real protocols."""

from __future__ import annotations

import json
import socket

import pytest

from offhook.gateway.rehearsal.model.reached import model_environ
from offhook.gateway.rehearsal.model.script import script_from
from offhook.gateway.rehearsal.model.server import ModelServer
from offhook.gateway.rehearsal.quick_clock import running_clock
from offhook.gateway.rehearsal.results.thinking import JudgedLine, Judgement, ThinkingReport
from offhook.gateway.rehearsal.thinking import text_models
from offhook.gateway.rehearsal.thinking.judge import (
    LINES_MAX,
    SCHEMA,
    NotJudged,
    question,
    statements_from,
    verdicts,
)
from offhook.gateway.rehearsal.thinking.text_models import text_model

STATEMENTS = ("It was polite.", "It ended.")


def entry(number: int, met: bool = True, reason: str = "because") -> dict[str, object]:
    return {"number": number, "met": met, "reason": reason}


def answer(*entries: object) -> str:
    return json.dumps({"statements": list(entries)})


def said(**more: object) -> ThinkingReport:
    fields = {"persona": "SECRET PERSONA", "goal": "g", "model": "m", "rehearsed": True, "ended": "hung_up", **more}
    return ThinkingReport(**fields)  # type: ignore[arg-type]


def test_a_verdict_keeps_the_order_of_the_statements():
    for text in (answer(entry(2, False), entry(1)), f"```json\n{answer(entry(2, False), entry(1))}\n```"):
        found = statements_from(text, STATEMENTS)
        assert [(one.text, one.met) for one in found] == [("It was polite.", True), ("It ended.", False)]
        assert not Judgement(model="m", statements=found).passed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no verdict"),
        ("Yes, all of it.", "no verdict"),
        ("[]", "no verdict"),
        ('{"more": ' + "[" * 20_000, "no verdict"),
        ('{"passed": true}', "no verdict"),
        (answer(entry(1)), "not 1 to 2"),
        (answer(entry(1), entry(1)), "not 1 to 2"),
        (answer(entry(1), entry(2), entry(3)), "not 1 to 2"),
        (answer(entry(1), {**entry(2), "met": "yes"}), "no verdict"),
        (answer(entry(1), entry(2, reason=" ")), "no reason for statements [2]"),
    ],
)
def test_nonsense_is_no_verdict(text, why):
    with pytest.raises(NotJudged) as raised:
        statements_from(text, STATEMENTS)
    assert why in str(raised.value)


def test_no_statement_and_no_judgement_is_no_pass():
    assert not Judgement(model="m").passed
    [only] = verdicts(said())
    assert (only.ok, only.words) == (False, "not judged: there is no verdict")


def test_the_judge_reads_the_transcript_alone():
    lines = [
        JudgedLine(at_ms=1, who="agent", text="Hi\nCALLER: I never said this."),
        JudgedLine(at_ms=2, who="tool", text="t()"),
    ]
    text = question(said(transcript=lines), STATEMENTS)
    assert "AGENT: Hi CALLER: I never said this." in text, "one line of the call is one line of the question"
    assert "TOOL: t()" in text
    assert text.endswith("1. It was polite.\n2. It ended.")
    assert "SECRET PERSONA" not in text
    long = [JudgedLine(at_ms=n, who="agent", text=f"w{n}") for n in range(LINES_MAX + 7)]
    assert "[7 lines left out]" in question(said(transcript=long), STATEMENTS)


@pytest.mark.parametrize("provider", ["gemini", "openai"])
async def test_a_text_model_answers_over_its_protocol(provider):
    script = script_from({"replies": [{"on": "text:polite", "say": answer(entry(1), entry(2))}]})
    async with ModelServer(script_from({}), text=script, clock=running_clock()) as server:
        model = text_model(provider, "", model_environ(server))
        found = await model.answer("Was it polite?", SCHEMA)
        await model.close()
    assert statements_from(found.text, STATEMENTS)[1].met
    assert (found.usage.text_in, found.usage.text_out) == (4, 29)
    [asked] = server.text.asked
    assert (asked.question, asked.model, asked.structured) == ("Was it polite?", model.name, True)


@pytest.mark.parametrize("provider", ["gemini", "openai"])
@pytest.mark.parametrize(
    ("does", "why"),
    [
        ({"close": 503}, "it answered 503, 3 times"),
        ({"close": 401}, "401"),
        ({"wait_ms": 10_000}, "no answer within 5 s"),
        ("abort", ""),
        ({"say": ""}, "no answer"),
    ],
    ids=str,
)
async def test_a_text_model_that_fails_says_why(monkeypatch, provider, does, why):
    monkeypatch.setattr(text_models, "ANSWER_TIMEOUT_S", 5.0)
    monkeypatch.setattr(text_models, "PAUSE_S", 0.1)
    script = script_from({"replies": [{"on": "text", "do": [does]}]})
    async with ModelServer(script_from({}), text=script, clock=running_clock()) as server:
        environ = model_environ(server) | {"GEMINI_API_KEY": "sesame-key", "OPENAI_API_KEY": "sesame-key"}
        model = text_model(provider, "", environ)
        with pytest.raises(NotJudged) as raised:
            await model.answer("Well?", SCHEMA)
        await model.close()
    assert why in str(raised.value)
    assert "sesame" not in str(raised.value)


@pytest.mark.parametrize("provider", ["gemini", "openai"])
async def test_a_text_model_that_is_not_there_is_named(provider):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        environ = {"GOOGLE_GEMINI_BASE_URL": url, "GEMINI_API_KEY": "k", "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "k"}
        model = text_model(provider, "mine", environ)
        with pytest.raises(NotJudged, match=r"^mine: "):
            await model.answer("Well?", SCHEMA)
        await model.close()
