"""How models.toml follows litellm's data, and what of it is left to people."""

import json
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from contracts.enums import LLMProviderType
from llm_provider.model_manifest import DATA_FILE, ModelManifest, ModelRow, StructuredOutput
from scripts import renew_models
from scripts.renew_models import COLUMNS, Renewal, render, renew

ANTHROPIC, GOOGLE, OPENAI, OPENROUTER = (
    LLMProviderType.ANTHROPIC,
    LLMProviderType.GOOGLE,
    LLMProviderType.OPENAI,
    LLMProviderType.OPENROUTER,
)
TODAY = date(2026, 11, 23)


def an_entry(provider: str, **more: Any) -> dict[str, Any]:
    """A model as litellm describes it."""
    return {
        "litellm_provider": provider,
        "mode": "chat",
        "max_input_tokens": 200_000,
        "max_output_tokens": 64_000,
        "supports_response_schema": True,
        "supports_tool_choice": True,
        **more,
    }


REASONS = {"supports_reasoning": True}
GPT_6 = REASONS | {"supports_none_reasoning_effort": True, "supports_max_reasoning_effort": True}

# The shape of litellm's file: an explanation, what we use, and a great deal that we do not.
SAMPLE: dict[str, dict[str, Any]] = {
    "sample_spec": {"mode": "one of: chat, ...", "litellm_provider": "one of ...", "max_input_tokens": "if known"},
    "claude-haiku-4-5": an_entry("anthropic", **REASONS),
    "claude-haiku-4-5-20251001": an_entry("anthropic", **REASONS),
    "claude-opus-5-5": an_entry(
        "anthropic",
        **REASONS,
        supports_output_config=True,
        supports_sampling_params=False,
        supports_max_reasoning_effort=True,
    ),
    "gpt-4o": an_entry("openai", supported_endpoints=["/v1/chat/completions", "/v1/batch"]),
    "gpt-4o-2024-05-13": an_entry("openai", max_output_tokens=4_096),
    "gpt-4o-2024-08-06": an_entry("openai"),
    "gpt-5.4-mini": an_entry("openai", **GPT_6, default_reasoning_effort="none"),
    "gpt-6-astra": an_entry("openai", **REASONS),
    "gemini/gemini-2.5-flash": an_entry("gemini", **REASONS),
    "gemini/gemini-3.8-flash": an_entry("gemini", **REASONS, supports_minimal_reasoning_effort=False),
    "gemini/gemini-flash-latest": an_entry("gemini", **REASONS),
    "xai/grok-4.7": an_entry("xai", **REASONS),
    "moonshot/kimi-k3": an_entry("moonshot", **REASONS, reasoning_effort_levels=["low", "max"]),
}

# Each is left out, for a reason of its own.
OTHERS: dict[str, dict[str, Any]] = {
    "ft:gpt-4o-2024-08-06": an_entry("openai"),
    "openai/container": an_entry("openai"),
    "gemini-pro-latest": an_entry("gemini"),
    "gpt-retired": an_entry("openai", deprecation_date="2026-11-23"),
    "gpt-unlimited": an_entry("openai", max_output_tokens=None),
    "gpt-pro": an_entry("openai", mode="responses"),
    "gpt-pro-2": an_entry("openai", supported_endpoints=["/v1/responses"]),
    "gpt-audio-mini": an_entry("openai"),
    "azure/gpt-4o": an_entry("azure"),
    "text-embedding-3-small": an_entry("openai", mode="embedding"),
}


def a_row(**changes: Any) -> ModelRow:
    fields: dict[str, Any] = {
        "provider": OPENAI,
        "model": "gpt-4o",
        "context_tokens": 200_000,
        "max_output_tokens": 64_000,
        "structured_output": StructuredOutput.JSON_SCHEMA,
        "accepts_sampling": True,
    }
    return ModelRow(**{**fields, **changes})


def renewed(*rows: ModelRow, data: Mapping[str, Any] = SAMPLE) -> Renewal:
    old = ModelManifest(as_of=date(2026, 1, 1), models=rows)
    return renew(old, data, today=TODAY, origin="litellm 1.2.3")


def row_of(renewal: Renewal, provider: LLMProviderType, model: str) -> ModelRow:
    found = renewal.manifest.find(provider, model)
    assert found is not None
    return found


# What is taken from litellm


def test_the_vendors_models_for_texts_are_taken() -> None:
    """With the vendor's own name for each, in an order that does not depend on litellm's."""
    found = renewed(data={**OTHERS, **dict(reversed(SAMPLE.items()))}).manifest

    assert [(row.provider, row.model) for row in found.models] == [
        (ANTHROPIC, "claude-haiku-4-5"),
        (ANTHROPIC, "claude-opus-5-5"),
        (OPENAI, "gpt-4o"),
        (OPENAI, "gpt-4o-2024-05-13"),
        (OPENAI, "gpt-5.4-mini"),
        (OPENAI, "gpt-6-astra"),
        (GOOGLE, "gemini-2.5-flash"),
        (GOOGLE, "gemini-3.8-flash"),
        (GOOGLE, "gemini-flash-latest"),
    ]
    assert (found.as_of, found.data) == (TODAY, "litellm 1.2.3")


