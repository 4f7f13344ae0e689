"""Compare llm_provider/models.toml with litellm's data, and with --write renew it; docs/models.md says more.

    python scripts/renew_models.py --download            # what is new, changed, gone, or has no price
    python scripts/renew_models.py --download --write

The vendors themselves are not asked.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

# As a script, its own folder is where Python looks for modules.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from contracts.enums import LLMProviderType
from llm_provider.adapters.pricing import price_per_million
from llm_provider.model_manifest import DATA_FILE, Column, ModelManifest, ModelRow, StructuredOutput
from llm_provider.model_names import base_name

Entry = Mapping[str, Any]
Data = Mapping[str, Entry]
Rows = dict[tuple[LLMProviderType, str], ModelRow]

JSON_IN_WHEEL: Final = "litellm/model_prices_and_context_window_backup.json"

# What litellm calls our vendors, and puts before their models' names. OpenRouter's are chosen by hand.
VENDORS: Final = {
    LLMProviderType.ANTHROPIC: ("anthropic", ""),
    LLMProviderType.OPENAI: ("openai", ""),
    LLMProviderType.GOOGLE: ("gemini", "gemini/"),
}

# Parts of the names of models that are not made for judging texts.
SPECIAL: Final = re.compile(
    r"(^|-)(audio|codex|computer|customtools|cyber|daybreak|exp|experimental|gemma|image|law|learnlm|live|lyria|omni"
    r"|research|robotics|rosalind|search|tts)(-|$)"
)

# From least to most; litellm states the outer ones, and takes the inner ones for granted.
NO_REASONING: Final = "none"
EFFORTS: Final = (NO_REASONING, "minimal", "low", "medium", "high", "xhigh", "max")
USUAL_EFFORTS: Final = frozenset({"low", "medium", "high"})

# What litellm's data say, unless the row says that a column is kept by hand.
COLUMNS: Final = get_args(Column)

HEADER: Final = """\
# The models that are known here, one row each. docs/models.md says what the columns mean.
#
# Written by scripts/renew_models.py from litellm's data (https://github.com/BerriAI/litellm, the file
# model_prices_and_context_window.json). Kept by hand, and so never changed by it:
#   * the columns that a row names in by_hand; a row that names all of them stays even when litellm has no such model;
#   * which models of openrouter are here, each with its source: the model behind it, by litellm's name.
# A snapshot (name-2026-03-17, name-20260317, name-latest) has a row only where it differs from its model's.
"""


# What litellm says


def candidates(data: Data, today: date) -> Rows:
    """The vendors' models of today that judge texts, snapshots included."""
    drafted = (
        draft(provider, key.removeprefix(prefix), entry)
        for provider, (vendor, prefix) in VENDORS.items()
        for key, entry in data.items()
        if entry.get("litellm_provider") == vendor and key.startswith(prefix)
        if is_current(key.removeprefix(prefix), entry, today)
    )
    return {(row.provider, row.model): row for row in drafted}


def is_current(model: str, entry: Entry, today: date) -> bool:
    """Whether it is a model for comparisons, and the vendor still serves it."""
    return (
        entry.get("mode") == "chat"
        # Somebody's own models, and what is sold under a model's name.
        and not re.search(r"[:/]", model)
        and not SPECIAL.search(model)
        and "/v1/chat/completions" in entry.get("supported_endpoints", ["/v1/chat/completions"])
        and is_served(entry, today)
    )


def is_served(entry: Entry, today: date) -> bool:
    """Whether its limits are known and it is not retired yet."""
    has_limits = bool(entry.get("max_input_tokens") and entry.get("max_output_tokens"))
    return has_limits and today.isoformat() < str(entry.get("deprecation_date", "9999-12-31"))


def draft(provider: LLMProviderType, model: str, entry: Entry, source: str | None = None) -> ModelRow:
    """The row of a model, wholly from litellm's data."""
    efforts = _efforts(model, entry)
    return ModelRow(
        provider=provider,
        model=model,
        context_tokens=entry["max_input_tokens"],
        max_output_tokens=entry["max_output_tokens"],
        structured_output=_structured_output(entry),
        accepts_sampling=_accepts_sampling(model, entry, efforts),
        sampling_effort=_sampling_effort(entry, efforts),
        reasoning_efforts=efforts,
        default_effort=entry.get("default_reasoning_effort"),
        source=source,
    )


def _structured_output(entry: Entry) -> StructuredOutput:
    if entry.get("supports_response_schema"):
        return StructuredOutput.JSON_SCHEMA
    if entry.get("supports_tool_choice") and entry.get("supports_forced_tool_use", True):
        return StructuredOutput.FORCED_TOOL
    return StructuredOutput.PROMPT


def _efforts(model: str, entry: Entry) -> tuple[str, ...]:
    if "reasoning_effort_levels" in entry:
        return tuple(entry["reasoning_effort_levels"])
    return tuple(
        effort
        for effort in EFFORTS
        if _has_efforts(model, entry) and (effort in USUAL_EFFORTS or entry.get(f"supports_{effort}_reasoning_effort"))
    )


def _has_efforts(model: str, entry: Entry) -> bool:
    """Older models that reason take a number of tokens instead; of other vendors' litellm does not say."""
    has_knob = {
        "anthropic": bool(entry.get("supports_output_config")),
        "gemini": _gemini_generation(model) >= 3,
        "openai": True,
    }
    return bool(entry.get("supports_reasoning")) and has_knob.get(entry["litellm_provider"], False)


def _accepts_sampling(model: str, entry: Entry, efforts: Sequence[str]) -> bool:
    if entry.get("supports_sampling_params") is False:
        return False
    if entry["litellm_provider"] == "openai":
        # Its models refuse sampling while they reason, so those that always do refuse it always.
        return not entry.get("supports_reasoning") or NO_REASONING in efforts
    # Of Gemini 3 and later ones the vendor says to leave it out.
    return entry["litellm_provider"] != "gemini" or _gemini_generation(model) < 3


