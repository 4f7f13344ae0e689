"""How vendors spell their models, and what all of that comes down to."""

import pytest

from llm_provider.model_manifest import load_manifest
from llm_provider.model_names import canonical_name


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("gemini-3.8-flash", "gemini-3.8-flash"),
        ("models/gemini-3.8-flash", "gemini-3.8-flash"),
        ("models/gemini-3.8-flash-latest", "gemini-3.8-flash"),
        ("gpt-5.4-mini-2026-03-17", "gpt-5.4-mini"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("openai/gpt-5.4-mini:nitro", "openai/gpt-5.4-mini"),
        ("anthropic/claude-haiku-4.5-20251001:online", "anthropic/claude-haiku-4.5"),
        ("judge-2024-01-01-latest", "judge"),
        ("judge:nitro:online", "judge"),
    ],
)
def test_every_spelling_of_a_model_has_one_name(spelled: str, name: str) -> None:
    """A path, a way to choose the host, a snapshot, and more than one of them at once."""
    assert canonical_name(spelled) == name


@pytest.mark.parametrize("name", ["gpt-5.4-mini-fast", "openai/gpt-5.4-mini:free", "judge:8b", "models", ""])
def test_another_models_name_stays_as_it_is(name: str) -> None:
    """What only looks similar may have other limits."""
    assert canonical_name(name) == name


def test_no_two_known_models_share_a_name() -> None:
    """They would be limited as one."""
    rows = load_manifest().models

    assert len({(row.provider, canonical_name(row.model)) for row in rows}) == len(rows)
