"""Who may ask: not the web page of a stranger, and nobody by a name that a stranger could point at this machine."""

import json
import socket
from typing import Any

import pytest

from tests.unit.api.service import Answer, Service, body

TRIAL = "/api/v1/providers/openai/test"
PAGES = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://localhost:8080"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://[::1"},
    {"Origin": "file://localhost"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"},
]
OWN = [
    {},
    {"Origin": "http://localhost"},
    {"Origin": "HTTP://LOCALHOST:80"},
    {"Origin": "https://localhost:443"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
    {"Sec-Fetch-Site": "none"},
]
FREE_NAMES = [
    "localhost",
    "LocalHost.",
    "a.localhost:8080",
    "127.0.0.1:8080",
    "[::1]:8080",
    "10.0.0.7",
    "web",
    "web:80",
]
STRANGE_NAMES = ["evil.example", "127.0.0.1.nip.io", "localhost.evil.example", "a b", "me@localhost", "[::1", ""]


def asked(service: Service, headers: dict[str, str], path: str = "/api/v1/comparison") -> Answer:
    options: dict[str, Any] = {"data": json.dumps(body()), "content_type": "application/json"}
    return service.call("POST", path, headers=headers, **({} if path == TRIAL else options))


@pytest.mark.parametrize("path", ["/api/v1/comparison", TRIAL, "/api/v1/nowhere"])
@pytest.mark.parametrize("headers", PAGES)
def test_a_page_of_another_origin_is_refused(service: Service, headers: dict[str, str], path: str) -> None:
    """Its visitor would pay for what it asks; nothing is asked of a provider."""
    answer = asked(service, headers, path)

    assert (answer.status_code, answer.json["error_code"]) == (403, "INVALID_REQUEST")
    assert service.provider.calls == []


@pytest.mark.parametrize("path", ["/api/v1/comparison", TRIAL])
@pytest.mark.parametrize("headers", OWN)
def test_whoever_is_no_page_of_another_origin_is_served(service: Service, headers: dict[str, str], path: str) -> None:
    """A program, which says nothing of an origin, and a page that the same host has served."""
    assert asked(service, headers, path).status_code == 200


def test_a_port_belongs_to_the_origin(service: Service) -> None:
    """Another port of the same host is another program, maybe a stranger's."""
    own, other = ({"Host": "localhost:8080", "Origin": f"http://localhost:{port}"} for port in (8080, 3000))

    assert [asked(service, headers).status_code for headers in (own, other)] == [200, 403]


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data"])
def test_a_form_makes_no_trial_call(service: Service, content_type: str) -> None:
    """Old browsers do not say which page posts it, but a form always has a type."""
    assert service.call("POST", TRIAL, content_type=content_type).status_code == 415
    assert service.call("POST", TRIAL, content_type="application/json", data="{}").status_code == 200
    assert len(service.provider.calls) == 1


def test_a_page_of_another_origin_reads_nothing_but_what_a_link_leads_to(service: Service) -> None:
    """What a person opens from a wiki, that person sees, and not the wiki."""
    page = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    answers = [
        service.call("GET", path, headers=page | link).status_code
        for path in ("/api/v1/providers", "/healthz", "/metrics")
        for link in ({}, {"Sec-Fetch-Mode": "navigate"})
    ]

    assert answers == [403, 200, 200, 200, 200, 200]


@pytest.mark.parametrize("host", FREE_NAMES)
def test_addresses_and_names_without_a_dot_are_always_known(service: Service, host: str) -> None:
    """Nobody can have them mean another machine: no public DNS has them."""
    assert asked(service, {"Host": host}).status_code == 200


@pytest.mark.parametrize("host", STRANGE_NAMES)
def test_a_name_that_a_stranger_may_own_is_refused(service: Service, host: str) -> None:
    """By DNS rebinding his page would be of the same origin as this service; who only looks after it may ask so."""
    answer = asked(service, {"Host": host})

    assert answer.status_code == 400
    assert service.provider.calls == []
    assert {service.call("GET", path, headers={"Host": host}).status_code for path in ("/healthz", "/metrics")} == {200}


def test_the_refusal_of_a_name_says_where_to_add_it(service: Service) -> None:
    """The operator who forgot it meets it there."""
    assert "LLM_PROVIDER_TRUSTED_HOSTS" in asked(service, {"Host": "llm.example.org"}).json["detail"]


def test_an_operator_names_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one, with all below, or all; what gunicorn listens on and this machine's own name are known."""
    monkeypatch.setenv("HOST", "Bound.example.org")
    monkeypatch.setattr(socket, "gethostname", lambda: "machine.example.org")
    service = Service(trusted_hosts="LLM.example.org, .svc.local")
    known = ["llm.example.org", "svc.local", "a.svc.local:8080", "bound.example.org", "machine.example.org"]
    unknown = ["a.llm.example.org", "asvc.local", "svc.local.example.org"]

    assert {asked(service, {"Host": host}).status_code for host in known} == {200}
    assert {asked(service, {"Host": host}).status_code for host in unknown} == {400}
    assert asked(Service(trusted_hosts="*"), {"Host": "any.example"}).status_code == 200


@pytest.mark.parametrize(
    ("environment", "status"),
    [
        ({"RAW_URI": "http://localhost/api/v1/comparison"}, 200),
        ({"RAW_URI": "http://evil.example/api/v1/comparison"}, 400),
        ({"RAW_URI": "localhost:80"}, 400),
        ({"HTTP_HOST": None}, 400),
        ({"HTTP_HOST": None, "SERVER_PROTOCOL": "HTTP/1.0"}, 200),
    ],
)
def test_one_host_is_asked(service: Service, environment: dict[str, str | None], status: int) -> None:
    """A request line that names another host than the header, or no header at all, is ambiguous."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        changed = {name: value for name, value in (environ | environment).items() if value is not None}
        return plain(changed, start_response)

    plain = service.app.wsgi_app
    service.app.wsgi_app = application  # type: ignore[method-assign]

    assert service.post().status_code == status


def test_a_proxys_prefix_is_heeded_where_an_operator_says_so() -> None:
    """In every address that an answer names; elsewhere anybody could put one in."""
    header = {"X-Forwarded-Prefix": "/llm", "X-Forwarded-Host": "evil.example", "SCRIPT_NAME": "/evil"}
    for setting, prefix in ((False, ""), (True, "/llm")):
        service = Service(forwarded_prefix=setting)
        raw = json.dumps(body(callback_topic="t")).encode()
        accepted, refused = (service.post_raw(each, headers=header) for each in (raw, b"{"))

        assert accepted.headers["Location"] == accepted.json["status_url"]
        assert accepted.json["status_url"].startswith(f"{prefix}/api/v1/status/")
        assert refused.json["instance"] == f"{prefix}/api/v1/comparison"