def test_a_snapshot_has_a_row_only_where_it_differs() -> None:
    """The one of May 2024 writes less than its successors; all others are found by their model's name."""
    renewal = renewed()

    assert row_of(renewal, OPENAI, "gpt-4o-2024-05-13").max_output_tokens == 4_096
    assert row_of(renewal, OPENAI, "gpt-4o-2024-08-06") is row_of(renewal, OPENAI, "gpt-4o")


def test_a_model_is_served_until_its_last_day() -> None:
    """The day of its retirement is the first one without it."""
    data = {"gpt-old": an_entry("openai", deprecation_date="2026-11-24")}

    assert [row.model for row in renewed(data=data).manifest.models] == ["gpt-old"]
    assert renew(renewed(data=data).manifest, data, today=date(2026, 11, 24), origin="").manifest.models == ()


@pytest.mark.parametrize(
    ("provider", "model", "accepts", "only_at", "efforts", "default"),
    [
        (ANTHROPIC, "claude-haiku-4-5", True, None, (), None),
        (ANTHROPIC, "claude-opus-5-5", False, None, ("low", "medium", "high", "max"), None),
        (OPENAI, "gpt-4o", True, None, (), None),
        (OPENAI, "gpt-5.4-mini", True, "none", ("none", "low", "medium", "high", "max"), "none"),
        (OPENAI, "gpt-6-astra", False, None, ("low", "medium", "high"), None),
        (GOOGLE, "gemini-2.5-flash", True, None, (), None),
        (GOOGLE, "gemini-3.8-flash", False, None, ("low", "medium", "high"), None),
        (GOOGLE, "gemini-flash-latest", False, None, ("low", "medium", "high"), None),
    ],
)
def test_what_a_model_takes_follows_from_its_entry(
    provider: LLMProviderType,
    model: str,
    accepts: bool,
    only_at: str | None,
    efforts: tuple[str, ...],
    default: str | None,
) -> None:
    """By each vendor's rule: OpenAI's sample only without reasoning, Gemini 3 never, the oldest have no efforts."""
    row = row_of(renewed(), provider, model)

    assert (row.accepts_sampling, row.sampling_effort) == (accepts, only_at)
    assert (row.reasoning_efforts, row.default_effort) == (efforts, default)


@pytest.mark.parametrize(
    ("entry", "means"),
    [
        ({"supports_response_schema": True}, StructuredOutput.JSON_SCHEMA),
        ({"supports_response_schema": False}, StructuredOutput.FORCED_TOOL),
        ({"supports_response_schema": None, "supports_forced_tool_use": False}, StructuredOutput.PROMPT),
        ({"supports_response_schema": None, "supports_tool_choice": False}, StructuredOutput.PROMPT),
    ],
)
def test_the_best_means_to_a_schema_is_chosen(entry: dict[str, Any], means: StructuredOutput) -> None:
    """The native one, else a tool where a model can be forced to use one, else the prompt."""
    data = {"claude-x": an_entry("anthropic", **entry)}

    assert row_of(renewed(data=data), ANTHROPIC, "claude-x").structured_output is means


# What is left to people


def test_openrouters_models_are_chosen_by_hand_and_follow_the_model_behind_them() -> None:
    """None comes by itself; those that are there get the numbers of their source."""
    grok = a_row(provider=OPENROUTER, model="x-ai/grok-4.7", source="xai/grok-4.7", context_tokens=1)
    kimi = a_row(provider=OPENROUTER, model="moonshotai/kimi-k3", source="moonshot/kimi-k3")
    renewal = renewed(grok, kimi)

    routed = [row for row in renewal.manifest.models if row.provider is OPENROUTER]
    assert [row.model for row in routed] == ["moonshotai/kimi-k3", "x-ai/grok-4.7"]
    assert [row.reasoning_efforts for row in routed] == [("low", "max"), ()]
    assert routed[1] == grok.model_copy(update={"context_tokens": 200_000})


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"xai/grok-4.7": an_entry("xai", max_input_tokens=None)},
        {"xai/grok-4.7": an_entry("xai", deprecation_date="2026-01-01")},
    ],
)
def test_a_routed_model_goes_with_its_source(data: Mapping[str, Any]) -> None:
    """Numbers that nobody states any more are not kept."""
    renewal = renewed(a_row(provider=OPENROUTER, model="x-ai/grok-4.7", source="xai/grok-4.7"), data=data)

    assert renewal.manifest.models == ()
    assert renewal.findings == ["gone      openrouter x-ai/grok-4.7"]


def test_a_column_kept_by_hand_stays() -> None:
    """The others of its row are renewed, and what litellm says instead is told."""
    by_hand = a_row(max_output_tokens=1, structured_output=StructuredOutput.PROMPT, by_hand=("structured_output",))
    renewal = renewed(by_hand)

    row = row_of(renewal, OPENAI, "gpt-4o")
    assert row == by_hand.model_copy(update={"max_output_tokens": 64_000})
    assert "changed   openai gpt-4o: max_output_tokens 1 -> 64000" in renewal.findings
    assert 'by hand   openai gpt-4o: structured_output stays "prompt"; litellm says "json_schema"' in renewal.findings


