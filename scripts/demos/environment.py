"""The environment of the demo's programs: where Redis and Kafka are, started if need be, and settings."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from scripts.demos.demo import Demo
from scripts.demos.errors import DemoError
from scripts.local_servers import (
    HOST,
    KafkaBroker,
    LocalServer,
    configured_elsewhere,
    free_port,
    kafka_jars,
    kafka_jars_path,
    local_servers,
    without_password,
)
from scripts.local_servers.ports import first_free_port

MOCK_LATENCY_MS = 400  # So that the stages can be told apart; a real model takes longer.


def environment_of(demo: Demo) -> dict[str, str]:
    return {**os.environ, **servers(demo), **settings(demo)}


def servers(demo: Demo) -> dict[str, str]:
    """The addresses of Redis and Kafka: the user's, else those that `scripts/services up` left, else ours."""
    return {server.variable: address_of(demo, server) for server in local_servers()}


def address_of(demo: Demo, server: LocalServer) -> str:
    if theirs := configured_elsewhere(server):
        if not server.answers_at(theirs):
            raise DemoError(f"{server.variable} is set to {without_password(theirs)}; nothing answers there.")
        demo.screen.say(f"{server.name}: yours, at {without_password(theirs)}")
        return theirs
    if server.ready():
        demo.screen.say(f"{server.name}: runs already, at {server.address}")
        return server.address
    return start_server(demo, type(server))


def start_server(demo: Demo, kind: type[LocalServer]) -> str:
    """One of our own, so that two runs at once do not stop each other's."""
    if kind is KafkaBroker and not kafka_jars_path().is_dir():
        with demo.screen.step("Fetching Kafka (44 MB, once)"):
            kafka_jars()
    with demo.screen.step(f"Starting {kind.name}"):
        server = kind(demo.logs / kind.name.lower())
        demo.stack.callback(server.stop)
        server.start()
    demo.servers.append(server)
    return server.address


def settings(demo: Demo) -> dict[str, str]:
    """What the demo sets besides the servers; HOST and PORT too, which some shells set to something of theirs."""
    return {
        "HOST": HOST,
        "PORT": str(port(8080)),
        "FLOWER_HOST": HOST,
        "FLOWER_PORT": str(port(5555)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "LLM_PROVIDER_KEY_PREFIX": f"{demo.name}:",
        "LLM_PROVIDER_DEFAULT_PROVIDER": "mock",
        "LLM_PROVIDER_MOCK_ENABLED": "true",
        "LLM_PROVIDER_MOCK_ERROR_RATE": "0",
        "LLM_PROVIDER_MOCK_LATENCY_MS": str(MOCK_LATENCY_MS),
        "LLM_PROVIDER_SYNC_RESPONSES": "true",
        "LLM_PROVIDER_ALLOWED_CALLBACK_TOPICS": "*",
    }


def port(usual: int) -> int:
    """Only a demo that stays takes the usual ports, which the README's curl asks, and only when they are free.

    Any other draws its own, so that runs at once do not meet between this look and the program's start.
    """
    return first_free_port(usual) if os.environ.get("KEEP") == "1" else free_port()


def brokers(environment: Mapping[str, str]) -> list[str]:
    return environment[KafkaBroker.variable].split(",")
