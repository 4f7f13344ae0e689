"""What is known about the models, and what of a call they are sent."""

import tomllib
from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.enums import LLMProviderType
from llm_provider.internal_models import ProviderCall
from llm_provider.model_manifest import (
    DATA_FILE,
    FittedCall,
    ModelManifest,
    ModelRow,
    StructuredOutput,
    fit,
    load_manifest,
)
from tests.unit.builders import a_prompt, some_texts

ANTHROPIC, GOOGLE, MOCK, OPENAI, OPENROUTER = (
    LLMProviderType.ANTHROPIC,
    LLMProviderType.GOOGLE,
    LLMProviderType.MOCK,
    LLMProviderType.OPENAI,
    LLMProviderType.OPENROUTER,
)


def a_row(**changes: Any) -> ModelRow:
    """A model that takes whatever it is sent."""
    fields: dict[str, Any] = {
        "provider": OPENAI,
        "model": "judge-4",
        "context_tokens": 100_000,
        "max_output_tokens": 8_000,
        "structured_output": StructuredOutput.JSON_SCHEMA,
        "accepts_sampling": True,
        "reasoning_efforts": ("low", "high"),
    }
    return ModelRow(**{**fields, **changes})


def a_call(**changes: Any) -> ProviderCall:
    texts = some_texts()
    return ProviderCall(**{"texts": texts, "prompt": a_prompt(texts), "model": "judge-4", **changes})


def a_manifest(*rows: ModelRow) -> ModelManifest:
    return ModelManifest(as_of=date(2026, 11, 23), models=rows)


def fitted(row: ModelRow | None, *, effort: str | None = None, **parameters: Any) -> FittedCall:
    return fit(a_call(**parameters), row, reasoning_effort=effort)


# The file that ships


def test_the_shipped_manifest_knows_models_of_every_vendor() -> None:
    """All four, and not the mock, which has no limits; the day of the data is stated."""
    manifest = load_manifest()

    assert {row.provider for row in manifest.models} == set(LLMProviderType) - {MOCK}
    assert manifest.as_of >= date(2026, 11, 22)
    assert manifest.data.startswith("litellm ")


def test_the_manifest_is_read_once() -> None:
    """Every provider of a process looks at the same one."""
    assert load_manifest() is load_manifest()


def test_every_row_leaves_room_for_an_answer() -> None:
    """A limit that was copied wrongly would make each call fail."""
    for row in load_manifest().models:
        assert 8_000 <= row.max_output_tokens <= row.context_tokens, row.model
        assert row.context_tokens >= 100_000, row.model


def test_no_row_contradicts_itself() -> None:
    """An effort that is named anywhere is one of the row's; only what samples has a condition for it."""
    for row in load_manifest().models:
        assert {row.default_effort, row.sampling_effort} <= {None, *row.reasoning_efforts}, row.model
        assert row.sampling_effort is None or row.accepts_sampling, row.model
        assert len(set(row.reasoning_efforts)) == len(row.reasoning_efforts), row.model


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        (ANTHROPIC, "claude-sonnet-5-5"),
        (ANTHROPIC, "claude-opus-5-5"),
        (OPENAI, "gpt-6-astra"),
        (OPENAI, "gpt-6.1-sol"),
        (GOOGLE, "gemini-3.8-flash"),
        (OPENROUTER, "anthropic/claude-sonnet-5.5"),
    ],
)
def test_models_that_refuse_a_temperature_are_known_to(provider: LLMProviderType, model: str) -> None:
    """Each would answer 400, or is said by its vendor to be left alone."""
    row = load_manifest().find(provider, model)

    assert row is not None
    assert fitted(row, temperature=0.2).dropped == ("temperature",)


def test_no_model_is_forced_to_use_a_tool_that_forbids_it() -> None:
    """Forced tools are an error on the newest Claude models; all of them have the native way."""
    claudes = [row for row in load_manifest().models if "claude" in row.model]

    assert {row.structured_output for row in claudes} == {StructuredOutput.JSON_SCHEMA}


def test_the_file_names_no_column_that_a_row_does_not_have() -> None:
    """A slip of the keyboard stops the boot."""
    written = tomllib.loads(DATA_FILE.read_text(encoding="utf-8"))
    written["models"][0]["acepts_sampling"] = True

    with pytest.raises(ValidationError, match="acepts_sampling"):
        ModelManifest.model_validate(written)


def test_a_model_has_one_row() -> None:
    """Of two rows nobody would know which one counts."""
    with pytest.raises(ValidationError, match="two rows are of the same model"):
        a_manifest(a_row(), a_row(max_output_tokens=9_000))


# Finding a row


@pytest.mark.parametrize(
    "name", ["judge-4", "judge-4-2026-03-17", "judge-4-20260317", "judge-4-20251001", "judge-4-latest"]
)
def test_a_snapshot_is_its_model(name: str) -> None:
    """Vendors append the date in one of two ways, or `-latest`."""
    row = a_row()

    assert a_manifest(row).find(OPENAI, name) is row


@pytest.mark.parametrize(
    "name",
    [
        "",
        "judge",
        "judge-4o",
        "judge-4-mini",
        "judge-4.1",
        "JUDGE-4",
        "judge-4-",
        "judge-4-2026",
        "judge-4-2026-13-01",
        "judge-4-2026-03-32",
        "judge-4-1999-03-17",
        "judge-4-20261301",
        "judge-4-202603170",
        "judge-4-0317",
        "judge-4-001",
        "judge-4-preview-2026-03-17",
        "judge-4-2026-03-17-preview",
        "judge-4-2026-03-17-latest",
        "judge-4-latest\n",
        "judge-4:free",
        "judge-4latest",
        "openai/judge-4",
        "my-judge-4",
        "judge-4-\u0662\u0660\u0662\u0666-03-17",
    ],
)
def test_a_name_that_only_looks_similar_is_unknown(name: str) -> None:
    """It may have other limits, so nothing is taken for granted."""
    assert a_manifest(a_row()).find(OPENAI, name) is None


