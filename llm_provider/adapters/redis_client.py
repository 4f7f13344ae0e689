"""How the ledger and admission control speak to Redis: a client with bounded waits, and Lua scripts that are files."""

from collections.abc import Mapping
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from llm_provider.adapters.redis_pool import redis_pool
from llm_provider.redis_address import RedisAddress

# How many milliseconds the clock of all scripts is ahead of Redis's own.
CLOCK_KEY = "ledger:clock"


def connect_redis(url: str, *, timeout_seconds: float, outlives_silence: bool = False) -> Redis:
    """A client with bounded waits; nothing connects before its first command.

    redis-py's own default goes on trying for 4.5 s. Every command of ours may be repeated, so one immediate retry
    heals a pooled connection that a restart of Redis has cut, and no more. With `outlives_silence` also one that has
    timed out: the second try has a new connection. Who answers a web request that waits shall not wait twice.
    """
    silence = (RedisTimeoutError,) if outlives_silence else ()
    pool = redis_pool(
        RedisAddress.parse(url),
        timeout_seconds=timeout_seconds,
        decode_responses=True,
        # Bytes that are no text make one value unreadable, not every answer that it is a part of.
        encoding_errors="surrogateescape",
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError, *silence)),
    )
    return Redis.from_pool(pool)


def load_scripts(client: Redis, folder: Path, constants: Mapping[str, str | float]) -> dict[str, Script]:
    """The scripts of a folder by their names, with constants and its prelude.lua before each; nothing connects yet."""
    named = "".join(f"local {name} = {_literal(value)}\n" for name, value in constants.items())
    prelude = named + (folder / "prelude.lua").read_text()
    return {
        path.stem: client.register_script(_with_prelude(prelude, path.read_text())) for path in folder.glob("*.lua")
    }


def _literal(value: str | float) -> str:
    return f"'{value}'" if isinstance(value, str) else f"{value:g}"


def _with_prelude(prelude: str, script: str) -> str:
    first, _, rest = script.partition("\n")
    # A line of flags must stay the first one of the script.
    return f"{first}\n{prelude}{rest}" if first.startswith("#!") else f"{prelude}{script}"
