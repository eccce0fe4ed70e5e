"""`${NAME}` in an agent file: filled from the environment, and masked wherever its value might appear again."""

from __future__ import annotations

from collections.abc import Mapping

from offhook.gateway.agent.tools import ENVIRONMENT
from offhook.gateway.errors import OperatorError
from offhook.gateway.observe.redact import MIN_LENGTH, Redactor

__all__ = ["Environment"]


class Environment:
    """The process's environment for one tool. `where` names the tool in errors."""

    def __init__(self, environ: Mapping[str, str], where: str) -> None:
        self._environ, self._where = environ, where
        self._redactor = Redactor()

    def fill(self, text: str, field: str) -> str:
        """`text` with every `${NAME}` replaced. Raises `OperatorError` for a name that is not set."""
        for name in ENVIRONMENT.findall(text):
            value = self._environ.get(name, "")
            if not value:
                raise OperatorError(f"{self._where}: {field}: {name} is not in the environment: set it")
            if not value.isprintable():
                raise OperatorError(f"{self._where}: {field}: {name} holds a line break or another control character")
            if len(value) >= MIN_LENGTH:
                self._redactor = self._redactor.knowing(value)
        return ENVIRONMENT.sub(lambda found: self._environ[found[1]], text)

    def mask(self, text: str) -> str:
        """`text` without the values that were filled in."""
        return self._redactor.text(text)
