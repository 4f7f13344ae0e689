"""The documents say what the code says: generated parts are fresh, and examples are what the service answers."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

from contracts.enums import LLMProviderType
from llm_provider.adapters.providers.openai_provider import OpenAIProvider
from llm_provider.admission import ProviderLoad
from llm_provider.config import PREFIX, Settings, VendorSettings
from llm_provider.errors import (
    AuthenticationFailed,
    NotAcceptedNow,
    ProviderError,
    ProviderTimeout,
    RequestRejected,
    ServiceError,
)
from scripts import generate_docs
from scripts.local_servers import HOST
from tests.unit.api.service import Service

DOCS = Path(__file__).resolve().parents[2] / "docs"
API = (DOCS / "api.md").read_text(encoding="utf-8")
EXAMPLES: dict[str, Any] = {
    name: json.loads(text)
    for name, text in re.findall(r"<!-- example: ([\w-]+) -->\n```json\n(.*?)```", API, re.DOTALL)
}

# What differs from one answer to the next.
VOLATILE = [
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "a uuid"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "a time"),
    (r'"response_time_ms": \d+', '"response_time_ms": 0'),
    (r"in \d+ ms", "in 0 ms"),
]


def test_nothing_generated_is_stale(capsys: pytest.CaptureFixture[str]) -> None:
    """`make docs` would change nothing."""
    stale = generate_docs.main(["--check"])

    assert (stale, capsys.readouterr().err) == (0, "")


def test_every_setting_is_in_the_table_once() -> None:
    """No setting falls between two sections, neither of ours nor of a vendor's."""
    listed = re.findall(rf"^\| `({PREFIX}[\w<>]+)`", generate_docs.settings_table(), re.MULTILINE)

    assert listed == [
        *(PREFIX + name.upper() for name in Settings.model_fields if name != "vendors"),
        *(f"{PREFIX}<VENDOR>_{name.upper()}" for name in VendorSettings.model_fields),
    ]


def test_a_stale_page_is_named_and_then_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--check writes nothing and exits 1; without it only what lies between the markers changes."""
    fresh = generate_docs.PAGE.read_text(encoding="utf-8")
    page = tmp_path / "configuration.md"
    stale = fresh.replace("`redis://127.0.0.1:6379/0` |", "`redis://elsewhere` |")
    page.write_text(stale, encoding="utf-8")

    assert generate_docs.main(["--check"], page) == 1
    assert "docs/configuration.md" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == stale
    assert generate_docs.main([], page) == 0
    assert page.read_text(encoding="utf-8") == fresh


def test_a_page_without_its_markers_is_not_overwritten() -> None:
    """Rather no table than a lost page."""
    with pytest.raises(ValueError, match="must hold the lines"):
        generate_docs.with_settings("# Only prose")


@pytest.fixture
def service() -> Service:
    """A service as the page describes it: openai has a key, the mock is switched off."""
    service = Service()
    service.provider.default_model = OpenAIProvider.default_model
    service.unconfigured.default_model = "mock-1"
    return service


def accepted(service: Service) -> str:
    """The queue id of the page's request, accepted for later."""
    return service.queue(**EXAMPLES["request"])


def result(service: Service) -> Any:
    return service.post(**EXAMPLES["request"]).json


def polled_result(service: Service) -> Any:
    queue_id = accepted(service)
    service.decide(queue_id)
    return service.get(f"/api/v1/results/{queue_id}").json


def accepted_answer(service: Service) -> Any:
    service.open_circuit()
    return service.post(**EXAMPLES["request"]).json


def status_queued(service: Service) -> Any:
    return service.get(f"/api/v1/status/{accepted(service)}").json


def status_failed(service: Service) -> Any:
    queue_id = accepted(service)
    decision = service.decide(queue_id, ProviderTimeout("openai gave no complete answer in time."))
    service.ledger.mark_delivered(decision)
    return service.get(f"/api/v1/status/{queue_id}").json


def bad_request(service: Service) -> Any:
    request = EXAMPLES["request"]
    overrides = request["llm_config_overrides"] | {"temperature_override": 2.5}
    return service.post(**request | {"llm_config_overrides": overrides}).json


def unavailable(service: Service) -> Any:
    service.ledger.away = True
    return service.post(**EXAMPLES["request"] | {"callback_topic": "grades.v1"}).json


def providers(service: Service) -> Any:
    service.open_circuit()
    service.admission.at_provider = ProviderLoad(
        running=0, waiting=12, held_models={"gpt-5.4-mini": 17.0}, slowed_models={"gpt-5.4-mini": 0.5}
    )
    return service.get("/api/v1/providers").json


