"""Which answer a comparison gets: every row of the outcome table of the wire contract."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest

from contracts.events.llm_provider_events import TokenUsage
from llm_provider.errors import (
    AuthenticationFailed,
    CallRefused,
    ComparisonError,
    InvalidAnswer,
    ProviderError,
    ProviderOverloaded,
    ProviderServerError,
    ProviderTimeout,
    ProviderUnreachable,
    QuotaExceeded,
    RateLimited,
)
from tests.unit.api.service import ANSWER, ESSAY_A, ESSAY_B, PROMPT, SECRETS, Service, body

PROVIDER_FAILURES = [
    (ProviderTimeout, 504),
    (ProviderUnreachable, 503),
    (ProviderOverloaded, 503),
    (ProviderServerError, 502),
    (RateLimited, 503),
    (QuotaExceeded, 503),
    (AuthenticationFailed, 502),
    (CallRefused, 502),
    (InvalidAnswer, 502),
]


def test_a_request_without_callback_topic_is_answered_at_once(service: Service) -> None:
    """The synchronous 200 carries the verdict, and nothing is queued."""
    correlation_id = str(uuid4())
    response = service.post(correlation_id=correlation_id, metadata={"class": "7a", "round": 3})

    assert response.status_code == 200
    assert response.mimetype == "application/json"
    answer = response.json
    assert answer.pop("response_time_ms") >= 0
    assert len(answer["metadata"].pop("prompt_sha256")) == 64
    assert answer == {
        "winner": "Essay B",
        "justification": "It argues more closely.",
        "confidence": 4.0,
        "provider": "openai",
        "model": "scripted-1",
        "token_usage": {"prompt_tokens": 900, "completion_tokens": 40, "total_tokens": 940},
        "cost_estimate": 0.0021,
        "correlation_id": correlation_id,
        "trace_id": None,
        "metadata": {"class": "7a", "round": 3},
    }
    assert (service.accepted, service.dispatcher.messages) == (0, [])


def test_the_provider_gets_the_texts_and_the_overrides(service: Service) -> None:
    """What a caller chooses reaches the provider, and what it leaves null is left to the provider."""
    chosen = body()["llm_config_overrides"] | {
        "model_override": "gpt-x",
        "temperature_override": 0,
        "system_prompt_override": "Be fair.",
        "max_tokens_override": 300,
    }
    service.post(llm_config_overrides=chosen)
    service.post()

    with_choices, without = service.provider.calls
    assert (with_choices.model, with_choices.temperature, with_choices.max_tokens) == ("gpt-x", 0, 300)
    assert with_choices.texts.system_prompt == "Be fair."
    assert (with_choices.texts.user_prompt, with_choices.texts.essay_a) == (PROMPT, ESSAY_A)
    assert with_choices.texts.essay_b == ESSAY_B
    assert (without.model, without.temperature, without.max_tokens) == ("scripted-1", None, None)
    assert without.texts.system_prompt is None


def test_a_callback_topic_is_always_called_back(service: Service) -> None:
    """A request that names a topic is accepted for later although the provider is free."""
    response = service.post(callback_topic="grades.v1")

    queue_id = response.json["queue_id"]
    view = service.ledger.view(queue_id)
    assert response.status_code == 202
    assert service.provider.calls == []
    assert view is not None
    assert view.request.callback_topic == "grades.v1"
    assert service.dispatcher.messages == [queue_id]


def test_a_202_says_where_to_ask_and_when(service: Service) -> None:
    """Its body has every field of the contract, and its headers repeat the address and the time."""
    correlation_id = str(uuid4())
    response = service.post(callback_topic="grades.v1", correlation_id=correlation_id)

    answer = response.json
    assert set(answer) == {
        "queue_id",
        "status",
        "message",
        "estimated_wait_minutes",
        "status_url",
        "retry_after",
        "correlation_id",
    }
    assert str(UUID(answer["queue_id"])) == answer["queue_id"]
    assert answer["status"] == "queued"
    assert "grades.v1" in answer["message"]
    assert answer["estimated_wait_minutes"] == 1
    assert answer["status_url"] == f"/api/v1/status/{answer['queue_id']}"
    assert answer["correlation_id"] == correlation_id
    assert response.headers["Location"] == answer["status_url"]
    assert response.headers["Retry-After"] == str(answer["retry_after"])
    assert service.get(answer["status_url"]).json["queue_id"] == answer["queue_id"]


def test_an_unavailable_provider_queues(service: Service) -> None:
    """While a breaker is open a request without topic is accepted for later."""
    service.open_circuit()

    assert service.post().status_code == 202
    assert service.provider.calls == []


@pytest.mark.parametrize(
    "prefer", ["respond-async", "Respond-Async", "wait=5, respond-async", "respond-async; x=1", " respond-async ,a"]
)
def test_a_caller_may_prefer_to_wait_for_nothing(service: Service, prefer: str) -> None:
    """`Prefer: respond-async` queues, in every spelling that RFC 7240 allows."""
    assert service.post_raw(_raw(), headers={"Prefer": prefer}).status_code == 202


@pytest.mark.parametrize("prefer", ["", "wait=10", "respond-asynchronously", "x=respond-async", "return=minimal"])
def test_other_preferences_change_nothing(service: Service, prefer: str) -> None:
    """A preference that is not respond-async leaves the synchronous path."""
    assert service.post_raw(_raw(), headers={"Prefer": prefer}).status_code == 200


def test_synchronous_answers_can_be_switched_off() -> None:
    """With SYNC_RESPONSES off a web process never waits for a provider."""
    service = Service(sync_responses=False)

    assert service.post().status_code == 202
    assert service.provider.calls == []


def test_when_all_synchronous_threads_wait_the_next_request_is_queued() -> None:
    """Half of the web threads may wait for providers; one more caller gets 202, and a later one 200 again."""
    service = Service(web_threads=4)
    service.provider.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(service.post) for _ in range(2)]
        for _ in waiting:
            assert service.provider.asked.acquire(timeout=5)
        started = time.monotonic()
        one_more = service.post()
        seconds = time.monotonic() - started
        service.provider.gate.set()
        assert [answer.result(5).status_code for answer in waiting] == [200, 200]

    assert one_more.status_code == 202
    assert seconds < 5  # It does not wait for a thread to become free.
    assert service.post().status_code == 200


def test_a_failed_call_gives_its_thread_back() -> None:
    """Errors of the provider do not use up the synchronous threads."""
    service = Service(web_threads=2)
    service.provider.error = ProviderTimeout("The provider gave no complete answer in time.")
    statuses = [service.post().status_code for _ in range(3)]

    assert statuses == [504, 504, 504]


def test_every_error_of_a_provider_has_its_row() -> None:
    """The table below knows each leaf of the error tree, so that none gets an accidental status."""
    assert {error for error, _ in PROVIDER_FAILURES} == set(ProviderError.__subclasses__())


@pytest.mark.parametrize(("error", "status"), PROVIDER_FAILURES)
def test_a_provider_that_fails_is_an_error_and_nothing_is_queued(
    service: Service, error: type[ComparisonError], status: int
) -> None:
    """The synchronous call's failure is told as 502, 503 or 504 with its code, never hidden in the queue."""
    service.provider.error = error("The provider did not answer as it should.")
    response = service.post()

    assert response.status_code == status
    assert response.mimetype == "application/problem+json"
    assert response.json["error_code"] == error.error_code
    assert response.json["is_retryable"] is error.is_retryable
    assert response.json["detail"] == "The provider did not answer as it should."
    assert (service.accepted, service.dispatcher.messages) == (0, [])


