"""The rehearsal model's side of a test: how a gateway reaches it, and which script a session plays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offhook.gateway.rehearsal.model.server import ModelServer

__all__ = ["id_after", "model_environ"]


def model_environ(model: ModelServer) -> dict[str, str]:
    """The environment variables by which a gateway reaches this model server instead of a provider."""
    return {
        "GOOGLE_GEMINI_BASE_URL": model.url,
        "SSL_CERT_FILE": model.ca_path,
        "GEMINI_API_KEY": "rehearsal",
        "OPENAI_BASE_URL": f"{model.url}/v1",
        "OPENAI_API_KEY": "rehearsal",
    }


def id_after(keyword: str, setup: dict[str, Any]) -> str:
    """The identifier in a session's instructions: "x" for `keyword` "plan" and the instructions "plan x."."""
    if not setup:  # refused before it
        return ""
    text: str = setup.get("instructions") or setup["systemInstruction"]["parts"][0]["text"]
    return text.partition(f"{keyword} ")[2].partition(".")[0]
