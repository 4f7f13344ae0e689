"""A Redis that fails over: a primary, a replica, and a Sentinel that promotes the replica when the primary dies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from redis.exceptions import RedisError

from scripts.local_servers.ports import HOST
from scripts.local_servers.redis_binary import REDIS_WAYS_ON, find_redis
from scripts.local_servers.redis_server import REWRITTEN, RedisServer, redis_client
from scripts.local_servers.server import LocalServer
from scripts.local_servers.waiting import wait_until

SYNC_SECONDS = 20.0
FAILOVER_SECONDS = 30.0
# A new replica gets its copy without the five seconds in which others could join it.
AT_ONCE = "repl-diskless-sync-delay 0"


class RedisSentinel(LocalServer):
    """One Sentinel that watches a primary under the name `service`, and alone decides on a failover."""

    name = "Sentinel"
    variable = REDIS_WAYS_ON.variable
    default_port = 26379
    ways_on = REDIS_WAYS_ON
    start_seconds = 20.0
    stop_seconds = 10.0
    service = "comparisons"

    def __init__(
        self, directory: Path, primary_port: int, down_after_ms: int = 1000, more: tuple[str, ...] = ()
    ) -> None:
        super().__init__(directory)
        self.primary_port = primary_port
        self.down_after_ms = down_after_ms
        self.more = more

    @property
    def config(self) -> Path:
        return self.directory / "sentinel.conf"

    @property
    def address(self) -> str:
        return f"sentinel://{HOST}:{self.port}/0?service={self.service}"

    @property
    def url(self) -> str:
        return self.address

    def primary(self) -> int | None:
        """The port of the primary as this Sentinel sees it."""
        with contextlib.suppress(RedisError, OSError), redis_client(f"redis://{HOST}:{self.port}") as client:
            return int(client.sentinel_get_master_addr_by_name(self.service)[1])
        return None

    def _prepare(self) -> list[str]:
        # It keeps what it knows in its own configuration.
        if not self.config.exists() or REWRITTEN not in self.config.read_text():
            self.config.write_text(self._written())
        return [find_redis(), str(self.config), "--sentinel"]

    def _written(self) -> str:
        lines = [
            f"bind {HOST}",
            f"port {self.port}",
            f'dir "{self.directory}"',
            f"sentinel monitor {self.service} {HOST} {self.primary_port} 1",
            f"sentinel down-after-milliseconds {self.service} {self.down_after_ms}",
            f"sentinel failover-timeout {self.service} 5000",
            *self.more,
        ]
        return "".join(f"{line}\n" for line in lines)

    def _answers(self, pid: int) -> bool:
        with contextlib.suppress(RedisError, OSError), redis_client(f"redis://{HOST}:{self.port}") as client:
            return int(client.info("server")["process_id"]) == pid
        return False

    @staticmethod
    def answers_at(address: str) -> bool:
        return RedisServer.answers_at(address)


class RedisFailover:
    """Three servers; `with RedisFailover(folder).running() as redis: redis.url, redis.fail_over(), redis.heal()`.

    `replica_of` is the port from which the replica copies, where something stands between it and the primary.
    """

    def __init__(self, directory: Path, replica_of: int | None = None) -> None:
        self.primary = RedisServer(directory / "primary", more=[AT_ONCE])
        copies = f"replicaof {HOST} {replica_of or self.primary.port}"
        self.replica = RedisServer(directory / "replica", more=[AT_ONCE, copies])
        self.sentinel = RedisSentinel(directory / "sentinel", self.primary.port)

    @property
    def url(self) -> str:
        """As LLM_PROVIDER_REDIS_URL takes it."""
        return self.sentinel.address

    @contextlib.contextmanager
    def running(self) -> Iterator[RedisFailover]:
        try:
            self.start()
            yield self
        finally:
            self.stop()

    def start(self) -> None:
        """Start all three; the replica is in step when the Sentinel first looks at it."""
        self.primary.start()
        self.replica.start()
        if not wait_until(self._is_in_step, SYNC_SECONDS):
            raise self.replica.error(f"is not in step with its primary after {SYNC_SECONDS:.0f} s")
        self.sentinel.start()
        if not wait_until(self._is_known, SYNC_SECONDS):
            raise self.sentinel.error(f"knows of no replica after {SYNC_SECONDS:.0f} s")

    def stop(self) -> None:
        """The Sentinel first, which would take a stop for a failure."""
        for server in (self.sentinel, self.replica, self.primary):
            server.stop()

    def fail_over(self) -> None:
        """Kill the primary, and wait until the Sentinel has promoted the replica."""
        self.primary.kill()
        if not wait_until(lambda: self.sentinel.primary() == self.replica.port, FAILOVER_SECONDS):
            raise self.sentinel.error(f"has promoted nobody after {FAILOVER_SECONDS:.0f} s")

    def heal(self) -> None:
        """Start the one that was killed, which becomes the replica; the Sentinel takes about ten seconds for that."""
        self.primary, self.replica = self.replica, self.primary
        self.replica.start()
        if not wait_until(self._is_in_step, SYNC_SECONDS):
            raise self.replica.error(f"did not become a replica within {SYNC_SECONDS:.0f} s")

    def _is_in_step(self) -> bool:
        with contextlib.suppress(RedisError, OSError), redis_client(self.replica.url) as replica:
            return bool(replica.info("replication").get("master_link_status") == "up")
        return False

    def _is_known(self) -> bool:
        with contextlib.suppress(RedisError, OSError), redis_client(f"redis://{HOST}:{self.sentinel.port}") as sentinel:
            return bool(sentinel.sentinel_slaves(self.sentinel.service))
        return False
