"""Steps that a failover, or a power cut, must not forget: one round trip brings the step and waits for its copies."""

from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.commands.core import Script
from redis.exceptions import NoScriptError, RedisError, ResponseError

# WAIT and WAITAOF wait for the last write of their own connection. A step that finds its work done, by this process
# over a connection that is lost now or by another one, writes nothing; after this what it found is waited for, too.
_FENCE = "#!lua flags=allow-oom\nredis.call('SET', KEYS[1], '', 'EX', 60)"


class TooFewCopies(RedisError):
    """The step was taken, and fewer than were asked for had it in time; `answer` is the step's."""

    def __init__(self, answer: Any) -> None:
        super().__init__("Too few replicas, or not the disk, had the step in time.")
        self.answer = answer


@dataclass(frozen=True)
class Safety:
    """What must have a step before it counts: so many replicas, and the disk; with neither it counts when Redis has
    it. `wait_seconds` is shorter than a client waits for its reply."""

    replicas: int = 0
    on_disk: bool = False
    wait_seconds: float = 0.0

    @property
    def is_asked_for(self) -> bool:
        return self.replicas > 0 or self.on_disk

    @property
    def wait(self) -> tuple[str | int, ...]:
        """The command that waits."""
        limit_ms = round(self.wait_seconds * 1000)
        return ("WAITAOF", 1, self.replicas, limit_ms) if self.on_disk else ("WAIT", self.replicas, limit_ms)

    def has_enough(self, acknowledged: Any) -> bool:
        on_disks, replicas = acknowledged if self.on_disk else (1, acknowledged)
        return bool(on_disks >= 1 and replicas >= self.replicas)


class SafeSteps:
    """Takes steps over one client, as safely as was asked for; `fence` is a key that holds nothing."""

    def __init__(self, client: Redis, safety: Safety, fence: str) -> None:
        self._client = client
        self._safety = safety
        self._fence = fence

    def run(self, script: Script, keys: list[str], args: list[str | float]) -> Any:
        if not self._safety.is_asked_for:
            return script(keys=keys, args=args)
        try:
            return self.execute("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            # redis-py's own way would ask before every pipeline whether the script is known.
            return self.execute("EVAL", script.script, len(keys), *keys, *args)

    def execute(self, *command: Any) -> Any:
        """Raises TooFewCopies; the same step may be taken again, here or on whoever is the primary by then."""
        if not self._safety.is_asked_for:
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        with self._client.pipeline(transaction=False) as pipeline:
            for queued in (command, ("EVAL", _FENCE, 1, self._fence), self._safety.wait):
                pipeline.execute_command(*queued)  # type: ignore[no-untyped-call]
            answers = pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        answer, _, acknowledged = answers
        if not self._safety.has_enough(acknowledged):
            # It may be a primary that has been cut off, while there is another one by now.
            self._client.connection_pool.disconnect(inuse_connections=False)
            raise TooFewCopies(answer)
        return answer
