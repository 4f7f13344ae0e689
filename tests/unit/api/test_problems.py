"""Errors as problem documents: their members, their headers, and what they never hold."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from llm_provider.api_models import LLMComparisonRequest
from llm_provider.errors import ProviderTimeout
from tests.unit.api.service import SECRETS, Answer, Service, body, captured_logs

MEMBERS = {
    "type": str,
    "title": str,
    "status": int,
    "detail": str,
    "instance": str,
    "error_code": str,
    "correlation_id": str,
    "is_retryable": bool,
    "errors": list,
    "error": str,
}


def provider_fails(service: Service) -> Answer:
    service.provider.error = ProviderTimeout("Too slow.")
    return service.post()


def service_breaks(service: Service) -> Answer:
    service.provider.error = RuntimeError("broke on essay-4712")
    return service.post()


def ledger_is_away(service: Service) -> Answer:
    service.ledger.away = True
    return service.post(callback_topic="t")


# Beside them, where a comparison has ended without a verdict.
SPENT = {"token_usage": dict, "cost_estimate": float}


def comparison_failed(service: Service) -> Answer:
    queue_id = service.queue()
    service.decide(queue_id, ProviderTimeout("Too slow."))
    return service.get(f"/api/v1/results/{queue_id}")


ERRORS: list[tuple[int, str, Callable[[Service], Answer]]] = [
    (400, "/api/v1/comparison", lambda service: service.post(essay_a=1)),
    (400, "/api/v1/comparison", lambda service: service.post_raw(b"{")),
    (400, "/api/v1/comparison", lambda service: service.post(llm_config_overrides=None)),
    (404, "/nowhere", lambda service: service.get("/nowhere")),
    (404, "/", lambda service: service.get("/")),
    (404, "/api/v1/status/x", lambda service: service.get("/api/v1/status/x")),
    (405, "/api/v1/comparison", lambda service: service.get("/api/v1/comparison")),
    (409, "", comparison_failed),
    (413, "/api/v1/comparison", lambda service: service.post(essay_a="x" * 2_000_000)),
    (500, "/api/v1/comparison", service_breaks),
    (503, "/api/v1/comparison", ledger_is_away),
    (504, "/api/v1/comparison", provider_fails),
]


@pytest.mark.parametrize(("status", "path", "provoke"), ERRORS)
def test_every_error_is_a_problem_document(
    service: Service, status: int, path: str, provoke: Callable[[Service], Answer]
) -> None:
    """Exactly the members of RFC 9457 and ours; `error` repeats the detail for existing clients."""
    response = provoke(service)

    answer = response.json
    assert (response.status_code, response.mimetype) == (status, "application/problem+json")
    spent = SPENT if status in {409, 504} else {}
    assert {name: type(value) for name, value in answer.items()} == MEMBERS | spent
    assert (answer["status"], answer["error"]) == (status, answer["detail"])
    assert answer["detail"]
    assert answer["instance"].startswith(path)
    assert all(set(each) == {"field", "message"} for each in answer["errors"])


def test_a_wrong_method_is_told_the_right_ones(service: Service) -> None:
    """405 names what is allowed, as HTTP asks for."""
    response = service.get("/api/v1/comparison")

    assert "POST" in response.headers["Allow"]
    assert response.json["detail"] == "This path takes POST."
    assert service.call("DELETE", "/healthz").json["detail"] == "This path takes GET."


def test_an_unknown_path_is_named_and_no_more(service: Service) -> None:
    """As it stands in an address, so that no odd character reaches a terminal; a query may hold anything."""
    answer = service.get("/api/v2/a%0Ab%20\N{LATIN SMALL LETTER E WITH ACUTE}?essay=essay-4712").json

    assert answer["detail"] == "No such path: /api/v2/a%0Ab%20%C3%A9"
    assert answer["instance"] == "/api/v2/a%0Ab%20%C3%A9"


LONE_SURROGATES = [rb"\ud800", rb"\udc00 x", rb"\ud83dxx", rb"\ud83d\u0041", rb"\ud83d\ud83d"]


@pytest.mark.parametrize("text", LONE_SURROGATES)
def test_a_lone_surrogate_is_named_as_what_it_is(service: Service, text: bytes) -> None:
    """The parser's own words for it would send the caller looking for an escape that is cut off."""
    answer = service.post_raw(b'{"essay_a": "' + text + b'"}').json

    assert answer["detail"].startswith(
        "body: Invalid JSON: a lone surrogate (\\ud800 to \\udfff) is not text at line 1 "
    )