def one_model(service: Service) -> Any:
    listed = service.get("/api/v1/models?provider=openai").json["models"]
    return {"models": [model for model in listed if model["is_default"]]}


def trial(service: Service) -> Any:
    return service.call("POST", "/api/v1/providers/openai/test").json


def trial_failed(service: Service) -> Any:
    service.provider.error = AuthenticationFailed(
        "openai does not accept the configured key, or not for this model.", details={"http_status": 401}
    )
    return trial(service)


def health(service: Service) -> Any:
    return service.get("/healthz").json


def health_degraded(service: Service) -> Any:
    service.ledger.away = True
    return health(service)


ANSWERS: list[tuple[str, Callable[[Service], Any]]] = [
    ("result", result),
    ("result", polled_result),
    ("accepted", accepted_answer),
    ("status-queued", status_queued),
    ("status-failed", status_failed),
    ("bad-request", bad_request),
    ("unavailable", unavailable),
    ("providers", providers),
    ("models", one_model),
    ("trial", trial),
    ("trial-failed", trial_failed),
    ("health", health),
    ("health-degraded", health_degraded),
]


def lasting(answer: Any) -> str:
    """An answer without what differs from one to the next."""
    text = json.dumps(answer, sort_keys=True)
    for pattern, constant in VOLATILE:
        text = re.sub(pattern, constant, text)
    return text


def test_every_example_is_checked() -> None:
    """An example that is added to the page needs its answer here."""
    assert set(EXAMPLES) - {"request"} == {name for name, _ in ANSWERS}
    assert API.count("```json") == len(EXAMPLES)


@pytest.mark.parametrize(("name", "answer"), ANSWERS)
def test_an_example_is_what_the_service_answers(service: Service, name: str, answer: Callable[[Service], Any]) -> None:
    """Field by field, but for ids, times and durations."""
    assert lasting(answer(service)) == lasting(EXAMPLES[name])


def leaves(error: type[ServiceError]) -> Iterator[type[ServiceError]]:
    """An error of the tree and all below it."""
    yield error
    for below in error.__subclasses__():
        yield from leaves(below)


@pytest.mark.parametrize("error", [*leaves(RequestRejected), *leaves(NotAcceptedNow), *leaves(ProviderError)])
def test_every_error_of_a_post_is_in_the_table(error: type[ServiceError]) -> None:
    """A client's author finds each status with each of its codes in one place."""
    rows = [line for line in API.splitlines() if re.match(rf"\| (\d+, )*{error.http_status}\b[^|]*\| `", line)]

    assert any(f"`{error.error_code}`" in row for row in rows)


@pytest.fixture
def address(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The service on a port of loopback, since the page's client knows nothing else."""
    monkeypatch.setenv("no_proxy", HOST)
    server = make_server(HOST, 0, service.app, request_handler=QuietHandler)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    yield f"http://{HOST}:{server.server_port}"
    server.shutdown()
    serving.join()
    server.server_close()


class QuietHandler(WSGIRequestHandler):
    """Keeps its lines out of the tests' output."""

    def log_request(self, *_: object) -> None:
        pass


def test_the_client_of_the_page_works(service: Service, address: str) -> None:
    """It gets its answer at once, and later, through a moment in which the ledger is away."""
    (code,) = re.findall(r"```python\n(.*?)```", API, re.DOTALL)
    page: dict[str, Any] = {}
    exec(code, page)  # noqa: S102 The page's own example.
    compare = page["compare"]
    at_once = compare(address, EXAMPLES["request"])
    pauses = iter([lose_ledger, finish_first])
    page["time"] = SimpleNamespace(sleep=lambda _: next(pauses)(service))
    service.open_circuit()
    later = compare(address, EXAMPLES["request"])

    assert lasting(later) == lasting(at_once) == lasting(EXAMPLES["result"])


def lose_ledger(service: Service) -> None:
    """Redis goes away."""
    service.ledger.away = True


def finish_first(service: Service) -> None:
    """The ledger is back, and a worker has finished the one request that waits."""
    service.ledger.away = False
    service.decide(service.dispatcher.messages[0])


def test_the_import_table_names_every_module() -> None:
    """Whoever adds one says where it stands."""
    _, _, rest = (DOCS / "architecture.md").read_text(encoding="utf-8").partition("\n## Who may import whom\n")
    named = set(re.findall(r"`(\w+)", rest.partition("\n## ")[0]))
    package = DOCS.parent / "llm_provider"
    modules = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}

    assert modules - {"__init__"} <= named


def test_the_page_names_every_provider() -> None:
    """As the contract spells them."""
    row = next(line for line in API.splitlines() if "provider_override` |" in line)

    assert all(f"`{provider}`" in row for provider in LLMProviderType)
