"""A Redis or Valkey on loopback."""

from __future__ import annotations

import contextlib
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from scripts.local_servers.ports import HOST
from scripts.local_servers.redis_binary import REDIS_WAYS_ON, find_redis
from scripts.local_servers.server import LocalServer
from scripts.local_servers.waiting import PROBE_SECONDS


class RedisServer(LocalServer):
    """One Redis (or Valkey) that keeps what it accepted: append-only file, no eviction."""

    name = REDIS_WAYS_ON.name
    variable = REDIS_WAYS_ON.variable
    default_port = 6379
    ways_on = REDIS_WAYS_ON
    start_seconds = 20.0
    stop_seconds = 10.0

    @property
    def config(self) -> Path:
        return self.directory / "redis.conf"

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    @property
    def address(self) -> str:
        return self.url

    def _prepare(self) -> list[str]:
        binary = find_redis()
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        self.config.write_text(redis_config(self.port, data))
        return [binary, str(self.config)]

    def _answers(self, pid: int) -> bool:
        with contextlib.suppress(RedisError, OSError), redis_client(self.url) as client:
            client.ping()  # While it loads its data it answers INFO, but not this.
            return int(client.info("server")["process_id"]) == pid
        return False

    @staticmethod
    def answers_at(address: str) -> bool:
        with contextlib.suppress(RedisError, OSError, ValueError), redis_client(address) as client:
            return bool(client.ping())
        return False


def redis_client(url: str) -> Redis:
    """A client for one quick question, without the retries that would hide a silent server for seconds."""
    return Redis.from_url(
        url, socket_timeout=PROBE_SECONDS, socket_connect_timeout=PROBE_SECONDS, retry=Retry(NoBackoff(), 0)
    )


def redis_config(port: int, data: Path) -> str:
    """Durable to a second, on loopback only; its process title stays the command line with the file in it."""
    return f"""\
bind {HOST}
port {port}
dir "{data}"
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
save ""
set-proc-title no
"""