@pytest.mark.parametrize("is_polled", [False, True], ids=["synchronous", "polled"])
def test_a_failure_tells_what_its_calls_have_cost(service: Service, is_polled: bool) -> None:
    """An answer that cannot be used is on the bill like any other."""
    usage = TokenUsage(prompt_tokens=900, completion_tokens=40, total_tokens=940)
    error = InvalidAnswer("It gave no verdict.").billed(usage, 0.0021)
    if is_polled:
        queue_id = service.queue()
        service.decide(queue_id, error)
        answer = service.get(f"/api/v1/results/{queue_id}").json
    else:
        service.provider.error = error
        answer = service.post().json

    assert (answer["token_usage"], answer["cost_estimate"]) == (usage.model_dump(), 0.0021)


def test_retry_after_is_the_vendors_where_it_gave_one(service: Service) -> None:
    """A rate limit tells how long to wait, rounded up to whole seconds."""
    service.provider.error = RateLimited("The provider limits the rate.", retry_after_seconds=17.2)

    assert service.post().headers["Retry-After"] == "18"


def test_an_error_that_waiting_does_not_heal_names_no_time(service: Service) -> None:
    """A used-up quota is a 503 without Retry-After: a client must not send it again by itself."""
    service.provider.error = QuotaExceeded("The account's quota is used up.")

    assert "Retry-After" not in service.post().headers