def _sampling_effort(entry: Entry, efforts: Sequence[str]) -> str | None:
    return NO_REASONING if entry["litellm_provider"] == "openai" and NO_REASONING in efforts else None


def _gemini_generation(model: str) -> float:
    """The 3 of gemini-3.8-flash; names without a number are of the newest."""
    number = re.search(r"gemini-(\d+)", model)
    return int(number[1]) if number else float("inf")


# What becomes of the manifest


class Renewal(NamedTuple):
    """The new manifest, and what a maintainer should look at, a line each."""

    manifest: ModelManifest
    findings: list[str]


def renew(old: ModelManifest, data: Data, *, today: date, origin: str) -> Renewal:
    """Bring every row up to date but for what is kept by hand."""
    known = {(row.provider, row.model): row for row in old.models}
    fresh = _without_snapshots(candidates(data, today), known) | _routed(old, data, today)
    rows = {key: _keep_hand_made(row, known.get(key)) for key, row in fresh.items()}
    rows |= {key: row for key, row in known.items() if key not in rows and set(row.by_hand) == set(COLUMNS)}
    order = list(LLMProviderType)
    models = sorted(rows.values(), key=lambda row: (order.index(row.provider), row.model))
    manifest = ModelManifest(as_of=today, data=origin, models=tuple(models))
    return Renewal(manifest, sorted(_findings(known, fresh, rows)))


def _without_snapshots(drafted: Rows, known: Rows) -> Rows:
    """Without those that say what their models' rows say, unless somebody has put one there by hand."""
    by_hand = {key for key, row in known.items() if row.by_hand}
    return {key: row for key, row in drafted.items() if key in by_hand or not _is_mere_snapshot(row, drafted)}


def _is_mere_snapshot(row: ModelRow, drafted: Rows) -> bool:
    base = drafted.get((row.provider, base_name(row.model)))
    return base is not None and base.model != row.model and not _differences(base, row)


def _routed(old: ModelManifest, data: Data, today: date) -> Rows:
    """OpenRouter's, from the data of the models behind them."""
    return {
        (row.provider, row.model): draft(row.provider, row.model, data[row.source], row.source)
        for row in old.models
        if row.source is not None and is_served(data.get(row.source, {}), today)
    }


def _keep_hand_made(row: ModelRow, known: ModelRow | None) -> ModelRow:
    if known is None:
        return row
    kept: dict[str, Any] = {column: getattr(known, column) for column in known.by_hand}
    return row.model_copy(update={**kept, "by_hand": known.by_hand, "source": known.source})


def _differences(one: ModelRow, other: ModelRow) -> dict[str, tuple[object, object]]:
    pairs = {column: (getattr(one, column), getattr(other, column)) for column in COLUMNS}
    return {column: (before, after) for column, (before, after) in pairs.items() if before != after}


def _findings(known: Rows, fresh: Rows, rows: Rows) -> Iterator[str]:
    for key, row in rows.items():
        name = f"{row.provider} {row.model}"
        if key not in known:
            yield f"new       {name}"
        for column, (before, after) in _differences(known.get(key, row), row).items():
            yield f"changed   {name}: {column} {_shown(before)} -> {_shown(after)}"
        for column, (kept, said) in _differences(row, fresh.get(key, row)).items():
            yield f"by hand   {name}: {column} stays {_shown(kept)}; litellm says {_shown(said)}"
        if price_per_million(row.provider, row.model) is None:
            yield f"no price  {name}"
    for provider, model in known.keys() - rows.keys():
        yield f"gone      {provider} {model}"


def _shown(value: object) -> str:
    return "unset" if value is None else _toml(value)


# The file


def render(manifest: ModelManifest) -> str:
    """models.toml; the same manifest gives the same bytes."""
    head = f"{HEADER}\nas_of = {manifest.as_of.isoformat()}\ndata = {_toml(manifest.data)}\n"
    return head + "".join(_table(row) for row in manifest.models)


def _table(row: ModelRow) -> str:
    # What is at its default is left out.
    values = row.model_dump(exclude_defaults=True)
    return "\n[[models]]\n" + "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # JSON writes numbers, truth and text as TOML does.
    return json.dumps(value)


# The command


def download() -> tuple[Data, str]:
    """litellm's data out of its newest wheel, fetched with pip and not installed; and what to call them."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["download", "litellm", "--no-deps", "--only-binary", ":all:", "--quiet", "--dest", folder]
        subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)
        (wheel,) = Path(folder).glob("litellm-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return json.loads(archive.read(JSON_IN_WHEEL)), f"litellm {wheel.name.split('-')[1]}"


def main(argv: Sequence[str], manifest_file: Path = DATA_FILE) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("json", nargs="?", type=Path, help="litellm's model_prices_and_context_window.json")
    origin.add_argument("--download", action="store_true", help="take it from the newest litellm wheel, with pip")
    parser.add_argument("--write", action="store_true", help="rewrite llm_provider/models.toml")
    parser.add_argument("--as-of", type=date.fromisoformat, help="the day of the data; default: today")
    chosen = parser.parse_args(argv)
    data, name = download() if chosen.download else (json.loads(chosen.json.read_bytes()), chosen.json.name)
    old = ModelManifest.model_validate(tomllib.loads(manifest_file.read_text(encoding="utf-8")))
    renewal = renew(old, data, today=chosen.as_of or datetime.now(UTC).date(), origin=name)
    print("\n".join(renewal.findings) or "Nothing has changed.")
    if chosen.write:
        manifest_file.write_text(render(renewal.manifest), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
