"""How long a vendor asks us to wait, in any of the ways its headers may say it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Beyond this it is no wish but a slip: thirty years.
LONGEST_SECONDS = 1e9


def retry_after_seconds(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Seconds from `now`; None when the headers, which must be found in any case, say nothing usable."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    header = headers.get("retry-after")
    seconds = _number(header)
    return seconds if seconds is not None else _seconds_until(header, now)


def _number(header: str | None) -> float | None:
    try:
        number = float(header or "")
    except ValueError:
        return None
    return number if 0 <= number <= LONGEST_SECONDS else None


def _seconds_until(header: str | None, now: datetime) -> float | None:
    try:
        moment = parsedate_to_datetime(header or "")
    except (ValueError, OverflowError):
        return None
    # A date of the zone "-0000" comes without one; HTTP dates are always UTC.
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
    return seconds.total_seconds() if seconds.total_seconds() >= 0 else None
