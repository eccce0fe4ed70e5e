"""How the Gemini service is reached, by the environment: read without the SDK, which takes half a second to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from offhook.gateway.config import check_proxies, unquoted
from offhook.gateway.errors import OperatorError

__all__ = ["GeminiSettings"]


@dataclass(frozen=True, slots=True)
class GeminiSettings:
    """How the service is reached. `ca_file` replaces the trusted certificates (`SSL_CERT_FILE`)."""

    api_key: str = field(default="", repr=False)
    vertex: bool = False
    project: str = ""
    location: str = ""
    base_url: str = ""
    api_version: str = ""  # "": v1beta, v1beta1 on Vertex AI; never the SDK's default, which moved in 3.0
    ca_file: str = ""

    @classmethod
    def found(cls, environ: Mapping[str, str]) -> GeminiSettings:
        """From the variables that google-genai itself reads, whether or not they are enough."""
        environ = {name: unquoted(value) for name, value in environ.items()}
        vertex = any(
            environ.get(name, "").lower() in ("1", "true")
            for name in ("GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_ENTERPRISE")
        )
        version = environ.get("GOOGLE_GENAI_API_VERSION", "")
        project = environ.get("GOOGLE_CLOUD_PROJECT", "") if vertex else ""
        location = environ.get("GOOGLE_CLOUD_LOCATION", "") if vertex else ""
        # The SDK prefers GOOGLE_API_KEY; so must we, or `offhook config` would show what is not used. Beside a
        # project it refuses a key.
        key = environ.get("GOOGLE_API_KEY") or ("" if vertex else environ.get("GEMINI_API_KEY", ""))
        return cls(
            api_key="" if project and location else key,
            vertex=vertex,
            project=project,
            location=location,
            base_url=environ.get("GOOGLE_VERTEX_BASE_URL" if vertex else "GOOGLE_GEMINI_BASE_URL", ""),
            api_version="" if version == "beta" else version,  # "beta" is what the SDK calls our default
            ca_file=environ.get("SSL_CERT_FILE", ""),
        )

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> GeminiSettings:
        """As `found`. Raises `OperatorError` when the variables are not enough, or name a proxy that cannot be used."""
        check_proxies(environ)
        settings = cls.found(environ)
        if settings.vertex and not (settings.project and settings.location) and not settings.api_key:
            raise OperatorError(
                "Vertex AI needs GOOGLE_CLOUD_PROJECT and GOOGLE_CLOUD_LOCATION (or GOOGLE_API_KEY): set them"
            )
        if not settings.vertex and not settings.api_key:
            raise OperatorError("no key for the Gemini API: set GEMINI_API_KEY")
        return settings

    def shown(self) -> dict[str, str]:
        """The settings as text under their variables' names, the key masked."""
        shown = {"GEMINI_API_KEY": "(set)" if self.api_key else "(not set)"}
        if self.vertex:
            shown |= {"GOOGLE_CLOUD_PROJECT": self.project, "GOOGLE_CLOUD_LOCATION": self.location}
        return {**shown, "GOOGLE_VERTEX_BASE_URL" if self.vertex else "GOOGLE_GEMINI_BASE_URL": self.base_url}
