"""GET /status and /results: what a polling client is told in every state of a request."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llm_provider.api import comparisons
from llm_provider.callbacks import build_response
from llm_provider.errors import ProviderTimeout, RateLimited, RequestExpired
from llm_provider.queue_models import OutcomeError, utc_now
from tests.unit.api.service import Service

UNKNOWN_IDS = ["00000000-0000-4000-8000-000000000000", "x", "%00", "%FF", "%ED%A0%80", "a%0Ab", "%F0%9F%98%80"]


def status_of(service: Service, queue_id: str) -> dict[str, Any]:
    """The body of its status, which must be a 200."""
    response = service.get(f"/api/v1/status/{queue_id}")
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json
    return answer


def deliver(service: Service, queue_id: str) -> None:
    """The worker's whole part for a polling request: commit, store the result, note the delivery."""
    decision = service.decide(queue_id)
    result = build_response(decision.request, decision.outcome).model_dump(mode="json")
    service.results.store_result(queue_id, result)
    service.ledger.mark_delivered(decision)


def fail(service: Service, queue_id: str) -> None:
    """The worker's whole part for a polling request whose provider failed."""
    decision = service.decide(queue_id, ProviderTimeout("The provider gave no complete answer in time."))
    error = decision.outcome.error
    assert isinstance(error, OutcomeError)
    service.results.store_error(queue_id, error)
    service.ledger.mark_delivered(decision)


def test_a_queued_request_has_a_position(service: Service) -> None:
    """Positions count from 1, in order of acceptance."""
    first, second = service.queue(), service.queue()

    assert [status_of(service, each)["position_in_queue"] for each in (first, second)] == [1, 2]
    answer = status_of(service, second)
    assert (answer["status"], answer["result_available"]) == ("queued", False)
    assert (answer["callback_status"], answer["error_message"]) == ("none", None)
    assert answer["estimated_wait_minutes"] == 1


def test_a_status_has_every_field_of_the_contract(service: Service) -> None:
    """An existing client reads these, whatever their values."""
    assert set(status_of(service, service.queue())) == {
        "queue_id",
        "status",
        "message",
        "queued_at",
        "position_in_queue",
        "estimated_wait_minutes",
        "result_available",
        "callback_status",
        "error_message",
        "expires_at",
        "correlation_id",
    }


def test_a_waiting_request_expires_at_its_deadline() -> None:
    """expires_at is the acceptance and the deadline, both with their offset from UTC."""
    service = Service(request_deadline_seconds=600)
    answer = status_of(service, service.queue())

    queued_at, expires_at = (datetime.fromisoformat(answer[name]) for name in ("queued_at", "expires_at"))
    assert queued_at.utcoffset() == timedelta(0)
    assert abs((expires_at - queued_at).total_seconds() - 600) < 1
    assert abs((datetime.now(UTC) - queued_at).total_seconds()) < 5


def test_a_running_request_is_processing_and_has_no_position(service: Service) -> None:
    """Once a worker has it there is nothing to wait in."""
    queue_id = service.queue()
    service.ledger.claim(queue_id, "a worker")

    answer = status_of(service, queue_id)
    assert (answer["status"], answer["position_in_queue"]) == ("processing", None)
    assert answer["estimated_wait_minutes"] is None


def test_a_result_is_202_until_there_is_one(service: Service) -> None:
    """Asked too early, /results answers with the status and when to ask again."""
    queue_id = service.queue()
    waiting = service.get(f"/api/v1/results/{queue_id}")
    service.ledger.claim(queue_id, "a worker")
    running = service.get(f"/api/v1/results/{queue_id}")

    assert [answer.status_code for answer in (waiting, running)] == [202, 202]
    assert [answer.json["status"] for answer in (waiting, running)] == ["queued", "processing"]
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in (waiting, running))


