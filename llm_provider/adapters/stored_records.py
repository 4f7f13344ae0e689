"""What a record's parts are read with: a version that is newer, and what is damaged, are told apart, and not quoted."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from llm_provider.errors import RecordUnreadable

Model = TypeVar("Model", bound=BaseModel)

# What our scripts put before a reason.
_DAMAGED = "DAMAGED "


def read(model: type[Model], stored: str | None, name: str) -> Model:
    """One part of a record, which calls it `name`; raises RecordUnreadable."""
    if stored is None:
        raise RecordUnreadable(f"its {name} is missing")
    try:
        return model.model_validate_json(stored)
    except ValidationError as error:
        if _is_newer(error.errors(include_input=False, include_url=False)):
            raise RecordUnreadable(f"its {name} is of a newer version", is_newer=True) from None
        raise RecordUnreadable(f"its {name} is damaged") from None


def _is_newer(errors: list[ErrorDetails]) -> bool:
    """A version above ours; or nothing but names that are unknown here, such as a provider's."""
    return any(error["loc"] == ("schema_version",) and error["type"] == "less_than_equal" for error in errors) or all(
        error["type"] == "enum" for error in errors
    )


def read_or_none(model: type[Model], stored: str | None) -> Model | None:
    """The same for whoever only shows it."""
    try:
        return model.model_validate_json(stored or "")
    except ValidationError:
        return None


def damage(error: Exception) -> str | None:
    """Why Redis, or a script of ours, could not work on a record; None when it is something else that failed."""
    told, _, _ = str(error).partition(" script:")
    if told.startswith(("WRONGTYPE", "ERR hash value is not an")):
        return "its key, or a field of it, holds another type of value"
    return told.removeprefix(_DAMAGED) if told.startswith(_DAMAGED) else None
