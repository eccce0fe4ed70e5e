"""The one reading of telephone numbers: what people write, what carriers send, what is refused and how it is fixed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhook.gateway.agent.load import parse_agent
from offhook.gateway.errors import AgentFileError
from offhook.gateway.numbers import DIALABLE, AddressKind, first_number, mistake_in, read_address
from tests.rig.computing import computing_within

NUMBER, SHORT, SIP, CLIENT = AddressKind.NUMBER, AddressKind.SHORT_CODE, AddressKind.SIP, AddressKind.CLIENT
OTHER, WITHHELD, UNREADABLE = AddressKind.OTHER, AddressKind.WITHHELD, AddressKind.UNREADABLE


@pytest.mark.parametrize(
    "written",
    [
        "+15551234567",
        " +1 (555) 123-4567 ",
        "+1.555.123.4567",
        "+1 555/123-4567",
        "+1\u00a0555\u2011123\u20134567",  # no-break space, hyphen, dash: pasted from a document
        "\u202a+15551234567\u202c",  # marks of direction: pasted from contacts
        "＋１５５５１２３４５６７",
        "0015551234567",
        "00 1 555 123 4567",
        "tel:+1-555-123-4567",
        "TEL:+15551234567;phone-context=+1",
    ],
)
def test_a_number_has_one_form_however_written(written: str) -> None:
    address = read_address(written)
    assert (address.kind, address.text, address.names) == (NUMBER, "+15551234567", ("+15551234567",))


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("+44 (0)20 7946 0958", "+442079460958"),  # the 0 is dialled within the country only
        ("0044 (0) 20 7946 0958", "+442079460958"),
        ("+39 06 698 1234", "+39066981234"),  # Italy's is part of the number
        ("+49 30/123456", "+4930123456"),
        ("+\u0661\u0665\u0665\u0665\u0661\u0662\u0663\u0664\u0665\u0666\u0667", "+15551234567"),
    ],
)
def test_other_countries_ways_of_writing_are_read(written: str, number: str) -> None:
    assert read_address(written).text == number


@pytest.mark.parametrize(
    ("written", "kind", "text", "names"),
    [
        ("12345", SHORT, "12345", ("12345",)),
        ("sip:200@pbx.example", SIP, "sip:200@pbx.example", ("sip:200@pbx.example", "200")),
        ("SIP:Desk@PBX.example:5060;transport=tls", SIP, "sip:Desk@PBX.example:5060;transport=tls",
            ("sip:desk@pbx.example",)),
        ('"Front desk" <sip:desk@pbx.example>', SIP, "sip:desk@pbx.example", ("sip:desk@pbx.example",)),
        ("sips:+15551234567@h:5061", SIP, "sips:+15551234567@h:5061", ("+15551234567",)),
        ("sip:%2B15551234567;npdi@h", SIP, "sip:%2B15551234567;npdi@h", ("+15551234567",)),
        ("sip:desk@[2001:db8::1]:5060", SIP, "sip:desk@[2001:db8::1]:5060", ("sip:desk@[2001:db8::1]",)),
        ("client:Alice", CLIENT, "client:Alice", ("client:alice",)),
        ("whatsapp:+15551234567", OTHER, "whatsapp:+15551234567", ("whatsapp:+15551234567", "+15551234567")),
    ],
)  # fmt: skip
def test_other_addresses(written: str, kind: AddressKind, text: str, names: tuple[str, ...]) -> None:
    address = read_address(written)
    assert (address.kind, address.text, address.names) == (kind, text, names)


@pytest.mark.parametrize(
    "reported",
    [
        "+266696687", "+7378742833", "+2562533", "+8656696", "+86282452253",  # of the case
        "266696687", "+1266696687", "+17378742833", "+7748283",  # without +, with a carrier's 1; PRIVATE
        "anonymous", "Restricted", "BLOCKED", "unknown", "unavailable", "Private", "No Caller ID", "withheld",
        "client:Anonymous", "sip:anonymous@anonymous.invalid", "sip:restricted@pbx.example",
        '"Anonymous" <sip:c8oqz84zk7z@unknown.invalid>', "sip:+266696687@pbx.example", "+00000000000", "0",
    ],
)  # fmt: skip
def test_a_withheld_number_is_nobodys(reported: str) -> None:
    address = read_address(reported)
    assert (address.kind, address.text, address.names) == (WITHHELD, "", ())


@pytest.mark.parametrize("reported", ["+12666966871", "+73787428331", "sip:unknownable@pbx.example", "+8656696123"])
def test_numbers_like_a_withheld_one_are_kept(reported: str) -> None:
    assert read_address(reported).text == reported


@pytest.mark.parametrize(
    ("written", "fix"),
    [
        ("555-123-4567", r"has no country code: .*\+15551234567"),
        ("1 555 123 4567", r"has no country code: write \+15551234567"),
        ("030 1234567", "has no country code: replace the leading 0"),
        ("1234567", "has no country code"),
        ("+1 555 123 4567 x89", r"holds an extension, .* the number alone, \+15551234567"),
        ("+15551234567,89", "holds an extension"),
        ("+15551234567 ext. 89", "holds an extension"),
        ("tel:+15551234567;ext=89", "holds an extension"),
        ("+1 800 FLOWERS", r"holds letters: write it in digits, \+18003569377"),
        ("+15551234567, +15557654321", "holds more than one number"),
        ("+0155512345", "no country code does"),
        ("+1 555", "has 4 digits"),
        ("+1234567890123456", "has 16 digits"),
        ("200@pbx.example", "write sip:200@pbx.example"),
        ("sip:pbx.example", "is not a SIP address"),
        ("sip:a b@pbx.example", "is not a SIP address"),
        ("the desk", "is not a telephone number"),
        ("tel:", "is empty"),
        ("client:", "holds no address after client:"),
        ("", "is empty"),
    ],
)
def test_what_is_no_address_is_refused_with_a_fix(written: str, fix: str) -> None:
    with pytest.raises(AssertionError, match=fix):
        raise AssertionError(mistake_in(written, DIALABLE))
    assert read_address(written).kind is UNREADABLE


def test_withheld_and_short_numbers_cannot_be_dialled() -> None:
    assert "withheld" in mistake_in("+266696687", DIALABLE)
    assert "short code" in mistake_in("12345", DIALABLE)
    assert "another channel" in mistake_in("whatsapp:+15551234567", DIALABLE)


def test_the_first_number_of_several() -> None:
    assert first_number(["sip:a@b.example", "", "anonymous", "+1 555 123 4567", "+15557654321"]) == "+15551234567"
    assert first_number(["client:alice"]) == ""


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=40) | st.text(alphabet="+0123456789 ()-x;:@<>sip.", max_size=30))
def test_any_text_is_read_and_a_form_is_stable(text: str) -> None:
    address = read_address(text)
    assert bool(address.fix) == (address.kind is UNREADABLE)
    if address.kind is not UNREADABLE:
        assert read_address(address.text).kind in (address.kind, UNREADABLE if not address.text else address.kind)
        assert read_address(address.text).text == address.text


# --- agent files


def test_an_agent_files_numbers_are_normalised() -> None:
    agent = parse_agent(
        "name: a\n"
        "numbers: ['+1 (555) 123-4567', '12345', 'SIP:Desk@x.sip.twilio.com']\n"
        "outbound: {caller_id: 'tel:+1-555-123-4567'}\n"
        "fallback: {dial: 0044 (0)20 7946 0958}\n"
        "tools: [{builtin: transfer_call, options: {targets: {sales: +1 555 765 4321, web: 'client:alice'}}}]\n"
    )
    assert agent.numbers == ("+15551234567", "12345", "sip:Desk@x.sip.twilio.com")
    assert (agent.outbound.caller_id, agent.fallback.dial) == ("+15551234567", "+442079460958")
    assert agent.tools[0].options.targets == {"sales": "+15557654321", "web": "client:alice"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('numbers: ["555-123-4567"]', r"a:2: numbers\[0\]: has no country code: .*\+15551234567"),
        ('numbers: ["+15550001111", "anonymous"]', r"numbers\[1\]: is a stand-in for a withheld number"),
        ('outbound: {caller_id: "(555) 123-4567"}', "outbound.caller_id: has no country code"),
        ('outbound: {caller_id: "12345"}', "outbound.caller_id: is a short code"),
        ('fallback: {dial: "555 765 4321"}', "fallback.dial: has no country code"),
        ('tools: [{builtin: transfer_call, options: {targets: {s: "+15557654321 x2"}}}]', "targets.s: holds an ext"),
        ("numbers: [+15551234567]", r"numbers\[0\]: .*quotes"),
        ("fallback: {dial: +15551234567}", "fallback.dial: .*quotes"),
    ],
)
def test_an_agent_file_with_another_number_is_refused(line: str, says: str) -> None:
    with pytest.raises(AgentFileError, match=says):
        parse_agent(f"name: x\n{line}\n", path="a")


@pytest.mark.parametrize("piece", ["[", "5x1", " ", "1", "x", "+", "(0)", "a@", "\ufdfa", "<"])
def test_a_text_as_long_as_a_form_is_read_at_once(piece: str) -> None:
    with computing_within(1.0, "a text"):
        address = read_address("+1555" + piece * 20_000)
    assert address.kind is UNREADABLE
