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
        self,
        directory: Path,
        primary_port: int,
        down_after_ms: int = 1000,
        more: tuple[str, ...] = (),
        password: str = "",
    ) -> None:
        super().__init__(directory)
        self.primary_port = primary_port
        self.down_after_ms = down_after_ms
        self.more = (*more, f"requirepass {password}") if password else more
        self.password = password

    @property
    def config(self) -> Path:
        return self.directory / "sentinel.conf"

    @property
    def address(self) -> str:
        return f"sentinel://{HOST}:{self.port}/0?service={self.service}"

    @property
    def url(self) -> str:
        return self.address

    @property
    def own_url(self) -> str:
        """Where it answers itself."""
        return f"redis://{self.password and f':{self.password}@'}{HOST}:{self.port}"

    def primary(self) -> int | None:
        """The port of the primary as this Sentinel sees it."""
        with contextlib.suppress(RedisError, OSError), redis_client(self.own_url) as client:
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
        with contextlib.suppress(RedisError, OSError), redis_client(self.own_url) as client:
            return int(client.info("server")["process_id"]) == pid
        return False

    @staticmethod
    def answers_at(address: str) -> bool:
        return RedisServer.answers_at(address)


class RedisFailover:
    """Three servers; `with RedisFailover(folder).running() as redis: redis.url, redis.fail_over(), redis.heal()`.

    `replica_of` is the port from which the replica copies, where something stands between it and the primary; with
    two `replicas` one of them is there while the killed primary is not.
    """

    def __init__(self, directory: Path, replica_of: int | None = None, replicas: int = 1) -> None:
        self.primary = RedisServer(directory / "primary", more=[AT_ONCE])
        more = [AT_ONCE, f"replicaof {HOST} {replica_of or self.primary.port}"]
        names = ["replica", *(f"replica-{number}" for number in range(2, replicas + 1))]
        self.replicas = [RedisServer(directory / name, more=more) for name in names]
        self.sentinel = RedisSentinel(directory / "sentinel", self.primary.port)

    @property
    def replica(self) -> RedisServer:
        """The replica, or the first of several."""
        return self.replicas[0]

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
        """Start all of them; the replicas are in step when the Sentinel first looks at them."""
        for server in (self.primary, *self.replicas):
            server.start()
        self._wait_in_step()
        self.sentinel.start()
        if not wait_until(self._are_known, SYNC_SECONDS):
            raise self.sentinel.error(f"does not know all replicas after {SYNC_SECONDS:.0f} s")

    def stop(self) -> None:
        """The Sentinel first, which would take a stop for a failure."""
        for server in (self.sentinel, *self.replicas, self.primary):
            server.stop()

    def fail_over(self) -> None:
        """Kill the primary, and wait until the Sentinel has promoted a replica."""
        self.primary.kill()
        if not wait_until(lambda: self._promoted() is not None, FAILOVER_SECONDS):
            raise self.sentinel.error(f"has promoted nobody after {FAILOVER_SECONDS:.0f} s")

    def heal(self) -> None:
        """Start the one that was killed, which becomes a replica; the Sentinel takes about ten seconds for that."""
        for server in (self.primary, *self.replicas):
            server.start()
        self._wait_in_step()

    def _promoted(self) -> RedisServer | None:
        """The replica that is the primary by now."""
        port = self.sentinel.primary()
        return next((replica for replica in self.replicas if replica.port == port), None)

    def _wait_in_step(self) -> None:
        if not wait_until(self._is_in_step, SYNC_SECONDS):
            raise self.replica.error(f"is not in step with its primary after {SYNC_SECONDS:.0f} s, or another one")

    def _is_in_step(self) -> bool:
        # The Sentinel may promote somebody even now.
        if (promoted := self._promoted()) is not None:
            self.replicas[self.replicas.index(promoted)] = self.primary
            self.primary = promoted
        return all(map(_is_in_step, self.replicas))

    def _are_known(self) -> bool:
        with contextlib.suppress(RedisError, OSError), redis_client(self.sentinel.own_url) as sentinel:
            return len(sentinel.sentinel_slaves(self.sentinel.service)) == len(self.replicas)
        return False


def _is_in_step(replica: RedisServer) -> bool:
    with contextlib.suppress(RedisError, OSError), redis_client(replica.url) as client:
        return bool(client.info("replication").get("master_link_status") == "up")
    return False