@pytest.mark.parametrize("text", [rb"\u12", rb"\uzzzz", rb"\ud83d\ude00 \u12"])
def test_another_broken_escape_is_not_called_a_surrogate(service: Service, text: bytes) -> None:
    """A pair that is whole is text, and what is wrong beside it has its own name."""
    answer = service.post_raw(b'{"essay_a": "' + text + b'"}').json

    assert answer["detail"].startswith("body: Invalid JSON: invalid escape")


def lines_of(logged: io.StringIO, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    return [line for line in lines if line["event"] == event]


def test_a_caller_knows_one_queue_and_the_log_knows_which_store(service: Service) -> None:
    """What we call our parts, and what their client raised, helps an operator and nobody else."""
    with captured_logs() as logged:
        response = ledger_is_away(service)

    assert response.json["detail"] == "The queue cannot be reached now; send the request again later."
    (failed,) = lines_of(logged, "request_failed")
    assert (failed["level"], failed["error_code"]) == ("warning", "SERVICE_UNAVAILABLE")
    assert failed["reason"] == "The ledger did not answer (away)."
    assert failed["correlation_id"] == response.json["correlation_id"]


def test_a_failure_on_our_side_is_logged_and_a_callers_mistake_is_not(service: Service) -> None:
    """Whoever watches the log is not woken by a wrong body."""
    with captured_logs() as logged:
        service.post(llm_config_overrides=None)
        service.post(essay_a="x" * 2_000_000)
        service.get("/nowhere")
        provider_fails(service)

    assert [line["reason"] for line in lines_of(logged, "request_failed")] == ["Too slow."]


def test_an_exception_tells_nothing_of_what_it_choked_on(service: Service) -> None:
    """A defect is a 500 without its text; the log has its class and its place, and no text either."""
    with captured_logs() as logged:
        response = service_breaks(service)

    assert response.status_code == 500
    assert response.json["is_retryable"] is False
    assert "RuntimeError" not in response.text
    assert not any(secret in response.text + logged.getvalue() for secret in SECRETS)
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    broke = next(line for line in lines if line["event"] == "request_broke")
    assert broke["error"] == "RuntimeError"
    assert any("compare" in frame for frame in broke["frames"])
    assert broke["correlation_id"] == response.json["correlation_id"]


def test_a_defect_in_our_own_models_is_no_fault_of_the_caller(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ValidationError that does not come from the body is a 500, and its text stays inside."""

    def broken(*_: Any) -> Any:
        LLMComparisonRequest.model_validate({"essay_a": "essay-4712"})

    monkeypatch.setattr(service.orchestrator, "perform_comparison", broken)
    response = service.post()

    assert response.status_code == 500
    assert "essay-4712" not in response.text
    assert "user_prompt" not in response.text


@pytest.mark.parametrize(("status", "path", "provoke"), ERRORS)
def test_no_error_writes_a_text_into_the_log(
    service: Service, status: int, path: str, provoke: Callable[[Service], Answer]
) -> None:
    """Whatever goes wrong, prompts and essays are in no line, DEBUG included."""
    with captured_logs() as logged:
        provoke(service)

    assert logged.getvalue()
    assert not any(secret in logged.getvalue() for secret in SECRETS)


def test_no_answer_writes_a_text_into_the_log(service: Service) -> None:
    """Neither do the good ways, whose lines carry the ids instead."""
    with captured_logs() as logged:
        at_once = service.post().json
        queued = service.post(callback_topic="t").json
        service.get(f"/api/v1/results/{queued['queue_id']}")

    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert not any(secret in logged.getvalue() for secret in SECRETS)
    assert [line["event"] for line in lines] == [
        "request_answered",
        "request_accepted",
        "request_answered",
        "request_answered",
    ]
    assert [line["correlation_id"] for line in lines] == [at_once["correlation_id"]] + [queued["correlation_id"]] * 3
    assert lines[1]["queue_id"] == queued["queue_id"]


def test_a_refusal_does_not_repeat_what_was_sent(service: Service) -> None:
    """A value in the wrong place may be an essay."""
    wrong = [
        service.post(correlation_id="essay-4712"),
        service.post(callback_topic="essay-4712 with spaces"),
        service.post(essay_a=["essay-4712"]),
        service.post(llm_config_overrides=body()["llm_config_overrides"] | {"provider_override": "essay-4712"}),
        service.post_raw(b'{"essay_a": "essay-4712'),
    ]

    assert [answer.status_code for answer in wrong] == [400] * 5
    assert not any("essay-4712" in answer.text for answer in wrong)


def test_a_thread_forgets_whom_it_served(service: Service) -> None:
    """What it logs between two requests must not carry the ids of the last one."""
    service.post()

    assert structlog.contextvars.get_contextvars() == {}