def test_without_the_ledger_what_must_be_queued_is_503(service: Service) -> None:
    """Redis away: nothing is accepted, and the caller is told when to try again."""
    service.ledger.away = service.dispatcher.away = True
    response = service.post(callback_topic="grades.v1")

    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert response.json["is_retryable"] is True
    assert response.json["error_code"] == "SERVICE_UNAVAILABLE"


def test_without_the_ledger_the_synchronous_path_goes_on(service: Service) -> None:
    """Redis away: a request that can be answered at once needs none."""
    service.ledger.away = service.dispatcher.away = True

    assert service.post().status_code == 200


def test_a_full_queue_is_503_until_it_is_below_the_low_watermark() -> None:
    """Above the high watermark nothing is accepted; once enough is delivered, it is again."""
    service = Service(queue_high_watermark=3, queue_low_watermark=2)
    queued = [service.queue() for _ in range(3)]
    full = service.post()
    service.ledger.mark_delivered(service.decide(queued[0]))
    still_full = service.post()
    service.ledger.mark_delivered(service.decide(queued[1]))

    assert (full.status_code, still_full.status_code) == (503, 503)
    assert int(full.headers["Retry-After"]) >= 1
    assert full.json["is_retryable"] is True
    assert service.post().status_code == 202


def test_what_is_accepted_is_202_although_its_dispatch_failed(service: Service) -> None:
    """Once the ledger has it, the sweeper dispatches it: the caller is told that it is accepted."""
    service.dispatcher.away = True
    response = service.post(callback_topic="grades.v1")

    assert response.status_code == 202
    assert service.dispatcher.messages == []
    assert service.get(response.json["status_url"]).json["status"] == "queued"


def test_one_correlation_id_may_be_shared_by_many(service: Service) -> None:
    """It is never an idempotency key: each post is a request of its own."""
    shared = str(uuid4())
    ids = {service.queue(correlation_id=shared) for _ in range(3)}

    assert len(ids) == 3
    assert service.accepted == 3


def test_a_trace_is_carried_on(service: Service) -> None:
    """A valid traceparent gives the answer its trace_id, and is stored with a queued request."""
    trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "vendor=x"}
    at_once = service.post_raw(_raw(), headers=trace)
    later = service.post_raw(_raw(callback_topic="t"), headers=trace)

    view = service.ledger.view(later.json["queue_id"])
    assert at_once.json["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert view is not None
    assert view.request.trace_context is not None
    assert view.request.trace_context.model_dump() == trace


@pytest.mark.parametrize("traceparent", ["", "x", f"00-{'0' * 32}-00f067aa0ba902b7-01", "00-4bf9-00f0-01"])
def test_a_broken_trace_costs_nobody_an_answer(service: Service, traceparent: str) -> None:
    """An invalid traceparent is as good as none."""
    response = service.post_raw(_raw(), headers={"traceparent": traceparent})

    assert (response.status_code, response.json["trace_id"]) == (200, None)


def test_many_callers_at_once_each_get_their_own_answer() -> None:
    """Correlation ids never cross between threads."""
    service = Service(web_threads=64)
    ready = threading.Barrier(8)

    def call(_: int) -> bool:
        mine = str(uuid4())
        ready.wait(5)
        answers = [service.post(correlation_id=mine), service.post(correlation_id=mine, essay_a=1)]
        return all(answer.json["correlation_id"] == mine for answer in answers)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(8)))


def test_the_stored_request_holds_no_text(service: Service) -> None:
    """The essays, the prompt and the system prompt are stored beside it, so that they can go first."""
    overrides = body()["llm_config_overrides"] | {"system_prompt_override": "Grade by rubric essay-4712."}
    queue_id = service.queue(llm_config_overrides=overrides)

    view = service.ledger.view(queue_id)
    assert view is not None
    assert not any(secret in view.request.model_dump_json() for secret in SECRETS)
    claim = service.ledger.claim(queue_id, "a worker")
    assert claim.texts is not None
    assert claim.texts.system_prompt == "Grade by rubric essay-4712."


def test_the_confidence_on_the_wire_is_1_to_5(service: Service) -> None:
    """Inside it is a fraction; 0 is 1 and 1 is 5."""

    def told(confidence: float) -> float:
        verdict = ANSWER.verdict.model_copy(update={"confidence": confidence})
        service.provider.answer = ANSWER.model_copy(update={"verdict": verdict})
        value: float = service.post().json["confidence"]
        return value

    assert [told(0.0), told(0.5), told(1.0)] == [1.0, 3.0, 5.0]


def _raw(**fields: object) -> bytes:
    return json.dumps(body(**fields)).encode()
