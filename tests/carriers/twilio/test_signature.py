"""Signatures: Twilio's own worked example, what must not pass, and the SDK as second opinion."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import MultiDict
from twilio.request_validator import RequestValidator

from offhook.gateway.carriers.twilio.signature import port_variants, sign, upgrade_signed, webhook_signed

# The worked example of Twilio's docs ("Webhooks security").
TOKEN = "12345"
PUBLIC, PATH = "https://example.com", "/myapp.php?foo=1&bar=2"
FORM = {
    "CallSid": "CA1234567890ABCDE",
    "Caller": "+14158675310",
    "Digits": "1234",
    "From": "+14158675310",
    "To": "+18005551212",
}
DOCUMENTED = "L/OH5YylLD5NRKLltdqwSvS0BnU="


def passes(signature: str | None = DOCUMENTED, **changes: object) -> bool:
    request = {"tokens": [TOKEN], "public_url": PUBLIC, "path_qs": PATH, "form": FORM, **changes}
    return webhook_signed(signature, **request)


def test_the_documented_example():
    assert sign(TOKEN, PUBLIC + PATH, FORM) == DOCUMENTED
    assert passes()
    assert passes(form=reversed(FORM.items()))  # fields in any order
    assert passes(public_url=PUBLIC + "/")


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        "x",
        DOCUMENTED[:-1],
        DOCUMENTED + "=",
        DOCUMENTED + "\n",
        " " + DOCUMENTED,
        DOCUMENTED.lower(),
        "A" + DOCUMENTED[1:],
        DOCUMENTED.replace("/", "_"),
        "☎",
        "\ud800",
        "=" * 100_000,
    ],
)
def test_wrong_and_missing_signatures(signature):
    assert not passes(signature)


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": []},
        {"tokens": [""]},
        {"tokens": ["12346"]},
        {"tokens": ["12345 "]},
        {"public_url": "https://example.org"},
        {"public_url": "http://example.com"},
        {"public_url": "https://example.com/prefix"},
        {"public_url": "https://www.example.com"},
        {"path_qs": "/myapp.php?bar=2&foo=1"},
        {"path_qs": "/myapp.php"},
        {"path_qs": "/myapp.php/?foo=1&bar=2"},
        {"path_qs": "/myapp%2Ephp?foo=1&bar=2"},
        {"path_qs": "/myapp.php?foo=1&bar=2&"},
        {"path_qs": "http://example.com/myapp.php?foo=1&bar=2"},
        {"path_qs": "@evil.example/myapp.php?foo=1&bar=2"},
        {"form": FORM | {"To": "+18005551213"}},
        {"form": FORM | {"Added": ""}},
        {"form": FORM | {"added": "x"}},
        {"form": {k: v for k, v in FORM.items() if k != "Digits"}},
        {"form": {("callSid" if k == "CallSid" else k): v for k, v in FORM.items()}},
        {"form": [*FORM.items(), ("To", "+19995550000")]},  # a second value of a signed name
        {"form": ()},
        {"body": b"{}"},  # JSON whose hash the URL does not carry
    ],
    ids=str,
)
def test_whatever_was_changed_does_not_pass(changes):
    assert not passes(**changes)


def test_a_blank_token_is_no_key():
    assert not passes(sign("", PUBLIC + PATH, FORM), tokens=["", TOKEN])


def test_rotation_takes_either_token():
    new = sign("fresh-token", PUBLIC + PATH, FORM)
    assert passes(tokens=["fresh-token", TOKEN])
    assert passes(new, tokens=["fresh-token", TOKEN])
    assert passes(new, tokens=[TOKEN, "fresh-token"])
    assert not passes(new)


@pytest.mark.parametrize(
    ("public_url", "signed_url"),
    [
        # Voice over HTTPS drops the port; other products keep it; some add the default one.
        ("https://example.com:8443", "https://example.com"),
        ("https://example.com:8443", "https://example.com:8443"),
        ("https://example.com", "https://example.com:443"),
        ("https://example.com:443", "https://example.com"),
        ("http://example.com:8080", "http://example.com:8080"),
        ("http://example.com", "http://example.com:80"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]"),
        # User-info is sent as Basic auth, not signed; the SDK's validator loses the host here.
        ("https://user:pass@example.com:443", "https://example.com"),
    ],
)
def test_ports_and_user_info(public_url, signed_url):
    assert passes(sign(TOKEN, signed_url + PATH, FORM), public_url=public_url)


def test_another_port_does_not_pass():
    assert not passes(sign(TOKEN, "https://example.com:9999" + PATH, FORM), public_url="https://example.com:8443")


def test_behind_a_proxy_the_public_url_counts():
    """TLS ends at the balancer and the app sees http://10.0.0.7: what is verified is what Twilio was told."""
    signed_inside = sign(TOKEN, "http://10.0.0.7:8080" + PATH, FORM)
    assert passes()
    assert not passes(signed_inside)


def test_a_prefix_that_the_proxy_takes_off():
    signature = sign(TOKEN, "https://example.com/voice-agent/twilio/voice", FORM)
    assert passes(signature, public_url="https://example.com/voice-agent", path_qs="/twilio/voice")


@pytest.mark.parametrize("path", ["/a%20b", "/a+b?q=%2B1", "/?", "/a?", "/%C3%A9", "//double", "/a;b=1"])
def test_the_raw_path_is_kept(path):
    assert passes(sign(TOKEN, PUBLIC + path, FORM), path_qs=path)


