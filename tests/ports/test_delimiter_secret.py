"""The secret of an installation: shared over Redis, and done without while that is away."""

from redis import Redis

from llm_provider.adapters.redis_client import connect_redis
from llm_provider.adapters.redis_secret import ASK_AGAIN_SECONDS, RedisDelimiterSecret
from tests.unit.builders import Clock

NOBODY_LISTENS = "redis://127.0.0.1:1/0"


def test_all_processes_of_an_installation_know_the_same(redis_client: Redis, key_prefix: str) -> None:
    """Whoever comes first makes it, and it stays; another installation has its own."""
    first, second, other = (RedisDelimiterSecret(redis_client, prefix=key_prefix + own) for own in ("", "", "other:"))
    assert first() == second() == RedisDelimiterSecret(redis_client, prefix=key_prefix)()
    assert first() != other()
    assert len(first()) == 64
    assert redis_client.ttl(f"{key_prefix}delimiter-secret") == -1


def test_it_is_read_once(redis_client: Redis, key_prefix: str) -> None:
    """Whatever becomes of the key: what a process has written with it stays in the vendors' caches."""
    secret = RedisDelimiterSecret(redis_client, prefix=key_prefix)
    before = secret()
    redis_client.delete(f"{key_prefix}delimiter-secret")
    assert secret() == before
    assert not redis_client.exists(f"{key_prefix}delimiter-secret")


def test_while_redis_is_away_one_of_the_process_serves(redis_client: Redis, key_prefix: str) -> None:
    """Not every prompt asks again; the one that is shared follows as soon as it can be read."""
    clock, shared = Clock(), RedisDelimiterSecret(redis_client, prefix=key_prefix)()
    away = connect_redis(NOBODY_LISTENS, timeout_seconds=1)
    secret = RedisDelimiterSecret(away, prefix=key_prefix, clock=clock)
    assert secret() == secret() != shared
    secret._client = redis_client  # noqa: SLF001 Redis is back.
    assert secret() != shared
    clock.advance(ASK_AGAIN_SECONDS)
    assert secret() == shared


def test_it_is_not_shown(redis_client: Redis, key_prefix: str) -> None:
    """By whoever prints what holds it."""
    secret = RedisDelimiterSecret(redis_client, prefix=key_prefix)
    assert secret().decode() not in repr(secret)
