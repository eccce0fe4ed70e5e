"""The providers of models: which one an agent has, and what each is made from. Part of the composition root."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from offhook.gateway.agent.spec import Agent
from offhook.gateway.errors import OperatorError, nearest
from offhook.gateway.models import Declared, Model, Prices, Problem

__all__ = [
    "PROVIDERS",
    "check_agent",
    "model_for",
    "model_name",
    "name_of",
    "provider_of",
    "published_prices",
    "shown",
    "with_provider",
]

PROVIDERS = ("gemini", "openai")


def provider_of(agent: Agent) -> str:
    """The provider of an agent's model: as the agent file has it, else by the model's name. Raises `OperatorError`."""
    provider = agent.model.provider or ("openai" if agent.model.name.startswith("gpt-") else "gemini")
    if provider not in PROVIDERS:
        hint = nearest(provider, PROVIDERS)
        raise OperatorError(f"agent {agent.name}: model.provider: {hint}give one of {', '.join(PROVIDERS)}")
    return provider


def model_for(provider: str, environ: Mapping[str, str]) -> Model:
    """One of the process's models, by its provider. Raises `OperatorError`."""
    if provider == "openai":
        from offhook.gateway.models.openai.client import OpenAIModel
        from offhook.gateway.models.openai.settings import OpenAISettings

        return OpenAIModel(OpenAISettings.read(environ))
    from offhook.gateway.models.gemini.client import GeminiModel
    from offhook.gateway.models.gemini.settings import GeminiSettings

    return GeminiModel(GeminiSettings.read(environ))


def with_provider(agent: Agent, provider: str) -> Agent:
    """The agent on another provider's default model and voice; as it is, where it has that provider or "" is given.

    Raises `OperatorError`.
    """
    if provider and provider not in PROVIDERS:
        raise OperatorError(f"OFFHOOK_PROVIDER: {nearest(provider, PROVIDERS)}give one of {', '.join(PROVIDERS)}")
    if not provider or provider == provider_of(agent):
        return agent
    settings = agent.model
    model = msgspec.structs.replace(
        settings, provider=provider, name="", temperature=None, thinking_level=None, thinking_budget=None,
        noise_reduction=None, transcription=None,
    )  # fmt: skip
    turns = msgspec.structs.replace(agent.turn_detection, start_sensitivity=None, end_sensitivity=None, eagerness=None)
    return msgspec.structs.replace(agent, model=model, voice="", turn_detection=turns)


def name_of(agent: Agent) -> str:
    """The agent's model, or its provider's default. Raises `OperatorError`."""
    if provider_of(agent) == "openai":
        from offhook.gateway.models.openai.setup import model_name as openai_name

        return openai_name(agent)
    from offhook.gateway.models.gemini.setup import model_name

    return model_name(agent)


def model_name(agent: Agent, models: Mapping[str, Model]) -> str:
    """As records have it: provider/name. `models`: by provider."""
    provider = provider_of(agent)
    return f"{provider}/{models[provider].name_of(agent)}"


def check_agent(agent: Agent, tools: Iterable[Declared], environ: Mapping[str, str]) -> list[Problem]:
    """What the agent's model would refuse, or silently not do; needs no key. Raises `OperatorError`."""
    if provider_of(agent) == "openai":
        from offhook.gateway.models.openai.settings import OpenAISettings
        from offhook.gateway.models.openai.setup import check as check_openai

        return check_openai(agent, tools, azure=OpenAISettings.found(environ).azure)
    from offhook.gateway.models.gemini.setup import check

    return check(agent, tools)


def published_prices() -> dict[str, Prices]:
    """Of every provider's models."""
    from offhook.gateway.models.gemini.prices import PRICES
    from offhook.gateway.models.openai.prices import PRICES as OPENAI_PRICES

    return {**PRICES, **OPENAI_PRICES}


def shown(environ: Mapping[str, str]) -> dict[str, str]:
    """Every provider's settings as text under their variables' names, the keys masked."""
    from offhook.gateway.models.gemini.settings import GeminiSettings
    from offhook.gateway.models.openai.settings import OpenAISettings

    return {**GeminiSettings.found(environ).shown(), **OpenAISettings.found(environ).shown()}
