"""How vendors let one model be spelled."""

import re

from contracts.enums import LLMProviderType

# What vendors append to a model's name for one state of it, or for its newest.
_SNAPSHOT = re.compile(
    r"-(20\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])|20\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])|latest)\Z", re.ASCII
)

# https://openrouter.ai/docs/guides/routing/model-variants: these change nothing of the model itself.
_ROUTING = re.compile(r":(exacto|floor|nitro|online)\Z", re.ASCII)


def bare_name(provider: LLMProviderType, model: str) -> str:
    """The name as lists have it.

    Google's API gives and takes it as a path, too: models/gemini-3.8-flash. OpenRouter takes with any name how its host
    is chosen: openai/gpt-5.4-mini:nitro.
    """
    if provider is LLMProviderType.GOOGLE:
        return model.removeprefix("models/")
    return _ROUTING.sub("", model) if provider is LLMProviderType.OPENROUTER else model


def base_name(model: str) -> str:
    """The name without the date, or the `-latest`, of a snapshot: gpt-5.4-mini of gpt-5.4-mini-2026-03-17."""
    return _SNAPSHOT.sub("", model)


def canonical_name(model: str) -> str:
    """The one name under which a model is counted and limited, however a call spells it.

    In the ways of all vendors, since a server that speaks one's protocol may serve another's models.
    """
    shorter = base_name(model)
    for vendor in LLMProviderType:
        shorter = bare_name(vendor, shorter)
    return model if shorter == model else canonical_name(shorter)