def test_google_names_its_models_as_paths_too() -> None:
    """models/name is name, snapshots included; elsewhere it is another one."""
    manifest = load_manifest()
    (row,) = [row for row in manifest.models if row.model == "gemini-3.8-flash" and row.provider == "google"]
    assert manifest.find(LLMProviderType.GOOGLE, "models/gemini-3.8-flash") is row
    assert manifest.find(LLMProviderType.GOOGLE, "models/gemini-3.8-flash-latest") is row
    assert manifest.find(LLMProviderType.OPENAI, "models/gpt-5.4-mini") is None


def test_the_same_name_at_another_vendor_is_another_model() -> None:
    """A row is found by both."""
    assert a_manifest(a_row()).find(OPENROUTER, "judge-4") is None


def test_a_snapshot_with_a_row_of_its_own_has_that_one() -> None:
    """The first state of a model may have had lower limits."""
    newest, first = a_row(), a_row(model="judge-4-2025-05-13", max_output_tokens=4_000)
    manifest = a_manifest(newest, first)

    assert manifest.find(OPENAI, "judge-4-2025-05-13") is first
    assert manifest.find(OPENAI, "judge-4-2025-08-06") is newest


@pytest.mark.parametrize(
    ("provider", "snapshot", "model"),
    [
        (OPENAI, "gpt-5.4-mini-2026-03-17", "gpt-5.4-mini"),
        (ANTHROPIC, "claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        (OPENROUTER, "anthropic/claude-haiku-4.5-20251001", "anthropic/claude-haiku-4.5"),
        (GOOGLE, "gemini-flash-latest", "gemini-flash-latest"),
    ],
)
def test_real_snapshots_are_found(provider: LLMProviderType, snapshot: str, model: str) -> None:
    """As the vendors write them today."""
    row = load_manifest().find(provider, snapshot)

    assert row is not None
    assert row.model == model


@pytest.mark.parametrize("routing", ["nitro", "floor", "exacto", "online"])
def test_how_a_host_is_chosen_changes_no_model(routing: str) -> None:
    """OpenRouter takes it with any name; a variant of its own, or another vendor's colon, is another model."""
    find = load_manifest().find
    assert find(OPENROUTER, f"openai/gpt-5.4-mini:{routing}") is find(OPENROUTER, "openai/gpt-5.4-mini") is not None
    assert find(OPENROUTER, "openai/gpt-5.4-mini:free") is None
    assert find(OPENAI, f"gpt-5.4-mini:{routing}") is None


def test_the_least_effort_of_a_model_stands_first() -> None:
    """A call that only tries a provider out is made with it."""
    order = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
    for row in load_manifest().models:
        assert list(row.reasoning_efforts) == sorted(row.reasoning_efforts, key=order.index), row.model


# Fitting a call


def test_what_a_model_takes_is_sent() -> None:
    """Nothing is left out, and nothing added."""
    found = fitted(a_row(), temperature=0.0, max_tokens=8_000, effort="high")

    assert (found.temperature, found.max_tokens, found.reasoning_effort) == (0.0, 8_000, "high")
    assert (found.structured_output, found.dropped) == (StructuredOutput.JSON_SCHEMA, ())


def test_what_nobody_asked_for_is_not_dropped() -> None:
    """A model that takes no parameter at all fits a call without any."""
    assert fitted(a_row(accepts_sampling=False, reasoning_efforts=())).dropped == ()


def test_what_a_model_refuses_is_left_out_and_named() -> None:
    """Each by itself; 0 is a temperature, too."""
    found = fitted(a_row(accepts_sampling=False), temperature=0.0, max_tokens=8_001, effort="xhigh")

    assert (found.temperature, found.max_tokens, found.reasoning_effort) == (None, None, None)
    assert found.dropped == ("temperature", "max_tokens", "reasoning_effort")


@pytest.mark.parametrize(
    ("default_effort", "effort", "sent"),
    [
        ("none", None, True),
        ("none", "none", True),
        ("none", "low", False),
        (None, None, False),
        (None, "none", True),
        ("low", None, False),
        ("low", "none", True),
        # It refuses this effort and so works at its default.
        ("none", "max", True),
        ("low", "max", False),
    ],
)
def test_a_model_may_take_a_temperature_only_while_it_does_not_reason(
    default_effort: str | None, effort: str | None, sent: bool
) -> None:
    """What it does when it is not told counts; when nobody knows that, the temperature is not risked."""
    row = a_row(sampling_effort="none", reasoning_efforts=("none", "low", "high"), default_effort=default_effort)

    assert (fitted(row, temperature=0.7, effort=effort).temperature == 0.7) is sent


def test_an_unknown_model_is_sent_everything() -> None:
    """It is allowed, and its vendor knows better; how it is made to answer in a schema is the provider's to choose."""
    found = fitted(None, temperature=1.9, max_tokens=10**9, effort="as never before")

    assert (found.temperature, found.max_tokens, found.reasoning_effort) == (1.9, 10**9, "as never before")
    assert (found.structured_output, found.dropped) == (None, ())
