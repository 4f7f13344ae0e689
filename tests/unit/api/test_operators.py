"""What an operator asks: providers, a test call, health, metrics."""

from prometheus_client.parser import text_string_to_metric_families

from contracts.events.llm_provider_events import TokenUsage
from llm_provider.admission import ProviderLoad
from llm_provider.errors import AuthenticationFailed
from tests.unit.api.service import Service, captured_logs


def samples(service: Service) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a scrape says: the value by name and labels."""
    response = service.get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_the_providers_are_listed_with_their_state(service: Service) -> None:
    """Configured: a call could be made; available: one would be made now; and what its circuit breaker says."""
    service.open_circuit()
    service.admission.at_provider = ProviderLoad(
        running=3, waiting=7, held_models={"a-model": 17.04}, slowed_models={"b": 0.5}
    )
    response = service.get("/api/v1/providers")

    assert response.status_code == 200
    assert response.json == {
        "providers": [
            {
                "name": "mock",
                "configured": False,
                "available": False,
                "default_model": "scripted-1",
                "circuit_breaker": "closed",
                "retry_in_seconds": None,
                "running_calls": 0,
                "waiting_requests": 0,
                "held_models": [],
                "slowed_models": [],
            },
            {
                "name": "openai",
                "configured": True,
                "available": False,
                "default_model": "scripted-1",
                "circuit_breaker": "open",
                "retry_in_seconds": 61.0,
                "running_calls": 3,
                "waiting_requests": 7,
                "held_models": [{"model": "a-model", "retry_in_seconds": 17.0}],
                "slowed_models": [{"model": "b", "seconds_between_calls": 0.5}],
            },
        ]
    }


def test_a_provider_can_be_tried_out(service: Service) -> None:
    """One short real call, whose cost is told."""
    response = service.call("POST", "/api/v1/providers/openai/test")

    answer = response.json
    assert (response.status_code, answer["ok"], answer["provider"]) == (200, True, "openai")
    assert (answer["model"], answer["cost_estimate"]) == ("scripted-1", 0.0021)
    assert answer["response_time_ms"] >= 0
    assert service.accepted == 0


def test_a_provider_that_fails_its_trial_says_why(service: Service) -> None:
    """The question was answered, so it is a 200 that says no."""
    service.provider.error = AuthenticationFailed(
        "The provider does not accept the key.", retry_after_seconds=17, details={"http_status": 401}
    ).billed(TokenUsage(), 0.01)
    response = service.call("POST", "/api/v1/providers/openai/test")

    assert response.status_code == 200
    assert response.json == {
        "provider": "openai",
        "ok": False,
        "model": "scripted-1",
        "error_code": "AUTHENTICATION_ERROR",
        "message": "The provider does not accept the key.",
        "details": {"http_status": 401},
        "retry_after_seconds": 17,
        "cost_estimate": 0.01,
    }


def test_a_trial_takes_one_of_the_threads_that_may_wait() -> None:
    """However many are tried on a vendor that hangs, the others stay free to accept and to answer."""
    service = Service(web_sync_threads=1)
    with service.sync_threads.one():
        refused = service.call("POST", "/api/v1/providers/openai/test")
    tried = service.call("POST", "/api/v1/providers/openai/test")

    assert (refused.status_code, refused.json["is_retryable"]) == (503, True)
    assert int(refused.headers["Retry-After"]) >= 1
    assert tried.json["ok"]
    assert len(service.provider.calls) == 1


def test_a_provider_without_a_key_cannot_be_tried_out(service: Service) -> None:
    """400 for one that is known and not configured, 404 for a name that is no provider's."""
    known, unknown = (service.call("POST", f"/api/v1/providers/{name}/test") for name in ("google", "acme"))

    assert (known.status_code, known.json["error_code"]) == (400, "CONFIGURATION_ERROR")
    assert known.json["errors"] == []
    assert (unknown.status_code, unknown.json["error_code"]) == (404, "RESOURCE_NOT_FOUND")


def test_health_is_503_while_nothing_can_be_accepted(service: Service) -> None:
    """A balancer asks another process; the body says why."""
    well = service.get("/healthz")
    service.ledger.away = True
    degraded = service.get("/healthz")

    assert (well.status_code, well.json) == (200, {"status": "ok", "ledger": "ok"})
    assert (degraded.status_code, degraded.json) == (503, {"status": "degraded", "ledger": "away"})


def test_a_supervisor_fills_no_log(service: Service) -> None:
    """Health and metrics are asked every few seconds."""
    with captured_logs() as logged:
        service.get("/healthz")
        service.get("/metrics")

    assert logged.getvalue() == ""


def test_requests_are_counted_by_what_they_were_and_how_they_ended(service: Service) -> None:
    """One count and one duration a request; ids are no labels."""
    ended = ("llm_provider_http_requests_total", (("endpoint", "comparisons.compare"), ("method", "POST")))
    before = samples(service)
    service.post()
    service.post(essay_a=1)
    after = samples(service)

    def grown(status: str) -> float:
        key = (ended[0], (*ended[1], ("status", status)))
        return after[key] - before.get(key, 0)

    assert (grown("200"), grown("400")) == (1, 1)


def test_the_ledger_is_counted_exactly(service: Service) -> None:
    """What is open, waiting, accepted and decided, whichever process did it."""
    first, _ = service.queue(), service.queue()
    service.ledger.mark_delivered(service.decide(first))
    said = {name: value for (name, labels), value in samples(service).items() if not labels}

    assert said["llm_provider_ledger_up"] == 1
    assert said["llm_provider_requests_open"] == 1
    assert said["llm_provider_requests_waiting"] == 1
    assert said["llm_provider_requests_accepted_total"] == 2
    assert said["llm_provider_requests_completed_total"] == 1
    assert said["llm_provider_requests_stored_total"] == 1


def test_metrics_go_on_without_the_ledger(service: Service) -> None:
    """A scrape says that it is away instead of failing."""
    service.ledger.away = True

    assert samples(service)[("llm_provider_ledger_up", ())] == 0


def test_invented_methods_make_no_new_series(service: Service) -> None:
    """A caller must not be able to fill the memory of a process by inventing methods and paths."""
    for number in range(3):
        service.call(f"BREW{number}", f"/nowhere/{number}")
    labels = {dict(labels).get("method") for _, labels in samples(service)}

    assert "other" in labels
    assert not any(method and method.startswith("BREW") for method in labels)
