import json
from pathlib import Path
from typing import Any

import pytest

from scripts import export_schemas

NAMES = ["ErrorDetail.json", "EventEnvelope.LLMComparisonResultV1.json", "LLMComparisonResultV1.json"]


def exported(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(export_schemas.schemas()[name])
    return document


def test_the_schemas_in_the_repository_are_those_of_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever changes a model runs `make docs`."""
    assert export_schemas.main(["--check"]) == 0, capsys.readouterr().err


def test_there_is_a_schema_for_the_event_its_payload_and_its_error() -> None:
    """What a consumer in another language needs."""
    assert sorted(export_schemas.schemas()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_says_what_it_is_first(name: str) -> None:
    """The head tells dialect, identity and purpose."""
    document = exported(name)
    assert list(document)[:4] == ["$schema", "$id", "title", "description"]
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert document["$id"] == f"urn:huleedu:llm_provider:schema:{name.removesuffix('.json')}"


def test_the_schema_of_the_payload_tells_its_limits_and_its_one_outcome() -> None:
    """A generated reader accepts what the models accept."""
    document = exported("LLMComparisonResultV1.json")
    fields = document["properties"]
    assert fields["justification"]["anyOf"][0]["maxLength"] == 500
    assert (fields["confidence"]["anyOf"][0]["minimum"], fields["confidence"]["anyOf"][0]["maximum"]) == (
        1,
        5,
    )
    assert fields["response_time_ms"]["type"] == "integer"
    assert [case["title"] for case in document["oneOf"]] == ["Success", "Failure"]


def test_a_schema_does_not_forbid_unknown_fields() -> None:
    """Later versions may add some."""
    assert not any('"additionalProperties": false' in text for text in export_schemas.schemas().values())


def test_check_names_each_file_that_is_stale_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Changed, missing and left over are all stale."""
    export_schemas.main([], tmp_path)
    (tmp_path / "ErrorDetail.json").write_text("{}")
    (tmp_path / "LLMComparisonResultV1.json").unlink()
    (tmp_path / "Forgotten.json").write_text("{}")
    assert export_schemas.main(["--check"], tmp_path) == 1
    complaint = capsys.readouterr().err
    assert all(name in complaint for name in ("ErrorDetail", "LLMComparisonResultV1.json", "Forgotten"))
    assert "EventEnvelope" not in complaint
    assert (tmp_path / "Forgotten.json").exists()


def test_exporting_puts_right_what_is_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that belong to no model any more go."""
    (tmp_path / "Forgotten.json").write_text("{}")
    assert export_schemas.main([], tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES
    assert export_schemas.main(["--check"], tmp_path) == 0
    assert "Forgotten" in capsys.readouterr().out
