"""Twilio's request signatures, checked. Pure. Source: Twilio docs, "Webhooks security".

A signature is Base64(HMAC-SHA1(auth token, URL + each form name and value, sorted by name)). The URL is the
public one that Twilio was configured with, so it is built from the configured public URL and the request's raw path
and query, never from request headers, which the sender chooses.

Not the SDK's `RequestValidator`, which raises on a missing header, tries port 80 for wss, loses the host of URLs with
user-info, and ends its comparison early on unequal lengths. The tests compare with it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import parse_qs

__all__ = ["SIGNATURE_HEADER", "port_variants", "sign", "upgrade_signed", "webhook_signed"]

SIGNATURE_HEADER = "X-Twilio-Signature"

_DEFAULT_PORTS = {"https": ":443", "http": ":80", "wss": ":443", "ws": ":80"}
_URL = re.compile(r"([A-Za-z]+)://(?:[^/?#@]*@)?(\[[^]/]*\]|[^:/?#]+)(:[0-9]+)?(.*)", re.DOTALL)

Form = Iterable[tuple[str, str]]


def webhook_signed(
    signature: str | None,
    *,
    tokens: Sequence[str],
    public_url: str,
    path_qs: str,
    form: Form | Mapping[str, str] = (),
    body: bytes | None = None,
) -> bool:
    """Whether one of `tokens` signed this webhook.

    `path_qs` is the raw path and query as received (not decoded: `%20` and `+` are signed unchanged).
    `form` is every field of a form POST: (name, value) pairs, repeated names included, or a mapping when none
    is. `body` is the raw body of a JSON POST, whose SHA-256 the query carries as `bodySHA256`.
    A missing signature, or no tokens, is False.
    """
    if body is not None and not _body_matches(path_qs, body):
        return False
    url = public_url.rstrip("/") + path_qs
    return _signed(signature, tokens, port_variants(url), form)


def upgrade_signed(signature: str | None, *, tokens: Sequence[str], public_url: str, path_qs: str) -> bool:
    """Whether one of `tokens` signed this WebSocket upgrade.

    Twilio signs the `wss` URL without parameters, and is known to add a trailing slash to it first (its docs
    advise to try both). A missing signature, or no tokens, is False.
    """
    url = public_url.rstrip("/") + path_qs
    url = re.sub(r"^http", "ws", url, flags=re.IGNORECASE)
    path, question, query = url.partition("?")
    other = path[:-1] if path.endswith("/") else path + "/"
    return _signed(signature, tokens, [*port_variants(url), *port_variants(other + question + query)], ())


def sign(token: str, url: str, form: Form | Mapping[str, str] = ()) -> str:
    """Twilio's signature of this URL (exactly as given) and these form fields."""
    return _hmac(token, url + _form_text(form))


def port_variants(url: str) -> list[str]:
    """The forms of this URL that Twilio may have signed: as given, without its port, with the default port.

    User-info is dropped from all: Twilio sends it as Basic auth and does not sign it. The rest stays byte for
    byte. Raises `ValueError` for what is not an absolute URL.
    """
    match = _URL.fullmatch(url)
    if not match:
        raise ValueError("the public URL must look like https://voice.example.com")
    scheme, host, port, rest = match[1], match[2], match[3] or "", match[4]
    default = _DEFAULT_PORTS.get(scheme.lower(), ":443")
    return [f"{scheme}://{host}{p}{rest}" for p in dict.fromkeys((port, "", default))]


def _form_text(form: Form | Mapping[str, str]) -> str:
    pairs = form.items() if isinstance(form, Mapping) else form
    # A repeated name is signed once per distinct value, values sorted, as Twilio's own SDKs do.
    return "".join(name + value for name, value in sorted(set(pairs)))


def _hmac(token: str, message: str) -> str:
    try:
        signed = message.encode("utf-8", "surrogateescape")  # bytes of a field that is not UTF-8, as they were received
    except UnicodeEncodeError:
        signed = message.encode("utf-8", "surrogatepass")
    digest = hmac.new(token.encode(), signed, hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def _body_matches(path_qs: str, body: bytes) -> bool:
    claimed = parse_qs(path_qs.partition("?")[2]).get("bodySHA256", [""])[0]
    return hmac.compare_digest(claimed.lower().encode(), hashlib.sha256(body).hexdigest().encode())


def _signed(signature: str | None, tokens: Sequence[str], urls: Sequence[str], form: Form | Mapping[str, str]) -> bool:
    if not signature:
        return False
    fields, given = _form_text(form), signature.encode("utf-8", "surrogatepass")
    found = False
    for token in filter(None, tokens):  # a blank token would be a key known to all
        for url in urls:  # no early end: the time taken does not show which token or form matched
            found |= hmac.compare_digest(_hmac(token, url + fields).encode(), given)
    return found
