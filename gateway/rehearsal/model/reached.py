"""How a gateway, or a caller who thinks, reaches the rehearsal model instead of a provider."""

from __future__ import annotations

from typing import Protocol

__all__ = ["ModelAt", "model_environ"]


class ModelAt(Protocol):
    """A rehearsal model's URL, and the certificate to trust."""

    @property
    def url(self) -> str: ...

    @property
    def ca_path(self) -> str: ...


def model_environ(model: ModelAt) -> dict[str, str]:
    """The environment variables from which both providers' settings are read."""
    return {
        "GOOGLE_GEMINI_BASE_URL": model.url,
        "SSL_CERT_FILE": model.ca_path,
        "GEMINI_API_KEY": "rehearsal",
        "OPENAI_BASE_URL": f"{model.url}/v1",
        "OPENAI_API_KEY": "rehearsal",
    }
