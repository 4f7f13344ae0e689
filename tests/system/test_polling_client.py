"""A client that knows two routes and how to wait: 20 of 20, answered at once or queued."""

import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from scripts.local_servers import HOST
from tests.system.conftest import Service

REQUESTS = 20
PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    status: int
    body: dict[str, Any]


class PollingClient:
    """As clients were before there were callbacks: post, and poll when told to."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        with closing(http.client.HTTPConnection(HOST, self._port, timeout=30)) as connection:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            return Answer(response.status, json.loads(response.read()))

    def post(self, correlation_id: str, provider: str = "mock") -> Answer:
        """The old client's body: the overrides that it does not use are null."""
        overrides = dict.fromkeys(("model_override", "temperature_override", "system_prompt_override"))
        body = {
            "user_prompt": "Which essay argues better?",
            "essay_a": f"School should start later, because pupils sleep too little. {correlation_id}",
            "essay_b": "School is fine.",
            "llm_config_overrides": {"provider_override": provider, **overrides},
            "correlation_id": correlation_id,
            "metadata": {"pair": correlation_id},
        }
        return self.ask("POST", "/api/v1/comparison", body)

    def compare(self, correlation_id: str, provider: str = "mock") -> dict[str, Any]:
        """The result, however it comes; raises RuntimeError with the service's words when there is none."""
        answer = self.post(correlation_id, provider)
        if answer.status == 200:
            return answer.body
        if answer.status != 202:
            raise RuntimeError(answer.body["error"])
        self.wait(answer.body["queue_id"])
        return self.ask("GET", f"/api/v1/results/{answer.body['queue_id']}").body

    def wait(self, queue_id: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            status = self.ask("GET", f"/api/v1/status/{queue_id}").body
            if status["status"] == "completed":
                return
            if status["status"] in {"failed", "expired"}:
                raise RuntimeError(status["error_message"])
            time.sleep(0.05)
        raise TimeoutError(queue_id)


@pytest.fixture(params=["synchronous", "queued"])
def client(request: pytest.FixtureRequest, service: Service) -> PollingClient:
    return PollingClient(service.port if request.param == "synchronous" else service.queueing_port)


@pytest.fixture
def queueing(service: Service) -> PollingClient:
    return PollingClient(service.queueing_port)


def test_every_request_gets_its_own_result(client: PollingClient) -> None:
    """Twenty, four at a time, whichever way the service chooses to answer."""
    ids = [str(uuid4()) for _ in range(REQUESTS)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        results = list(pool.map(client.compare, ids))
    assert [result["correlation_id"] for result in results] == ids
    assert [result["metadata"] for result in results] == [{"pair": each} for each in ids]
    assert {result["winner"] for result in results} == {"Essay A"}
    assert all(1 <= result["confidence"] <= 5 for result in results)


def test_a_result_is_the_same_however_it_came(service: Service) -> None:
    """Synchronous and polled bodies have the same fields, and for the same essays the same verdict."""
    correlation_id = str(uuid4())
    now, later = (PollingClient(port).compare(correlation_id) for port in (service.port, service.queueing_port))
    assert now.keys() == later.keys()
    for told in ("winner", "justification", "confidence", "provider", "model", "token_usage", "metadata"):
        assert now[told] == later[told], told


def test_a_queued_request_that_fails_says_why(queueing: PollingClient) -> None:
    """Its status is failed with a message for people, and its result is a conflict."""
    accepted = queueing.post(str(uuid4()), provider="openai")
    assert (accepted.status, accepted.body["status"]) == (202, "queued")
    with pytest.raises(RuntimeError, match=r"\w"):
        queueing.wait(accepted.body["queue_id"])
    result = queueing.ask("GET", f"/api/v1/results/{accepted.body['queue_id']}")
    assert result.status == 409
    assert result.body["error_code"] == "CONNECTION_ERROR"


def test_a_synchronous_request_that_fails_is_not_queued_instead(service: Service) -> None:
    """The caller hears of it at once, as a gateway's error."""
    answer = PollingClient(service.port).post(str(uuid4()), provider="openai")
    assert answer.status in {502, 503, 504}
    assert answer.body["error_code"] == "CONNECTION_ERROR"


@pytest.fixture
def celery_client(service: Service) -> Iterator[Celery]:
    """A Celery app that knows the result backend and the key prefix, and no task."""
    app = Celery("somebody", backend=service.redis_url, set_as_current=False)
    app.conf.result_backend_transport_options = {"global_keyprefix": service.key_prefix}
    with closing(app):
        yield app
        app.backend.result_consumer.stop()
        app.backend.client.close()


def test_celerys_own_result_object_gets_a_queued_result(queueing: PollingClient, celery_client: Celery) -> None:
    """`AsyncResult(queue_id).get()` waits for it, and returns what `/results` tells."""
    queue_id = queueing.post(str(uuid4())).body["queue_id"]
    result = celery_client.AsyncResult(queue_id).get(timeout=PATIENCE_SECONDS)
    assert result == queueing.ask("GET", f"/api/v1/results/{queue_id}").body


def test_celerys_own_result_object_tells_that_a_request_failed(queueing: PollingClient, celery_client: Celery) -> None:
    """Without the service's code on the path, and so without its exceptions' classes."""
    queue_id = queueing.post(str(uuid4()), provider="openai").body["queue_id"]
    handle = celery_client.AsyncResult(queue_id)
    failure = handle.get(timeout=PATIENCE_SECONDS, propagate=False)
    assert handle.state == "FAILURE"
    assert "CONNECTION_ERROR" in str(failure)
