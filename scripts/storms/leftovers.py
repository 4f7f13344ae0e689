"""What is left in Redis when everything is delivered: only what docs/architecture.md names may stay for ever."""

from collections.abc import Iterable, Iterator

from redis import Redis

PREFIX = "llm-provider:"

# Keys without expiry under "What is in Redis"; the ledger's two indexes vanish when they are empty.
DOCUMENTED = (
    "ledger:turns",
    "ledger:totals",
    "ledger:clock",
    "ledger:epoch",
    "delimiter-secret",
    "comparisons",
    "unacked",
    "_kombu.",
)
INDEXES = ("ledger:open", "ledger:waiting")


def undocumented(keys: Iterable[str], prefix: str = PREFIX) -> list[str]:
    """Those keys that nobody has explained."""
    allowed = tuple(prefix + name for name in DOCUMENTED)
    indexes = {prefix + name for name in INDEXES}
    return sorted(key for key in keys if not key.startswith(allowed) and key not in indexes)


def lasting_keys(redis: "Redis") -> Iterator[str]:
    """Keys that never expire."""
    for key in redis.scan_iter(count=1000):
        if redis.ttl(key) == -1:
            yield key


def open_requests(redis: "Redis", prefix: str = PREFIX) -> int:
    """Requests that the ledger has not delivered."""
    return int(redis.zcard(f"{prefix}ledger:open"))
