"""What can never be delivered, and who kills its worker: kept, told, and in an operator's hand. On real processes."""

import json
from contextlib import closing

import pytest
from pytest_celery import CeleryTestWorker

from contracts.errors import ErrorCode
from scripts.kafka_topic_bootstrap import bootstrap_topics
from tests.integration.conftest import AnyKafka, Operator
from tests.integration.inbox import PARTITIONS, Arrived, Inbox
from tests.integration.openai_server import OpenAIServer
from tests.integration.poisonable_worker import POISON
from tests.integration.processes import Installation, Sent, WebProcess, all_ready, eventually

DEAD_LETTER_AFTER_SECONDS = 1.0


@pytest.fixture
def running(chain: Installation) -> WebProcess:
    web, worker = chain.web(), chain.worker(DEAD_LETTER_AFTER_SECONDS=str(DEAD_LETTER_AFTER_SECONDS))
    all_ready(web, worker)
    return web


def create(kafka: AnyKafka, topic: str) -> None:
    bootstrap_topics(kafka.bootstrap_servers, PARTITIONS, 1, 30, out=lambda _: None, extra_topics=[topic])


def callback_status(web: WebProcess, request: Sent) -> str:
    return str(web.status_of(request.queue_id)["callback_status"])


def copies(inbox: Inbox, request: Sent) -> list[Arrived]:
    """What has arrived of the request's event by now."""
    inbox.poll()
    return inbox.copies_of(request)


def test_an_event_for_a_topic_that_does_not_exist_ends_with_the_operator(
    chain: Installation, running: WebProcess, kafka: AnyKafka, inbox: Inbox, operator: Operator
) -> None:
    """It holds nobody else back, is listed with its reason, and once the topic exists it is published as it was."""
    topic = f"{chain.topic}.missing"
    chain.expect("event_became_dead_letter")
    lost = chain.send(running, topic)
    others = [chain.send(running) for _ in range(10)]
    inbox.collect(others, 10)
    eventually(lambda: callback_status(running, lost) == "dead", 20, "the event is given up")

    listed = operator("dead-letters", "list")
    assert (listed.returncode, listed.stdout.count("\n")) == (0, 1)
    assert all(word in listed.stdout for word in (lost.queue_id, topic, "Kafka knows no such topic."))
    shown = json.loads(operator("dead-letters", "show", lost.queue_id).stdout)

    create(kafka, topic)
    assert operator("dead-letters", "replay", lost.queue_id).returncode == 0
    with closing(Inbox(kafka.bootstrap_servers, [topic])) as late:
        late.collect([lost], 20)
        assert json.loads(late.copies_of(lost)[0].value) == shown["event"]
    eventually(lambda: callback_status(running, lost) == "published", 10, "the delivery is noted")
    assert operator("dead-letters", "list").stdout == "No dead letters.\n"


def test_an_operator_sends_an_event_once_more_or_gives_it_up(
    chain: Installation, running: WebProcess, inbox: Inbox, operator: Operator
) -> None:
    """A resent event is the same to the byte; a dropped one is gone; what does not exist is said in one sentence."""
    chain.expect("event_became_dead_letter")
    request, lost = chain.send(running), chain.send(running, f"{chain.topic}.missing")
    inbox.collect([request], 10)
    eventually(lambda: callback_status(running, request) == "published", 10, "the delivery is noted")
    assert operator("callbacks", "resend", request.queue_id).returncode == 0
    eventually(lambda: len(copies(inbox, request)) == 2, 20, "the second copy")
    inbox.the_event_of(request)

    eventually(lambda: callback_status(running, lost) == "dead", 20, "the event is given up")
    assert operator("dead-letters", "drop", lost.queue_id).returncode == 0
    for words in (
        ("dead-letters", "show"),
        ("dead-letters", "replay"),
        ("dead-letters", "drop"),
        ("callbacks", "resend"),
    ):
        refused = operator(*words, "no-such-id")
        assert refused.returncode == 1
        assert refused.stderr.startswith("Error: ")
        assert refused.stderr.count("\n") == 1


def test_a_request_that_kills_its_workers_ends_with_an_error_and_its_neighbours_do_not(
    chain: Installation, provider: OpenAIServer, inbox: Inbox, operator: Operator
) -> None:
    """Its caller is told, the operator finds it, and every request that was on the same workers gets its verdict."""
    web, worker = chain.web(), poisonable(chain)
    all_ready(web, worker)
    provider.behave(latency_ms=300)
    neighbours = [chain.send(web) for _ in range(5)]
    poison = chain.send(web, user_prompt=f"{POISON} Which is better?")
    deaths = 0
    while not survived(web, poison, worker) and deaths < 5:
        deaths, worker = deaths + 1, poisonable(chain)
        worker.ready()
    events = inbox.collect([poison, *neighbours], 40)
    detail = events[poison.key].data.error_detail
    assert detail is not None
    assert detail.error_code is ErrorCode.PROCESSING_ERROR
    assert all(events[one.key].data.is_success for one in neighbours)
    # The third as the only suspect, or beside others and then alone.
    assert deaths in {3, 4}
    assert "3 deaths" in operator("dead-letters", "list").stdout


def survived(web: WebProcess, poison: Sent, worker: CeleryTestWorker) -> bool:
    """Wait for the death of the worker, or for the end of the request that brings it."""

    def is_dead() -> bool:
        return bool(worker.container.status != "running")

    eventually(lambda: is_dead() or callback_status(web, poison) == "published", 30, "a death or an event")
    return not is_dead()


def poisonable(chain: Installation) -> CeleryTestWorker:
    return chain.worker(app="tests.integration.poisonable_worker")
