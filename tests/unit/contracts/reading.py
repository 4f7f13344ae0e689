"""Both ways in which consumers read a message: the bytes themselves, or what json.loads made of them."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from pydantic import BaseModel, ValidationError

ModelT = TypeVar("ModelT", bound=BaseModel)


def read(model: type[ModelT], fields: dict[str, Any]) -> ModelT:
    """Read both ways; they must agree."""
    text = json.dumps(fields)
    parsed = model.model_validate_json(text)
    assert parsed == model.model_validate(json.loads(text))
    return parsed


def complaints(parse: Callable[[], object]) -> list[str]:
    """The complaints as `field.field: sentence`; no complaint at all fails the test."""
    with pytest.raises(ValidationError) as caught:
        parse()
    return [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in caught.value.errors()]


def refusal(model: type[BaseModel], fields: dict[str, Any]) -> str:
    """Why both ways of reading refuse the message; they must agree on the fields."""
    text = json.dumps(fields)
    from_bytes = complaints(lambda: model.model_validate_json(text))
    from_python = complaints(lambda: model.model_validate(json.loads(text)))
    assert [each.split(":")[0] for each in from_bytes] == [each.split(":")[0] for each in from_python]
    return "; ".join(from_bytes)
