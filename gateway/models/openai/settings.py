"""How the OpenAI service is reached, by the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from offhook.gateway.config import check_proxies, unquoted
from offhook.gateway.errors import OperatorError

__all__ = ["OpenAISettings"]

BASE_URL = "https://api.openai.com/v1"
AZURE_PATH = "/openai/v1"  # of the GA protocol; the preview's, with `api-version`, was retired on 2026-04-30


@dataclass(frozen=True, slots=True)
class OpenAISettings:
    """How the service is reached. `ca_file` replaces the trusted certificates (`SSL_CERT_FILE`)."""

    api_key: str = field(default="", repr=False)
    base_url: str = BASE_URL
    organization: str = ""
    project: str = ""
    ca_file: str = ""

    @classmethod
    def found(cls, environ: Mapping[str, str]) -> OpenAISettings:
        """From the variables that the official SDK reads, whether or not they are enough."""
        environ = {name: unquoted(value) for name, value in environ.items()}
        return cls(
            api_key=environ.get("OPENAI_API_KEY", ""),
            base_url=environ.get("OPENAI_BASE_URL", "").rstrip("/") or BASE_URL,
            organization=environ.get("OPENAI_ORG_ID", ""),
            project=environ.get("OPENAI_PROJECT_ID", ""),
            ca_file=environ.get("SSL_CERT_FILE", ""),
        )

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> OpenAISettings:
        """As `found`. Raises `OperatorError` when the variables are not enough, or name a proxy that cannot be used."""
        check_proxies(environ)
        settings = cls.found(environ)
        if not settings.api_key:
            raise OperatorError("no key for the OpenAI API: set OPENAI_API_KEY")
        if any(character.isspace() or ord(character) > 126 for character in settings.api_key):
            raise OperatorError("OPENAI_API_KEY has characters that a key does not have: copy it again")
        url = urlsplit(settings.base_url)
        if url.scheme not in ("https", "http", "wss", "ws") or not url.hostname:
            raise OperatorError("OPENAI_BASE_URL must look like https://api.openai.com/v1")
        if settings.azure and (url.path != AZURE_PATH or url.query):
            fix = f"https://{url.hostname}{AZURE_PATH}"
            raise OperatorError(f"OPENAI_BASE_URL of Azure must be {fix}, without api-version")
        return settings

    @property
    def azure(self) -> bool:
        return (urlsplit(self.base_url).hostname or "").endswith(".azure.com")

    def url(self, model: str) -> str:
        """Of a session's WebSocket."""
        scheme, _, rest = self.base_url.partition("://")
        return f"{'ws' if scheme in ('http', 'ws') else 'wss'}://{rest}/realtime?model={quote(model, safe='')}"

    def headers(self) -> dict[str, str]:
        """Never `OpenAI-Beta`: the service closes a session of the beta's shapes with 4000."""
        key = {"api-key": self.api_key} if self.azure else {"Authorization": f"Bearer {self.api_key}"}
        names = {"OpenAI-Organization": self.organization, "OpenAI-Project": self.project}
        return key | {name: value for name, value in names.items() if value}

    def shown(self) -> dict[str, str]:
        """The settings as text under their variables' names, the key masked."""
        return {
            "OPENAI_API_KEY": "(set)" if self.api_key else "(not set)",
            "OPENAI_BASE_URL": "" if self.base_url == BASE_URL else self.base_url,
        }
