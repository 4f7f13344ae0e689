"""How long a vendor asks us to wait."""

from datetime import UTC, datetime

import pytest

from llm_provider.adapters.providers.retry_after import retry_after_seconds

NOW = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "17"}, 17.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:30 +0100"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:30 -0000"}, 30.0),
    ],
)
def test_every_way_to_say_it_is_understood(headers: dict[str, str], seconds: float) -> None:
    """Milliseconds first, then seconds, then a date."""
    assert retry_after_seconds(headers, now=NOW) == seconds


@pytest.mark.parametrize(
    "value",
    ["-5", "nan", "inf", "-inf", "", "soon", "Sun, 22 Nov 2026 09:59:59 GMT", "Sun, 99 Nov 2026 10:00:30 GMT"],
)
def test_what_cannot_be_waited_for_is_ignored(value: str) -> None:
    """A time that is past, endless or nonsense is as good as none."""
    assert retry_after_seconds({"retry-after": value}, now=NOW) is None
    assert retry_after_seconds({"retry-after-ms": value}, now=NOW) is None


def test_without_a_header_nothing_is_asked() -> None:
    """Most errors do not say."""
    assert retry_after_seconds({}, now=NOW) is None
