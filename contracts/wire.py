"""The types that every message is made of, as strict as JSON itself: `true` and `"1"` are no numbers."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, ConfigDict, Field, JsonValue, Strict

MAX_NESTING: Final = 150
"""Levels of objects and arrays. Readers stop somewhere (pydantic at 200), and the envelope adds its own."""

MESSAGE: Final = ConfigDict(
    extra="ignore",  # A reader must survive the fields that a later version adds.
    frozen=True,  # A message that may be sent again must not change in between.
    hide_input_in_errors=True,  # The input may hold a student's text, and errors end up in logs.
)


def refuse_epoch(value: object) -> object:
    """Refuse `1700000000`, bare or quoted, which pydantic reads as seconds or milliseconds, by its size."""
    if isinstance(value, datetime) or (isinstance(value, str) and value[4:5] == "-"):
        return value
    raise ValueError("must be an ISO 8601 date and time with an offset, like 2026-11-22T10:15:00Z")


def to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("must lie between the years 1 and 9999 in UTC") from error


def refuse_lone_surrogates(value: str) -> str:
    """Refuse what Python can hold but UTF-8 cannot write: it would fail only when the message is sent."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be text that UTF-8 can write, without lone surrogates") from error
    return value


def refuse_what_json_cannot_say(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse NaN and infinities, which would be written as null, and lone surrogates, at any depth."""
    refuse_deep_nesting(value, MAX_NESTING)
    refuse_lone_surrogates(json.dumps(value, ensure_ascii=False, allow_nan=False))
    return value


def refuse_deep_nesting(value: object, levels: int) -> None:
    if not isinstance(value, dict | list):
        return
    if levels == 0:
        raise ValueError(f"must not be nested more than {MAX_NESTING} levels deep")
    children: Iterable[object] = value.values() if isinstance(value, dict) else value
    for child in children:
        refuse_deep_nesting(child, levels - 1)


Text = Annotated[str, AfterValidator(refuse_lone_surrogates)]
Integer = Annotated[int, Strict()]
Count = Annotated[Integer, Field(ge=0)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
UtcDatetime = Annotated[AwareDatetime, BeforeValidator(refuse_epoch), AfterValidator(to_utc)]
JsonObject = Annotated[dict[str, JsonValue], AfterValidator(refuse_what_json_cannot_say)]
