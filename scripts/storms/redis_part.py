"""The Redis of a storm: a single server, or a primary with two replicas and a Sentinel; and what may befall it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from redis import Redis

from scripts.local_servers import HOST, LocalServer, RedisFailover, RedisServer

REPLICAS, WAITED_FOR = 2, 1  # One of two is enough, so that the service goes on while a killed primary is away.
NOBODY_LISTENS = 1


class RedisPart:
    """Whatever it is made of, `primary` is the server that takes writes."""

    name = RedisServer.name

    def __init__(self, directory: Path, fails_over: bool) -> None:
        self._group = RedisFailover(directory, replicas=REPLICAS) if fails_over else None
        self._single = RedisServer(directory)

    @property
    def settings(self) -> dict[str, str]:
        """What the service is told."""
        if self._group is None:
            return {RedisServer.variable: self._single.address}
        return {RedisServer.variable: self._group.url, "LLM_PROVIDER_REDIS_REPLICAS": str(WAITED_FOR)}

    @property
    def primary(self) -> RedisServer:
        return self._single if self._group is None else self._group.primary

    @property
    def servers(self) -> Sequence[LocalServer]:
        group = self._group
        return [self._single] if group is None else [group.primary, *group.replicas, group.sentinel]

    def start(self) -> None:
        (self._group or self._single).start()

    def stop(self) -> None:
        (self._group or self._single).stop()

    def settle(self) -> None:
        """Wait until there is a primary with all its replicas again, whoever that is by now."""
        if self._group is not None:
            self._group.heal()

    def fail_over(self) -> float:
        """Kill the primary; after how many seconds another one was promoted."""
        if self._group is None:
            raise self._single.error("has no replica that could be promoted")
        begin = time.monotonic()
        self._group.fail_over()
        return time.monotonic() - begin

    def cut(self, *kinds: str) -> None:
        with Redis.from_url(self.primary.url) as client:
            for kind in kinds:
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """A switchover: by the Sentinel, or by hand, with a primary that never answers and so replaces nothing."""
        if self._group is not None:
            with Redis(host=HOST, port=self._group.sentinel.port) as sentinel:
                # Without COORDINATED the old primary goes on for a second with the other replica, and both forget that.
                sentinel.execute_command("SENTINEL", "FAILOVER", self._group.sentinel.service, "COORDINATED")
            yield
            return
        with Redis.from_url(self.primary.url) as client:
            client.replicaof(HOST, NOBODY_LISTENS)
            yield
            client.replicaof("NO", "ONE")

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Nothing more can be written to a file. The server survives it, as Python starts it with SIGXFSZ ignored."""
        process = psutil.Process(self.primary.pid)
        soft, hard = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (0, hard))
        try:
            yield
        finally:
            process.rlimit(psutil.RLIMIT_FSIZE, (soft, hard))