def test_a_row_made_by_hand_needs_no_entry() -> None:
    """A model of which only its vendor tells."""
    own = a_row(model="gpt-of-ours", by_hand=COLUMNS)

    assert row_of(renewed(own), OPENAI, "gpt-of-ours") == own


def test_a_snapshot_with_a_word_of_ours_keeps_its_row() -> None:
    """Though litellm sees no difference between it and its model."""
    snapshot = a_row(model="gpt-4o-2024-08-06", accepts_sampling=False, by_hand=("accepts_sampling",))

    assert row_of(renewed(snapshot), OPENAI, "gpt-4o-2024-08-06") == snapshot


# What is told


def test_what_is_new_changed_gone_and_without_a_price_is_told() -> None:
    """A line each; what has stayed as it was, and has a price, is not mentioned."""
    data = {"gpt-4o": SAMPLE["gpt-4o"], "gpt-4.1": an_entry("openai"), "gpt-nobody-sells": an_entry("openai")}
    renewal = renewed(
        a_row(),
        a_row(model="gpt-4.1", context_tokens=1, reasoning_efforts=("low",), default_effort="low"),
        a_row(model="gpt-3"),
        data=data,
    )

    assert renewal.findings == [
        "changed   openai gpt-4.1: context_tokens 1 -> 200000",
        'changed   openai gpt-4.1: default_effort "low" -> unset',
        'changed   openai gpt-4.1: reasoning_efforts ["low"] -> []',
        "gone      openai gpt-3",
        "new       openai gpt-nobody-sells",
        "no price  openai gpt-nobody-sells",
    ]


# The file


def test_what_is_written_reads_the_same_and_is_written_the_same() -> None:
    """Every column survives, and a second run changes no byte."""
    odd = a_row(model='o"dd\\é', by_hand=COLUMNS, source="x/y", reasoning_efforts=("a", "b"), default_effort="a")
    manifest = renewed(odd).manifest
    text = render(manifest)
    read = ModelManifest.model_validate(tomllib.loads(text))

    assert read == manifest
    assert render(renew(read, SAMPLE, today=TODAY, origin="litellm 1.2.3").manifest) == text


def test_the_shipped_file_is_as_the_script_writes_it() -> None:
    """Whoever edits it by hand keeps its form, so that the next renewal shows changes of data only."""
    shipped = DATA_FILE.read_text(encoding="utf-8")

    assert render(ModelManifest.model_validate(tomllib.loads(shipped))) == shipped


@pytest.fixture
def manifest_file(tmp_path: Path) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(render(ModelManifest(as_of=date(2026, 1, 1), models=(a_row(model="gpt-3"),))), encoding="utf-8")
    return path


@pytest.fixture
def sample_file(tmp_path: Path) -> Path:
    path = tmp_path / "sample.json"
    path.write_text(json.dumps(SAMPLE), encoding="utf-8")
    return path


Run = Callable[..., str]


@pytest.fixture
def run(manifest_file: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command, for a manifest that holds one old model; what it prints."""

    def call(*argv: str) -> str:
        assert renew_models.main([*argv, "--as-of", "2026-11-23"], manifest_file) == 0
        return capsys.readouterr().out

    return call


def test_without_write_nothing_is_written(run: Run, sample_file: Path, manifest_file: Path) -> None:
    """A maintainer looks first."""
    before = manifest_file.read_bytes()
    said = run(str(sample_file))

    assert "gone      openai gpt-3\n" in said
    assert "new       anthropic claude-opus-5-5\n" in said
    assert manifest_file.read_bytes() == before


def test_with_write_the_file_is_renewed(run: Run, sample_file: Path, manifest_file: Path) -> None:
    """With the new day; looking again finds nothing but what needs a person."""
    run(str(sample_file), "--write")
    written = ModelManifest.model_validate(tomllib.loads(manifest_file.read_text(encoding="utf-8")))

    assert (written.as_of, written.data) == (TODAY, "sample.json")
    assert written.find(OPENAI, "gpt-3") is None
    assert run(str(sample_file)) == "Nothing has changed.\n"


def test_the_data_can_be_taken_from_the_newest_wheel(
    run: Run, manifest_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With pip, from whatever index it is told to use: here a folder; the version is noted."""
    name = "litellm-1.2.3"
    with zipfile.ZipFile(tmp_path / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(renew_models.JSON_IN_WHEEL, json.dumps(SAMPLE))
        wheel.writestr(f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\nName: litellm\nVersion: 1.2.3\n")
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    run("--download", "--write")

    written = tomllib.loads(manifest_file.read_text(encoding="utf-8"))
    assert (written["data"], len(written["models"])) == ("litellm 1.2.3", 9)


def test_one_source_must_be_named(run: Run) -> None:
    """A file or --download, and not both."""
    for argv in ([], ["some.json", "--download"]):
        with pytest.raises(SystemExit):
            run(*argv)
