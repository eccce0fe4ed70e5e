"""Redaction of secrets in logs, records, results sent to the model, and errors.

Secrets are the values of environment variables named like one (`..._TOKEN`, `..._PASSWORD`), and those
an agent file names as `${NAME}`. Each is also found in its URL-encoded and JSON forms.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

from offhook.gateway.agent.tools import ENVIRONMENT
from offhook.gateway.text import visible

__all__ = ["MASK", "RedactingFormatter", "Redactor", "secrets_of"]

MASK = "[secret]"
MIN_LENGTH = 6  # a shorter value occurs in ordinary text by chance

_SECRET_NAME = re.compile(
    r"(KEY|TOKENS?|SECRET|PASSWORD|PASSWD|PASS|PWD|CREDENTIALS?|DSN|DATABASE_URL|REDIS_URL|OFFHOOK_LIVE)\Z"
)
_FOLDERS = {"PWD", "OLDPWD"}  # the shell's working directory, part of every traceback
_RUN = re.compile(r"[\w.~-]{12,}")


def secrets_of(environ: Mapping[str, str], named_in: Iterable[Any] = ()) -> set[str]:
    """The secret values of an environment. `named_in`: settings in which `${NAME}` refers to it."""
    names = {name for name in environ if _SECRET_NAME.search(name.upper())} - _FOLDERS
    for text in _texts(named_in):
        names.update(ENVIRONMENT.findall(text))
    values: set[str] = set()
    for name in names:
        value = environ.get(name, "").strip()
        values.add(value)
        if "://" in value:
            try:
                values.add(urlsplit(value).password or "")
            except ValueError:
                continue
        elif "," in value:  # several tokens, during a rotation
            values.update(part.strip() for part in value.split(","))
    return {value for value in values if len(value) >= MIN_LENGTH}


class Redactor:
    """Replaces each of these values by `[secret]`."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = frozenset(secrets)
        forms = {form for secret in self._secrets for form in _forms(secret)}
        longest_first = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def knowing(self, secret: str) -> Redactor:
        """A redactor that also masks this value, of any length."""
        return Redactor(self._secrets | {secret})

    def text(self, text: str) -> str:
        """The text without the secrets."""
        return self._pattern.sub(MASK, text) if self._pattern is not None else text

    def value(self, value: Any) -> Any:
        """A JSON value without the secrets, keys included; the value itself stays as it is."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value


class RedactingFormatter(logging.Formatter):
    """A log line without the secrets, its traceback included.

    What peers send cannot make a line, nor control a terminal: control characters are written out, and the lines of a
    traceback are indented.
    """

    def __init__(self, fmt: str, redactor: Redactor) -> None:
        super().__init__(fmt)
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        return self._redactor.text(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        multiline = "\n" in str(record.msg)  # in the text itself, not in what is put into it
        record.message = _indented(record.message) if multiline else visible(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _indented(stack_info)


def _indented(text: str) -> str:
    """Of several lines, all but the first indented."""
    return visible(text, lines=True).replace("\n", "\n    ")


def _forms(secret: str) -> tuple[str, ...]:
    """The forms of a secret: plain, in a URL, in JSON, in a Python value."""
    jsons = (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    # Whatever the escaping, long runs of plain characters stay the same. Those of a URL are not secret.
    runs = [] if "://" in secret else _RUN.findall(secret)
    return (secret, *runs, quote(secret, safe=""), quote_plus(secret), *jsons, repr([secret])[2:-2])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, Iterable):
        for item in value:
            yield from _texts(item)