def test_repeated_names():
    form = MultiDict([("Tag", "b"), ("Tag", "a"), ("Tag", "b"), ("To", "+1")])
    signature = sign(TOKEN, PUBLIC + PATH, form.items())
    assert signature == RequestValidator(TOKEN).compute_signature(PUBLIC + PATH, form)
    assert passes(signature, form=form)
    assert passes(signature, form=list(form.items()))
    assert not passes(signature, form=dict(form))  # what a plain dict would lose


def test_json_bodies_are_signed_by_their_hash():
    body = '{"event": "ünï"}'.encode()
    path = "/hook?bodySHA256=" + hashlib.sha256(body).hexdigest()
    signature = sign(TOKEN, PUBLIC + path)
    assert passes(signature, path_qs=path, form=(), body=body)
    assert passes(sign(TOKEN, PUBLIC + path.replace("bodySHA256", "a=1&bodySHA256")), body=body, form=(),
                  path_qs=path.replace("bodySHA256", "a=1&bodySHA256"))  # fmt: skip
    assert not passes(signature, path_qs=path, form=(), body=body + b" ")
    assert not passes(signature, path_qs=path, form=(), body=b"")
    assert RequestValidator(TOKEN).validate(PUBLIC + path, body.decode(), signature)


# --- the WebSocket upgrade

UPGRADE = "/twilio/media"


def upgrade(signed_url: str, *, public_url: str = PUBLIC, path_qs: str = UPGRADE, token: str = TOKEN) -> bool:
    return upgrade_signed(sign(token, signed_url), tokens=[TOKEN], public_url=public_url, path_qs=path_qs)


@pytest.mark.parametrize(
    "signed_url",
    [
        "wss://example.com/twilio/media",
        "wss://example.com/twilio/media/",
        "wss://example.com:443/twilio/media",
        "wss://example.com:443/twilio/media/",
    ],
)
def test_upgrade_forms(signed_url):
    assert upgrade(signed_url)
    assert upgrade(signed_url, public_url="https://example.com:443/")
    assert upgrade(signed_url, public_url="wss://example.com")
    assert upgrade(signed_url, path_qs="/twilio/media/")


def test_upgrade_on_another_port():
    assert upgrade("wss://example.com:8443/twilio/media", public_url="https://example.com:8443")
    assert upgrade("wss://example.com/twilio/media", public_url="https://example.com:8443")
    assert not upgrade("wss://example.com:8443/twilio/media")


@pytest.mark.parametrize(
    "signed_url",
    [
        "https://example.com/twilio/media",  # the scheme signed is wss
        "ws://example.com/twilio/media",
        "wss://example.org/twilio/media",
        "wss://example.com/twilio/media//",
        "wss://example.com/twilio/medi",
        "wss://example.com/twilio/media?x=1",
        "wss://example.com/",
        "wss://example.com:80/twilio/media",
    ],
)
def test_upgrade_refused(signed_url):
    assert not upgrade(signed_url)


def test_upgrade_with_wrong_or_no_signature():
    url = "wss://example.com/twilio/media"
    assert not upgrade(url, token="other")
    assert not upgrade_signed(None, tokens=[TOKEN], public_url=PUBLIC, path_qs=UPGRADE)
    assert not upgrade_signed("", tokens=[TOKEN], public_url=PUBLIC, path_qs=UPGRADE)
    assert not upgrade_signed(sign(TOKEN, url), tokens=[], public_url=PUBLIC, path_qs=UPGRADE)


def test_upgrade_query_stays_after_the_slash():
    assert upgrade("wss://example.com/twilio/media/?a=1", path_qs="/twilio/media?a=1")


# --- as the SDK has it

text = st.text(st.characters(codec="utf-8"), max_size=12)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(text, text), max_size=6), text, text, text.filter(bool))
def test_signatures_are_the_sdk_s(pairs, path, query, token):
    url = f"https://example.com/{quote(path)}?{quote(query)}"
    form = MultiDict(pairs)
    assert sign(token, url, form.items()) == RequestValidator(token).compute_signature(url, form)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.dictionaries(text, text, max_size=4), text, text.filter(bool), text.filter(bool))
def test_only_the_right_token_passes(form, path, token, other):
    path = "/" + quote(path)
    signature = RequestValidator(token).compute_signature(PUBLIC + path, form)
    assert webhook_signed(signature, tokens=[token], public_url=PUBLIC, path_qs=path, form=form)
    if other != token:
        assert not webhook_signed(signature, tokens=[other], public_url=PUBLIC, path_qs=path, form=form)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text, text, st.dictionaries(text, text, max_size=3))
def test_no_request_makes_it_raise(signature, path, form):
    assert webhook_signed(signature, tokens=[TOKEN], public_url=PUBLIC, path_qs=path, form=form) is False
    assert upgrade_signed(signature, tokens=[TOKEN], public_url=PUBLIC, path_qs=path) is False


def test_a_giant_form_is_checked_in_time():
    form = [(f"Field{i}", "x" * 50) for i in range(10_000)]
    assert passes(sign(TOKEN, PUBLIC + PATH, form), form=form)


@pytest.mark.parametrize("url", ["", "example.com", "//example.com", "https://", "https:///path"])
def test_a_public_url_must_be_one(url):
    with pytest.raises(ValueError, match="public URL"):
        port_variants(url)