def test_a_polled_result_is_the_synchronous_answer(service: Service) -> None:
    """The same fields and values, first from the ledger and then from the result store."""
    at_once = service.post(metadata={"n": 1}).json
    queue_id = service.queue(metadata={"n": 1}, correlation_id=at_once["correlation_id"])
    decision = service.decide(queue_id)
    from_ledger = service.get(f"/api/v1/results/{queue_id}")
    assert status_of(service, queue_id)["result_available"] is True
    service.results.store_result(queue_id, from_ledger.json)
    service.ledger.mark_delivered(decision)
    from_store = service.get(f"/api/v1/results/{queue_id}")

    assert (from_ledger.status_code, from_store.status_code) == (200, 200)
    assert from_ledger.json == from_store.json == at_once | {"response_time_ms": 812}


def test_a_finished_request_says_until_when_its_result_is_kept() -> None:
    """Completed, available, and expiring when the result store lets it go."""
    service = Service(result_expires_seconds=3600)
    queue_id = service.queue()
    deliver(service, queue_id)

    answer = status_of(service, queue_id)
    left = datetime.fromisoformat(answer["expires_at"]) - datetime.now(UTC)
    assert (answer["status"], answer["result_available"]) == ("completed", True)
    assert 3590 < left.total_seconds() <= 3600


def test_an_expired_result_is_gone_and_its_request_still_completed(service: Service) -> None:
    """The record outlives the result: 410, and the status says that there is nothing to fetch."""
    queue_id = service.queue()
    deliver(service, queue_id)
    service.results.results.clear()
    response = service.get(f"/api/v1/results/{queue_id}")

    assert response.status_code == 410
    assert response.json["detail"] == "The result has expired."
    answer = status_of(service, queue_id)
    assert (answer["status"], answer["result_available"]) == ("completed", False)


def test_a_forgotten_request_is_unknown() -> None:
    """After the record's own retention it is a 404 like any id that never was."""
    service = Service(result_expires_seconds=60, record_retention_seconds=60)
    queue_id = service.queue()
    deliver(service, queue_id)
    now = service.ledger.clock()
    service.ledger.clock = lambda: now + 121

    assert [service.get(f"/api/v1/{what}/{queue_id}").status_code for what in ("status", "results")] == [404, 404]


def test_a_failed_request_answers_with_its_error(service: Service) -> None:
    """409 with the code and message of the failure; the status repeats it as error_message."""
    queue_id = service.queue()
    fail(service, queue_id)
    response = service.get(f"/api/v1/results/{queue_id}")

    assert response.status_code == 409
    assert response.mimetype == "application/problem+json"
    assert response.json["error_code"] == "TIMEOUT"
    assert response.json["is_retryable"] is True
    answer = status_of(service, queue_id)
    assert (answer["status"], answer["result_available"]) == ("failed", False)
    assert answer["error_message"] == response.json["detail"] == "The provider gave no complete answer in time."


@pytest.mark.parametrize(("wait", "header"), [(17.2, "18"), (None, None)])
def test_who_polls_hears_how_long_to_wait_too(service: Service, wait: float | None, header: str | None) -> None:
    """Retry-After, where the vendor or a limit named a time, as in a synchronous answer."""
    queue_id = service.queue()
    service.decide(queue_id, RateLimited("The provider limits the rate.", retry_after_seconds=wait))
    response = service.get(f"/api/v1/results/{queue_id}")

    assert (response.status_code, response.headers.get("Retry-After")) == (409, header)


