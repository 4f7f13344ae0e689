"""Write the JSON Schemas of the Kafka contract into contracts/schemas; with --check, name the stale ones."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from contracts.errors import ErrorDetail
from contracts.events.envelope import EventEnvelope
from contracts.events.llm_provider_events import LLMComparisonResultV1

DIRECTORY: Final = Path(__file__).resolve().parents[1] / "contracts" / "schemas"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


class Export(NamedTuple):
    """One schema: its file's stem, which is the end of its $id too, and what a reader sees first."""

    name: str
    model: type[BaseModel]
    title: str
    description: str


EXPORTS: Final = (
    Export(
        "EventEnvelope.LLMComparisonResultV1",
        EventEnvelope[LLMComparisonResultV1],
        "EventEnvelope[LLMComparisonResultV1]",
        "The value of a callback record on Kafka.",
    ),
    Export(
        "LLMComparisonResultV1",
        LLMComparisonResultV1,
        "LLMComparisonResultV1",
        "The payload of a callback: a winner with its reasons, or an error, never both.",
    ),
    Export(
        "ErrorDetail",
        ErrorDetail,
        "ErrorDetail",
        "Why a comparison failed.",
    ),
)


def schema(export: Export) -> dict[str, Any]:
    """What a reader accepts, in draft 2020-12; the head comes first, the rest in pydantic's stable order."""
    head = {
        "$schema": DIALECT,
        "$id": f"urn:huleedu:llm_provider:schema:{export.name}",
        "title": export.title,
        "description": export.description,
    }
    body = export.model.model_json_schema(mode="validation")
    return head | {key: value for key, value in body.items() if key not in head}


def schemas() -> dict[str, str]:
    """The text of each schema file by its name."""
    return {f"{each.name}.json": json.dumps(schema(each), indent=2) + "\n" for each in EXPORTS}


def stale(directory: Path, wanted: Mapping[str, str]) -> Iterator[str]:
    """The names of the files that are missing, differ, or belong to no model any more."""
    for name, text in wanted.items():
        path = directory / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            yield name
    yield from (path.name for path in sorted(directory.glob("*.json")) if path.name not in wanted)


def write(directory: Path, wanted: Mapping[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name in list(stale(directory, wanted)):
        if name in wanted:
            (directory / name).write_text(wanted[name], encoding="utf-8")
        else:
            (directory / name).unlink()
        print(f"contracts/schemas/{name}")


def check(directory: Path, wanted: Mapping[str, str]) -> int:
    names = list(stale(directory, wanted))
    for name in names:
        print(f"stale: contracts/schemas/{name} (run: make docs)", file=sys.stderr)
    return 1 if names else 0


def main(argv: Sequence[str], directory: Path = DIRECTORY) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a schema is stale")
    if parser.parse_args(argv).check:
        return check(directory, schemas())
    write(directory, schemas())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
