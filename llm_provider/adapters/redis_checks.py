"""What is asked of a Redis at a boot: whether this service can ever work with it, and what its user may not do."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from llm_provider.adapters.redis_pool import Sentinels, plain_client
from llm_provider.adapters.redis_safety import Safety
from llm_provider.errors import ConfigurationError, LedgerUnavailable
from llm_provider.redis_address import RedisAddress

URL = "LLM_PROVIDER_REDIS_URL"
CHECK_SECONDS = 2.0

# What our scripts, Celery, kombu and flower send, each in a form that changes nothing: `@` is a key that nobody has.
ESSENTIAL = """
PING | EXISTS @ | GET @ | SET @ 1 PX 1 | SETEX @ 1 1 | MGET @ | INCR @ | INCRBY @ 1 | EXPIRE @ 1 | PEXPIRE @ 1
PERSIST @ | PTTL @ | DEL @
HSET @ f 1 | HSETNX @ f 1 | HGET @ f | HMGET @ f | HGETALL @ | HINCRBY @ f 1 | HLEN @ | HDEL @ f
DEL @ | SADD @ m | SMEMBERS @ | SREM @ m | LPUSH @ m | RPUSH @ m | LLEN @ | RPOP @ | BRPOP @ 0.001
DEL @ | ZADD @ 1 m | ZSCORE @ m | ZRANK @ m | ZCARD @ | ZCOUNT @ 0 1 | ZRANGE @ 0 1 | ZRANGEBYSCORE @ 0 1 | ZREM @ m
ZREMRANGEBYSCORE @ 0 1 | DEL @ | TIME | WATCH @ | UNWATCH | MULTI | EXEC | SCRIPT EXISTS 0 | SCRIPT LOAD return
EVALSHA 0 0 | EVAL return 0 | PUBLISH &.celery.pidbox _ | PUBLISH &.celeryev/worker.heartbeat _
PUBLISH @celery-task-meta- _ | PSUBSCRIBE &.celery.pidbox | PSUBSCRIBE &.celeryev/worker.*
EXISTS @request: | EXISTS @ledger: | EXISTS @admission: | EXISTS @celery-task-meta- | EXISTS @_kombu.binding.
EXISTS @unacked | EXISTS @comparisons | EXISTS @delimiter-secret | EXISTS @over:
"""
# Without them nobody notes that the memory is nearly full, and flower sees no events.
DISPENSABLE = "INFO memory | PSUBSCRIBE &.celeryev/*"

# An event of the log, and what it is about.
Warnings = Iterator[tuple[str, str]]


def check_redis(address: RedisAddress, *, prefix: str, safety: Safety) -> list[tuple[str, str]]:
    """What an operator should know: events for the log, each with a sentence.

    Raises ConfigurationError for what can never work, and LedgerUnavailable when nobody answers.
    """
    if address.service:
        _check_sentinels(address)
    # Another number would be chosen by the connection, whose errors say less.
    with closing(plain_client(replace(address, db=0), CHECK_SECONDS)) as client:
        try:
            _check_server(client, address, safety)
            _check_permissions(client, address, prefix, safety)
            return [*_dispensable(client, address, prefix), *_replicas(client, safety), *_durability(client)]
        except AuthenticationError as error:
            raise ConfigurationError(f"{URL}: Redis refuses the user or the password.") from error
        except RedisError as error:
            raise LedgerUnavailable(f"Redis did not answer ({type(error).__name__}).", retry_after_seconds=5) from error


def _check_sentinels(address: RedisAddress) -> None:
    answers = [_asked(sentinel, address.service) for sentinel in Sentinels(address, CHECK_SECONDS).clients]
    if "" in answers:
        return
    if wrong := [answer for answer in answers if answer]:
        raise ConfigurationError(f"{URL}: {wrong[0]}")
    raise LedgerUnavailable("No Sentinel answers.", retry_after_seconds=5)


def _asked(sentinel: Redis, service: str) -> str | None:
    """What is wrong with one Sentinel: nothing, or None when it does not answer."""
    try:
        found = sentinel.sentinel_get_master_addr_by_name(service)
    except (AuthenticationError, NoPermissionError):
        return "the Sentinels refuse sentinel_username or sentinel_password."
    except ResponseError:
        return "a plain Redis answers, no Sentinel; write redis:// or rediss://."
    except RedisError:
        return None
    finally:
        sentinel.close()
    return "" if found else f"the Sentinels know no service {service}."


def _check_server(client: Redis, address: RedisAddress, safety: Safety) -> None:
    server = _hello(client)
    if server["mode"] == "sentinel":
        raise ConfigurationError(f"{URL}: a Sentinel answers; write sentinel://host:port/number?service=name.")
    if server["mode"] == "cluster":
        raise ConfigurationError(f"{URL}: a Redis Cluster answers, which spreads its keys; one primary is needed.")
    needed, version = "7.2" if safety.on_disk else "7.0", str(server["version"])
    if _numbers(version) < _numbers(needed):
        raise ConfigurationError(f"{URL}: {server['server']} {version} is too old; {needed} is needed.")
    if _refusal(client, ["SELECT", str(address.db)]) == "SELECT" and address.db:
        raise ConfigurationError(f"{URL}: its user lacks SELECT, so the number must be 0.")
    if not _succeeds(client, "SELECT", address.db):
        raise ConfigurationError(f"{URL}: this Redis has no database number {address.db}.")
    if safety.on_disk and not _succeeds(client, "WAITAOF", 1, 0, 1):
        raise ConfigurationError("LLM_PROVIDER_REDIS_WAIT_FOR_DISK needs a Redis with appendonly yes.")


def _hello(client: Redis) -> dict[str, Any]:
    try:
        told = client.execute_command("HELLO")  # type: ignore[no-untyped-call]
    except ResponseError as error:
        raise ConfigurationError(f"{URL}: this server is too old, or no Redis; 7.0 is needed.") from error
    return told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:2]]


def _succeeds(client: Redis, *words: object) -> bool:
    try:
        client.execute_command(*words)  # type: ignore[no-untyped-call]
    except NoPermissionError:
        return True  # That is another question.
    except ResponseError:
        return False
    return True


def _check_permissions(client: Redis, address: RedisAddress, prefix: str, safety: Safety) -> None:
    wanted = _commands(ESSENTIAL, address, prefix)
    if safety.is_asked_for:
        wanted.append([str(word) for word in replace(safety, replicas=0, wait_seconds=0.001).wait])
    missing = dict.fromkeys(refusal for words in wanted if (refusal := _refusal(client, words)))
    if missing:
        raise ConfigurationError(f"{URL}: its user lacks {', '.join(missing)}; docs/operations.md has the ACL line.")


def _dispensable(client: Redis, address: RedisAddress, prefix: str) -> Warnings:
    for words in _commands(DISPENSABLE, address, prefix):
        if refusal := _refusal(client, words):
            yield "redis_is_limited", f"The user of Redis lacks {refusal}, which the service can do without."


def _commands(listed: str, address: RedisAddress, prefix: str) -> list[list[str]]:
    meanings = {"@": f"{prefix}probe", "_": ""}

    def spelled(word: str) -> str:
        return meanings.get(word, word.replace("@", prefix).replace("&", f"{prefix}/{address.db}"))

    commands = [command.split() for line in listed.splitlines() for command in line.split("|")]
    return [[spelled(word) for word in words] for words in commands if words]


def _refusal(client: Redis, words: list[str]) -> str:
    """What the user lacks for a command: the command, or the key or the channel it is about; nothing when it may."""
    try:
        if words[0] == "PSUBSCRIBE":
            with client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
                pubsub.psubscribe(words[1])
                pubsub.get_message(timeout=CHECK_SECONDS)
        else:
            client.execute_command(*words)  # type: ignore[no-untyped-call]
    except NoPermissionError as error:
        kind = next((kind for kind in ("key", "channel") if f" {kind}" in str(error)), "")
        return f"the {kind} {words[1]}" if kind else words[0]
    except ResponseError:
        pass  # Allowed, and of no use: no such script, say.
    return ""


def _replicas(client: Redis, safety: Safety) -> Warnings:
    wanted = safety.replicas
    if wanted and (there := int(client.execute_command("WAIT", wanted, 1))) < wanted:  # type: ignore[no-untyped-call]
        told = f"{there} replicas are there, {wanted} are asked for: until they are, nothing is accepted."
        yield "redis_is_limited", told


def _durability(client: Redis) -> Warnings:
    try:
        info = {**client.info("persistence"), **client.info("memory")}
    except NoPermissionError:
        return
    if not info.get("aof_enabled"):
        told = "Redis keeps no append-only file: a restart loses accepted requests. Set appendonly yes."
        yield "redis_may_lose_requests", told
    if info.get("maxmemory_policy") != "noeviction":
        yield (
            "redis_may_lose_requests",
            "Redis may evict keys when its memory is full. Set maxmemory-policy noeviction.",
        )
