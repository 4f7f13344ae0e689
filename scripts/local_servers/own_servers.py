"""The project's own two servers, and where they live."""

from __future__ import annotations

import os
from pathlib import Path

from scripts.local_servers.kafka_broker import KafkaBroker
from scripts.local_servers.redis_server import RedisServer
from scripts.local_servers.server import LocalServer

REPOSITORY = Path(__file__).resolve().parents[2]
KINDS: tuple[type[LocalServer], ...] = (RedisServer, KafkaBroker)


def state_directory() -> Path:
    """Where the local servers live: LLM_PROVIDER_LOCAL_DIR, else .local in the repository."""
    own = os.environ.get("LLM_PROVIDER_LOCAL_DIR")
    return Path(own).resolve() if own else REPOSITORY / ".local"


def local_servers() -> list[LocalServer]:
    """The project's own servers, running or not."""
    return [kind(state_directory() / kind.name.lower()) for kind in KINDS]


def configured_elsewhere(server: LocalServer) -> str | None:
    """The user's own server, if any; a shell that took over our own address means the local one."""
    address = os.environ.get(server.variable)
    return address if address and address != server.address else None


def local_environment() -> dict[str, str]:
    """The settings that lead to the running local servers; what the user configured the shell has already."""
    return {
        server.variable: server.address
        for server in local_servers()
        if server.pid is not None and configured_elsewhere(server) is None
    }