def test_what_has_been_waited_for_is_not_told_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry-After counts from when the request failed, whenever its result is asked for."""
    queue_id = service.queue()
    service.decide(queue_id, RateLimited("The provider limits the rate.", retry_after_seconds=60))
    headers = []
    for seconds in (50, 70):
        late = utc_now() + timedelta(seconds=seconds)
        monkeypatch.setattr(comparisons, "utc_now", lambda late=late: late)
        headers.append(service.get(f"/api/v1/results/{queue_id}").headers.get("Retry-After"))

    assert headers == ["10", None]


def test_a_request_that_missed_its_deadline_is_expired(service: Service) -> None:
    """The status says expired, and /results says why there will be none."""
    queue_id = service.queue()
    service.decide(queue_id, RequestExpired("The request's deadline passed before it had an outcome."))
    response = service.get(f"/api/v1/results/{queue_id}")

    assert status_of(service, queue_id)["status"] == "expired"
    assert (response.status_code, response.json["error_code"]) == (409, "TIMEOUT")


def test_a_result_that_went_to_a_topic_is_not_here(service: Service) -> None:
    """410 naming the topic, decided or delivered; the delivery is a field of its own."""
    queue_id = service.queue(callback_topic="grades.v1")
    before = status_of(service, queue_id)
    decision = service.decide(queue_id)
    decided, asked_early = status_of(service, queue_id), service.get(f"/api/v1/results/{queue_id}")
    service.ledger.mark_delivered(decision)
    delivered, asked = status_of(service, queue_id), service.get(f"/api/v1/results/{queue_id}")

    assert [each["callback_status"] for each in (before, decided, delivered)] == ["pending", "pending", "published"]
    assert [each["status"] for each in (decided, delivered)] == ["completed", "completed"]
    assert [each["result_available"] for each in (decided, delivered)] == [False, False]
    assert [each.status_code for each in (asked_early, asked)] == [410, 410]
    assert asked_early.json["detail"] == (
        "The result goes to the callback topic grades.v1 and is not yet published there."
    )
    assert asked.json["detail"] == "The result went to the callback topic grades.v1."


def test_a_result_that_kafka_refused_for_good_is_with_an_operator(service: Service) -> None:
    """Nobody is told that it went where it did not."""
    queue_id = service.queue(callback_topic="grades.v1")
    service.decide(queue_id)
    service.ledger.postpone(queue_id, attempted=True, refusal="The topic does not exist.")
    now = service.ledger.clock()
    service.ledger.clock = lambda: now + service.ledger.timing.dead_letter_after
    assert service.ledger.postpone(queue_id, attempted=True, refusal="The topic does not exist.")
    response = service.get(f"/api/v1/results/{queue_id}")

    assert status_of(service, queue_id)["callback_status"] == "dead"
    assert (response.status_code, response.json["detail"]) == (
        410,
        "The result could not be published to the callback topic grades.v1; an operator can replay it.",
    )


def test_a_failure_that_went_to_a_topic_answers_with_its_error(service: Service) -> None:
    """Whoever asks is told why it failed, although the event said it too."""
    queue_id = service.queue(callback_topic="grades.v1")
    service.ledger.mark_delivered(service.decide(queue_id, ProviderTimeout("Too slow.")))
    response = service.get(f"/api/v1/results/{queue_id}")

    assert (response.status_code, response.json["detail"]) == (409, "Too slow.")
    assert status_of(service, queue_id)["callback_status"] == "published"


@pytest.mark.parametrize("what", ["status", "results"])
@pytest.mark.parametrize("queue_id", UNKNOWN_IDS)
def test_an_unknown_id_is_404(service: Service, what: str, queue_id: str) -> None:
    """Whatever the path holds: a problem document, never a 500."""
    response = service.get(f"/api/v1/{what}/{queue_id}")

    assert (response.status_code, response.mimetype) == (404, "application/problem+json")
    assert response.json["error_code"] == "RESOURCE_NOT_FOUND"


@pytest.mark.parametrize("what", ["status", "results"])
def test_without_the_ledger_nobody_is_told_404(service: Service, what: str) -> None:
    """Redis away is a 503 to try again, not an id that is unknown."""
    queue_id = service.queue()
    service.ledger.away = True
    response = service.get(f"/api/v1/{what}/{queue_id}")

    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1


def test_the_errors_of_a_request_carry_its_correlation_id(service: Service) -> None:
    """A poller that only kept the queue id can still be helped by its own id."""
    mine = "6f2f3f3e-8a52-4a53-9d27-5a6c1c1f6c11"
    queue_id = service.queue(correlation_id=mine)
    fail(service, queue_id)

    assert service.get(f"/api/v1/results/{queue_id}").json["correlation_id"] == mine
    assert status_of(service, queue_id)["correlation_id"] == mine
