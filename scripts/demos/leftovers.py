"""What a run would leave behind on servers that stay."""

from collections.abc import Mapping
from contextlib import closing, suppress

from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from redis import Redis, RedisError

from scripts.demos.demo import Demo
from scripts.demos.environment import brokers
from scripts.local_servers import KafkaBroker, RedisServer


def tidy(demo: Demo, environment: Mapping[str, str]) -> None:
    """Take the run's topics and keys off servers that stay; those may also be gone by now."""
    ours = {server.variable for server in demo.servers}
    if KafkaBroker.variable not in ours:
        delete_topics(demo, environment)
    if RedisServer.variable not in ours:
        delete_keys(demo, environment)


def delete_topics(demo: Demo, environment: Mapping[str, str]) -> None:
    with suppress(KafkaError):
        kafka = KafkaAdminClient(bootstrap_servers=brokers(environment), bootstrap_timeout_ms=5000)
        with closing(kafka):
            kafka.delete_topics(demo.topics)


def delete_keys(demo: Demo, environment: Mapping[str, str]) -> None:
    address = environment[RedisServer.variable]
    with suppress(RedisError), Redis.from_url(address, socket_timeout=5) as redis:
        for key in redis.scan_iter(match=f"{demo.name}:*", count=1000):
            redis.delete(key)
