"""TwiML documents, read back with an XML parser."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.gateway.agent.spec import Fallback
from offhook.gateway.carriers.twilio import twiml
from offhook.gateway.errors import OperatorError

MEDIA, AFTER, STATUS = (
    "wss://voice.example.com/twilio/media",
    "https://voice.example.com/twilio/after",
    "https://voice.example.com/twilio/status",
)


def outline(document: str) -> list:
    """The document as nested lists: [tag, attributes, text, *children]."""

    def walk(element: ET.Element) -> list:
        return [element.tag, dict(element.attrib), element.text or "", *map(walk, element)]

    root = walk(ET.fromstring(document))
    assert root[:3] == ["Response", {}, ""]
    return root[3:]


def test_connect_stream():
    document = twiml.connect_stream(MEDIA, AFTER, {"token": "t", "agent": "reception"}, STATUS)
    assert document.startswith('<?xml version="1.0" encoding="UTF-8"?>')
    assert outline(document) == [
        ["Connect", {"action": AFTER, "method": "POST"}, "",
            ["Stream", {"url": MEDIA, "statusCallback": STATUS}, "",
                ["Parameter", {"name": "token", "value": "t"}, ""],
                ["Parameter", {"name": "agent", "value": "reception"}, ""]]],
    ]  # fmt: skip


def test_connect_stream_at_its_least():
    assert outline(twiml.connect_stream(MEDIA, AFTER)) == [
        ["Connect", {"action": AFTER, "method": "POST"}, "", ["Stream", {"url": MEDIA}, ""]]
    ]


@pytest.mark.parametrize("url", ["https://h/m", "ws://h/m", "wss://h/m?token=1", "wss://h/m#x", "", "/m"])
def test_media_urls_that_twilio_would_not_take(url):
    with pytest.raises(OperatorError, match="wss"):
        twiml.connect_stream(url, AFTER)


def test_parameters_stay_under_500_characters():
    assert "v" * 495 in twiml.connect_stream(MEDIA, AFTER, {"name": "v" * 495})
    with pytest.raises(OperatorError, match="'name' is too long"):
        twiml.connect_stream(MEDIA, AFTER, {"name": "v" * 496})
    with pytest.raises(OperatorError, match="'name' is too long") as caught:
        twiml.connect_stream(MEDIA, AFTER, {"name": "s3cret" * 83})
    assert "s3cret" not in str(caught.value)
    with pytest.raises(OperatorError, match="too long"):
        twiml.connect_stream(MEDIA, AFTER, {"n" * 10_000: ""})


@pytest.mark.parametrize(
    ("fallback", "expected"),
    [
        (Fallback(say="Sorry."), [["Say", {}, "Sorry."], ["Hangup", {}, ""]]),
        (Fallback(say=""), [["Hangup", {}, ""]]),
        (
            Fallback(say="One moment.", dial="+15550001111"),
            [["Say", {}, "One moment."], ["Dial", {}, "", ["Number", {}, "+15550001111"]], ["Hangup", {}, ""]],
        ),
        (
            Fallback(say="", dial="sip:desk@example.com"),
            [["Dial", {}, "", ["Sip", {}, "sip:desk@example.com"]], ["Hangup", {}, ""]],
        ),
        (Fallback(say="", enqueue="support"), [["Enqueue", {}, "support"], ["Hangup", {}, ""]]),
        (
            Fallback(play="https://example.com/sorry.mp3?a=1&b=2"),
            [["Play", {}, "https://example.com/sorry.mp3?a=1&b=2"], ["Hangup", {}, ""]],
        ),
        # The line that sends the caller away is not for somebody who is connected.
        (Fallback(enqueue="support"), [["Enqueue", {}, "support"], ["Hangup", {}, ""]]),
        (Fallback(), [["Say", {}, Fallback().say], ["Hangup", {}, ""]]),
    ],
)
def test_fallbacks(fallback, expected):
    assert outline(twiml.fallback(fallback)) == expected


def test_dial_with_everything():
    document = twiml.dial(
        "+15550001111", action_url=AFTER + "?a=1&b=2", caller_id="+15559998888", timeout_s=20, whisper_url=STATUS
    )
    assert outline(document) == [
        ["Dial",
            {"action": AFTER + "?a=1&b=2", "method": "POST", "callerId": "+15559998888", "timeout": "20"}, "",
            ["Number", {"url": STATUS, "method": "POST"}, "+15550001111"]],
    ]  # fmt: skip


def test_dial_sip_in_any_case():
    assert outline(twiml.dial("SIPS:a@b.example")) == [["Dial", {}, "", ["Sip", {}, "sips:a@b.example"]]]


def test_dial_client_by_its_identity():
    assert outline(twiml.dial("client:Alice")) == [["Dial", {}, "", ["Client", {}, "Alice"]]]


def test_every_dial_can_carry_a_caller_id():
    number = "+15559998888"
    for document in (
        twiml.dial("+15550001111", caller_id=number),
        twiml.fallback(Fallback(dial="+15550001111"), caller_id=number),
        twiml.join("room", caller_id=number),
    ):
        dials = [element for element in ET.fromstring(document).iter() if element.tag == "Dial"]
        assert [element.get("callerId") for element in dials] == [number]


def test_small_documents():
    assert outline(twiml.hang_up()) == [["Hangup", {}, ""]]
    assert outline(twiml.redirect(AFTER + "?a=1&b=2")) == [["Redirect", {"method": "POST"}, AFTER + "?a=1&b=2"]]
    assert outline(twiml.say("Bye.")) == [["Say", {}, "Bye."], ["Hangup", {}, ""]]
    assert outline(twiml.say("Back.", AFTER)) == [["Say", {}, "Back."], ["Redirect", {"method": "POST"}, AFTER]]
    assert outline(twiml.say("")) == [["Hangup", {}, ""]]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.text(max_size=60) | st.sampled_from(["</Say><Dial>+1</Dial>", "&amp;", "]]>", "<!--", "\x00\x0b\ufffe"]))
def test_no_text_breaks_or_adds_to_a_document(words):
    """What a caller, an agent file or a model wrote stays text, and the document stays XML."""
    fallback, target = Fallback(say="x" + words, dial="1" + words), "1" + words
    for document in (
        twiml.fallback(fallback),
        twiml.fallback(Fallback(say="x", enqueue="q" + words)),
        twiml.connect_stream(MEDIA, AFTER, {"n" + words: words}),
        twiml.dial(target, caller_id="1" + words),
        twiml.say("x" + words),
    ):
        tags = [element.tag for element in ET.fromstring(document).iter()]
        assert set(tags) <= {"Response", "Connect", "Stream", "Parameter", "Say", "Dial", "Number", "Enqueue", "Hangup"}
        assert len(tags) == len(set(tags))
    kept = "".join(
        c for c in "x" + words if c in "\t\n" or " " <= c < "\ud800" or "\ue000" <= c < "\ufffe" or c > "\uffff"
    )
    assert ET.fromstring(twiml.say("x" + words)).findtext("Say").replace("\n", "") == kept.replace("\r", "").replace(
        "\n", ""
    )
