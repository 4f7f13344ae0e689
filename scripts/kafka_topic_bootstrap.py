"""Create the Kafka topics that are missing and leave those that exist alone; wait for a broker that starts.

Arguments are the names of further topics to create, callback topics for example.
"""

import argparse
import logging
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, Final, NamedTuple

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, NodeNotReadyError, NoError, TopicAlreadyExistsError, for_code

from contracts.event_enums import TOPICS
from llm_provider.config import load_settings

ATTEMPT_SECONDS: Final = 10.0
"""How long one attempt may last. Long, for each that fails leaves an idle thread of kafka-python behind."""

BACK_OFF_SECONDS: Final = (0.25, 0.5, 1.0, 2.0)
"""The pauses between attempts; the last one repeats."""

Out = Callable[[str], object]


class BrokerAwayError(Exception):
    """No broker answered within the time allowed."""


class TopicsRefusedError(Exception):
    """The broker answered, and refused to create some topics."""


@dataclass(frozen=True)
class Summary:
    created: tuple[str, ...]
    existing: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"created  {name}" for name in self.created] + [f"exists   {name}" for name in self.existing]
        return "\n".join([*lines, f"{len(self.created)} created, {len(self.existing)} already there"])


@dataclass(frozen=True)
class Plan:
    """The topics that must exist, and the shape of those still to be created."""

    topics: tuple[str, ...]
    partitions: int
    replication_factor: int

    def options(self, names: Iterable[str]) -> dict[str, dict[str, int]]:
        shape = {"num_partitions": self.partitions, "replication_factor": self.replication_factor}
        return dict.fromkeys(names, shape)


def bootstrap_topics(
    bootstrap_servers: str,
    partitions: int,
    replication_factor: int,
    wait_seconds: float,
    out: Out = print,
    extra_topics: Iterable[str] = (),
) -> Summary:
    """Create what is missing of the mapped and the extra topics, and print what was done.

    `bootstrap_servers` is comma separated. Raises BrokerAwayError when nobody answers within `wait_seconds`,
    TopicsRefusedError when a topic cannot be created, and KafkaError for whatever waiting would not cure.
    """
    plan = Plan(tuple(dict.fromkeys([*TOPICS.values(), *extra_topics])), partitions, replication_factor)
    summary = persist(plan, bootstrap_servers, wait_seconds, out)
    out(str(summary))
    return summary


def persist(plan: Plan, bootstrap_servers: str, wait_seconds: float, out: Out) -> Summary:
    """Attempt the plan until it is done or the time is over; an attempt cut short may be repeated safely."""
    deadline = time.monotonic() + wait_seconds
    for pause in pauses():
        try:
            return attempt(plan, bootstrap_servers, min(ATTEMPT_SECONDS, deadline - time.monotonic()))
        except KafkaError as error:
            if not error.retriable:
                raise
            left = deadline - time.monotonic() - pause
            if left <= 0:
                reason = f"no answer from Kafka at {bootstrap_servers} within {wait_seconds:g} s"
                raise BrokerAwayError(f"{reason} ({error})") from error
        out(f"Kafka at {bootstrap_servers} is not ready; trying for another {left:.0f} s")
        time.sleep(pause)
    raise AssertionError("the pauses never end")


def pauses() -> Iterator[float]:
    return chain(BACK_OFF_SECONDS, repeat(BACK_OFF_SECONDS[-1]))


def attempt(plan: Plan, bootstrap_servers: str, seconds: float) -> Summary:
    servers = [server.strip() for server in bootstrap_servers.split(",")]
    knock(servers, seconds)
    with closing(connect(servers, seconds)) as admin:
        return create_missing(admin, plan)


def knock(servers: Sequence[str], seconds: float) -> None:
    """Leave only when one of the servers accepts connections, else say why not.

    kafka-python would not say it ("Unable to bootstrap"), and leaks a socket with each connection refused.
    """
    patience = max(0.1, seconds / len(servers))
    reasons: list[str] = []
    for server in servers:
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=patience).close()
        except OSError as error:
            reasons.append(f"{server}: {error.strerror or error}")
        else:
            return
    raise NodeNotReadyError("; ".join(reasons))


def connect(servers: Sequence[str], seconds: float) -> Any:
    milliseconds = max(1, int(seconds * 1000))
    return KafkaAdminClient(
        bootstrap_servers=servers,
        bootstrap_timeout_ms=milliseconds,
        request_timeout_ms=milliseconds,
        reconnect_backoff_max_ms=2000,
    )


def create_missing(admin: Any, plan: Plan) -> Summary:
    """`admin` is a KafkaAdminClient, which ships no types."""
    there = set(admin.list_topics())
    missing = [name for name in plan.topics if name not in there]
    created = create(admin, plan, missing) if missing else ()
    return Summary(created, tuple(name for name in plan.topics if name not in created))


def create(admin: Any, plan: Plan, missing: Sequence[str]) -> tuple[str, ...]:
    """The names that were created here; where another bootstrap was quicker, the topic exists as well."""
    answers = request_creation(admin, plan.options(missing))
    raise_refusals([answer for answer in answers if answer.error not in (NoError, TopicAlreadyExistsError)])
    admin.wait_for_topics(missing)
    return tuple(answer.name for answer in answers if answer.error is NoError)


class Answer(NamedTuple):
    """What the broker said to the creation of one topic."""

    name: str
    error: type[KafkaError]
    reason: str | None

    def __str__(self) -> str:
        return f"{self.name}: {self.reason or self.error.__name__}"


def request_creation(admin: Any, options: Mapping[str, Mapping[str, int]]) -> list[Answer]:
    try:
        response = admin.create_topics(options, raise_errors=False)
    except RuntimeError as error:
        # kafka-python says so when the cluster has no controller yet, which passes.
        raise NodeNotReadyError(str(error)) from error
    return [
        Answer(each["name"], for_code(each["error_code"]), each.get("error_message")) for each in response["topics"]
    ]


def raise_refusals(refusals: Sequence[Answer]) -> None:
    """Permanent ones first: waiting for the others would not help them."""
    permanent = [answer for answer in refusals if not answer.error.retriable]
    if permanent:
        raise TopicsRefusedError("Kafka refused to create " + "; ".join(map(str, permanent)))
    for answer in refusals:
        raise answer.error(str(answer))


def run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topics", nargs="*", help="further topics to create")
    extra_topics = parser.parse_args(argv).topics
    settings = load_settings()
    bootstrap_topics(
        settings.kafka_bootstrap_servers,
        settings.kafka_topic_partitions,
        settings.kafka_topic_replication_factor,
        settings.kafka_bootstrap_wait_seconds,
        extra_topics=extra_topics,
    )


def main(argv: Sequence[str]) -> int:
    # The library tells every failed attempt on stderr; our own lines say the same once.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        run(argv)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        # An operator reads this in a release log, so whatever went wrong is one sentence, never a trace.
        print(f"kafka_topic_bootstrap: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
