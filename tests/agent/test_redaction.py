"""Rules of `redact`: what is masked, what is left, and what is no rule."""

from __future__ import annotations

import pytest

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.agent.redaction import redacted, without_words
from offhook.gateway.errors import AgentFileError
from offhook.gateway.store.record import ActionRecord, CallRecord, ToolRecord, TranscriptLine


def spoken(text: str) -> CallRecord:
    line = TranscriptLine(at_ms=0.0, who="caller", text=text)
    tool = ToolRecord(call_id="1", name="pay", requested_ms=0.0, arguments={"deep": [{"said": text}]})
    action = ActionRecord(at_ms=0.0, who="ann", what="say", detail=text)
    return CallRecord(call_sid="CA1", transcript=[line], tool_calls=[tool], actions=[action])


@pytest.mark.parametrize(
    ("rule", "text", "left"),
    [
        ("card", "It is 4111 1111 1111 1111, thanks", "It is [redacted], thanks"),
        ("card", "4111-1111-1111-1111", "[redacted]"),
        ("card", "order 4111 1111 1111 1112", "order 4111 1111 1111 1112"),  # no check digit
        ("card", "call +15551234567", "call +15551234567"),
        ("iban", "to DE89 3704 0044 0532 0130 00 please", "to [redacted] please"),
        ("iban", "GB82WEST12345698765432", "[redacted]"),
        ("iban", "DE89 3704 0044 0532 0130 01", "DE89 3704 0044 0532 0130 01"),
        (r"\bPIN \d+\b", "my PIN 1234 and PINE 5", "my [redacted] and PINE 5"),
    ],
)
def test_what_fits_a_rule_is_masked(rule: str, text: str, left: str) -> None:
    kept = redacted(spoken(text), [rule])
    assert kept.transcript[0].text == kept.actions[0].detail == left
    assert kept.tool_calls[0].arguments == {"deep": [{"said": left}]}


def test_the_record_itself_stays_as_it_is() -> None:
    record = spoken("secret")
    assert redacted(record, ["secret"]) != record
    assert record.transcript[0].text == "secret"
    assert without_words(record).transcript[0].text == "[redacted]"


@pytest.mark.parametrize(("rule", "says"), [("(", "nor a regular expression"), ("x*", "fits the empty text")])
def test_what_is_no_rule_is_refused(rule: str, says: str) -> None:
    with pytest.raises(AgentFileError, match=says):
        parse_agent(f"name: a\nredact: ['{rule}']\n")
