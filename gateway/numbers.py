"""The one reading of telephone numbers and of the other addresses that calls come from and go to. Pure.

People write numbers with spaces, brackets and dashes, and carriers put SIP addresses, client identities and stand-ins
for withheld numbers where a number is expected. Everything that compares, dials or shows one reads it here.

Sources: ITU-T E.164; RFC 3966 (tel), 3261 and 3323 (SIP, anonymous callers); for withheld numbers a carrier's help,
"Why am I getting calls from these strange numbers?".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote

__all__ = ["DIALABLE", "EXAMPLE", "Address", "AddressKind", "first_number", "mask", "mistake_in", "read_address"]


class AddressKind(Enum):
    """What an address is."""

    NUMBER = "a telephone number"  # E.164
    SHORT_CODE = "a short code"
    SIP = "a SIP address"
    CLIENT = "a client address"  # a carrier's browser and mobile SDKs
    OTHER = "an address of another channel"  # `whatsapp:+15551234567`
    WITHHELD = "a stand-in for a withheld number"
    UNREADABLE = "no address"


DIALABLE = frozenset({AddressKind.NUMBER, AddressKind.SIP, AddressKind.CLIENT})
EXAMPLE = "+15551234567"

_WITHHELD = ("anonymous", "restricted", "blocked", "unknown", "unavailable", "private")
_WITHHELD_WORDS = {*_WITHHELD, "withheld", "no caller id", "caller unknown", "id unavailable", "not available"}
_KEYPAD = str.maketrans("abcdefghijklmnopqrstuvwxyz", "22233344455566677778889999")
# Carriers spell the word on the keypad, `+266696687` for ANONYMOUS; in North America with its 1 in front.
_WITHHELD_DIGITS = {one + word.translate(_KEYPAD) for word in _WITHHELD for one in ("", "1")}
_SEPARATORS = re.compile(r"[\s().\[\]/\u2010-\u2015\u2212-]+")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_SIP = re.compile(r"(?a)(?P<user>[^\s@<>\"]+)@(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\])(?::\d+)?(?:[;?][^\s<>\"]*)?")
_EXTENSION = re.compile(r"(?i)(?<!\W)\W*(?:extension|extn|ext|x|p|w|[,;#])[\s.:=]*\d+#?$")
_PARAMETER_EXTENSION = re.compile(r"(?i);(?:ext|postd)=")
_WITHOUT_EXTENSION = "holds an extension, which cannot be dialled with it: write the number alone, "
DIGITS_MIN, DIGITS_MAX = 7, 15  # of a number with its country code
MAX_CHARACTERS = 512  # of an address; carriers accept SIP addresses of about half


@dataclass(frozen=True, slots=True)
class Address:
    """`text`: the normal form, for dialling and showing; "" for a withheld number, as given when it cannot be read.

    `names`: what dialled numbers are compared by, the most exact first. `fix`: for `UNREADABLE`, what is wrong and what
    to write.
    """

    kind: AddressKind
    text: str
    names: tuple[str, ...] = ()
    fix: str = ""


def read_address(given: str) -> Address:
    """Read an address of a call. Takes any text and does not raise."""
    text = _plain(given)
    if len(text) > MAX_CHARACTERS:
        return _unreadable(given, f"has more than {MAX_CHARACTERS} characters, as no address has")
    if "<" in text and text.endswith(">"):  # "Desk" <sip:200@pbx.example>
        text = text[text.rindex("<") + 1 : -1].strip()
    if _is_withheld(text):
        return Address(AddressKind.WITHHELD, "")
    scheme = _SCHEME.match(text)
    if scheme is None:
        return _number(text, given)
    name, rest = scheme[1].lower(), text[scheme.end() :].strip()
    if name == "tel":
        return _tel(rest, given)
    if name in ("sip", "sips"):
        return _sip(name, rest, given)
    if not rest or re.search(r"\s", rest):
        return _unreadable(given, f"holds no address after {name}:")
    address = f"{name}:{rest}"
    if name == "client":
        return Address(AddressKind.CLIENT, address, (address.lower(),))
    inner = _number(rest, rest)
    return Address(AddressKind.OTHER, address, (address.lower(), *inner.names))


def mistake_in(given: str, accepted: Iterable[AddressKind]) -> str:
    """What is wrong with an address that people wrote, and what to write; "" when it is of an accepted kind."""
    address = read_address(given)
    if address.kind in accepted:
        return ""
    if address.fix:
        return address.fix
    return f"is {address.kind.value}, which cannot be used here: write a number such as {EXAMPLE}, or a SIP address"


def first_number(candidates: Iterable[str]) -> str:
    """The first of them that is a telephone number, in E.164; "" if none is."""
    read = (read_address(candidate) for candidate in candidates)
    return next((address.text for address in read if address.kind is AddressKind.NUMBER), "")


def mask(number: str) -> str:
    """A phone number or SIP address, masked: still distinguishable, no longer dialable."""
    scheme, colon, rest = number.partition(":")
    if colon:
        return f"{scheme}:•••{rest[rest.find('@') :] if '@' in rest else ''}"
    return number if len(number) < 4 or "•" in number else f"{number[: 3 if len(number) > 7 else 0]}•••{number[-2:]}"


def _plain(given: str) -> str:
    """Without invisible characters, with ASCII digits: numbers are pasted from contacts and documents."""
    text = unicodedata.normalize("NFKC", given)
    seen = (c for c in text if unicodedata.category(c) not in ("Cf", "Cc", "Cs"))
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in seen).strip()


def _is_withheld(text: str) -> bool:
    words = " ".join(re.split(r"[\s_.-]+", text.lower().removeprefix("client:"))).strip()
    digits = _SEPARATORS.sub("", text).removeprefix("+")
    return words in _WITHHELD_WORDS or digits in _WITHHELD_DIGITS or re.fullmatch("0+", digits) is not None


def _unreadable(given: str, fix: str) -> Address:
    text = given.strip()
    return Address(AddressKind.UNREADABLE, text if any(c.isalnum() for c in text) else "", (text.lower(),), fix)


def _number(text: str, given: str) -> Address:
    if not any(c.isalnum() for c in text):
        return _unreadable(given, f"is empty: write a number such as {EXAMPLE}, or a SIP address")
    if "@" in text:
        return _unreadable(given, f"lacks its scheme: write sip:{text}")
    if text.count("+") > 1:
        return _unreadable(given, "holds more than one number, or a + too many: write one number")
    if extension := _EXTENSION.search(text):
        alone = _number(text[: extension.start()], given)
        if alone.kind is AddressKind.NUMBER:
            return _unreadable(given, _WITHOUT_EXTENSION + alone.text)
    international = text.startswith(("+", "00"))
    if international:
        text = text.replace("(0)", "")  # +44 (0)20 ...: only dialled within the country
    digits = _SEPARATORS.sub("", text)
    if re.fullmatch(r"00[1-9][0-9]+", digits):
        digits = "+" + digits[2:]
    if re.fullmatch(r"\+[0-9]+", digits):
        return _international(digits, given)
    if re.fullmatch(r"[0-9]{3,6}", digits):
        return Address(AddressKind.SHORT_CODE, digits, (digits,))
    if re.fullmatch(r"[0-9]+", digits):
        return _national(digits, given)
    if re.fullmatch(r"\+?[0-9]+[0-9A-Za-z]+", digits):
        in_digits = _number(digits.lower().translate(_KEYPAD), given)
        if in_digits.kind is AddressKind.NUMBER:
            return _unreadable(given, f"holds letters: write it in digits, {in_digits.text}")
    return _unreadable(given, f"is not a telephone number: write one such as {EXAMPLE}, or a SIP address")


def _international(digits: str, given: str) -> Address:
    if digits[1] == "0":
        fix = f"begins with +0, and no country code does: write the country code after the +, as in {EXAMPLE}"
        return _unreadable(given, fix)
    count = len(digits) - 1
    if not DIGITS_MIN <= count <= DIGITS_MAX:
        return _unreadable(
            given, f"has {count} digits; a number has {DIGITS_MIN} to {DIGITS_MAX} with its country code"
        )
    return Address(AddressKind.NUMBER, digits, (digits,))


def _national(digits: str, given: str) -> Address:
    if digits.startswith("0"):
        hint = "replace the leading 0 by the country code, as in +49 30 1234567 for 030 1234567"
    elif len(digits) == 11 and digits.startswith("1"):
        hint = f"write +{digits}"
    elif len(digits) == 10:
        hint = f"write it with its country code, in North America +1{digits}"
    else:
        hint = f"write it with its country code, as in {EXAMPLE}"
    return Address(AddressKind.UNREADABLE, given.strip(), (digits,), f"has no country code: {hint}")


def _tel(rest: str, given: str) -> Address:
    number, _, _ = rest.partition(";")
    if _PARAMETER_EXTENSION.search(rest):
        return _unreadable(
            given, f"holds an extension, which cannot be dialled with it: write the number alone, {number}"
        )
    return _number(number, given)


def _sip(scheme: str, rest: str, given: str) -> Address:
    found = _SIP.fullmatch(rest) if rest.isascii() else None
    if found is None:
        return _unreadable(given, "is not a SIP address: write one such as sip:desk@pbx.example")
    user = unquote(found["user"]).partition(";")[0].partition(":")[0]
    host = found["host"].lower()
    if _is_withheld(user) or host.endswith(".invalid"):
        return Address(AddressKind.WITHHELD, "")
    exact = f"sip:{user.lower()}@{host}"
    number = _number(user, user)
    if number.kind is AddressKind.NUMBER:
        names: tuple[str, ...] = number.names
    else:
        names = (exact, user) if user.isdigit() else (exact,)
    return Address(AddressKind.SIP, f"{scheme}:{rest}", names)
