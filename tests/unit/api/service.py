"""The web application over parts in memory, for tests of what a caller sees."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from werkzeug.datastructures import Headers

from contracts.enums import EssayWinner, LLMProviderType
from contracts.events.llm_provider_events import TokenUsage
from llm_provider import logs, outcomes
from llm_provider.adapters.memory_ledger import MemoryLedger
from llm_provider.adapters.memory_queue import MemoryDispatcher, MemoryResultStore
from llm_provider.adapters.pricing import price_per_million
from llm_provider.admission import BreakerState, BreakerView
from llm_provider.api.app import WebParts, create_app
from llm_provider.bootstrap import ledger_timing
from llm_provider.config import Settings
from llm_provider.errors import ComparisonError
from llm_provider.gatekeeper import Gatekeeper
from llm_provider.internal_models import ProviderAnswer, ProviderCall, Verdict
from llm_provider.ledger import Decision
from llm_provider.model_manifest import load_manifest
from llm_provider.orchestrator import LLMOrchestratorImpl, RequestPolicy
from llm_provider.provider_caller import ProviderCaller
from llm_provider.queue_models import Outcome, utc_now
from llm_provider.sync_threads import SyncThreads
from tests.unit.builders import PROMPTS, Bell, ScriptedAdmission, a_policy, a_prompt

PROMPT = "Judge them by the prompt-4711 rubric."
ESSAY_A = "The first essay, marked essay-4712, argues for trains."
ESSAY_B = "The second essay, marked essay-4713, argues for ships."
SECRETS = ("prompt-4711", "essay-4712", "essay-4713")

ANSWER = ProviderAnswer(
    verdict=Verdict(winner=EssayWinner.ESSAY_B, justification="It argues more closely.", confidence=0.75),
    token_usage=TokenUsage(prompt_tokens=900, completion_tokens=40, total_tokens=940),
    cost_usd=0.0021,
)


def body(**fields: Any) -> dict[str, Any]:
    """The body of a comparison as an existing client sends it, with some fields of it changed."""
    overrides = {
        "provider_override": "openai",
        "model_override": None,
        "temperature_override": None,
        "system_prompt_override": None,
        "max_tokens_override": None,
    }
    texts = {"user_prompt": PROMPT, "essay_a": ESSAY_A, "essay_b": ESSAY_B}
    return texts | {"llm_config_overrides": overrides, "callback_topic": None} | fields


@dataclass
class ScriptedProvider:
    """LLMProviderProtocol that answers, or fails, as it is told to; a closed `gate` holds its calls up."""

    name: LLMProviderType = LLMProviderType.OPENAI
    default_model: str = "scripted-1"
    configured: bool = True
    answer: ProviderAnswer = ANSWER
    error: Exception | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    asked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    calls: list[ProviderCall] = field(default_factory=list)
    timeouts: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def is_configured(self) -> bool:
        return self.configured

    def compare(self, call: ProviderCall, *, timeout_seconds: float) -> ProviderAnswer:
        self.calls.append(call)
        self.timeouts.append(timeout_seconds)
        self.asked.release()
        assert self.gate.wait(timeout_seconds)
        if self.error is not None:
            raise self.error
        return self.answer

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Answer:
    """What came back; `json` is the body as read by a client, or None when it is no JSON."""

    status_code: int
    headers: Headers
    mimetype: str | None
    text: str
    json: Any


class Service:
    """One web process in memory; keyword arguments are settings."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.ledger = MemoryLedger(ledger_timing(self.settings))
        self.dispatcher = MemoryDispatcher()
        self.results = MemoryResultStore()
        self.provider = ScriptedProvider()
        self.unconfigured = ScriptedProvider(name=LLMProviderType.MOCK, configured=False)
        providers = {provider.name: provider for provider in (self.unconfigured, self.provider)}
        self.admission = ScriptedAdmission()
        policy = a_policy(timeout_seconds=self.settings.provider_timeout_seconds)
        gatekeeper = Gatekeeper(self.admission, Bell(), lease_seconds=60)
        self.caller = ProviderCaller(providers, gatekeeper, policy, prompts=PROMPTS, sleep=lambda seconds: None)
        self.sync_threads = SyncThreads(self.settings.sync_threads)
        self.orchestrator = LLMOrchestratorImpl(
            self.ledger, self.dispatcher, self.caller, self.sync_threads, self._policy()
        )
        parts = WebParts(
            self.settings,
            self.orchestrator,
            self.caller,
            self.sync_threads,
            self.ledger,
            self.results,
            load_manifest(),
            price_per_million,
        )
        self.app = create_app(parts)

    def open_circuit(self) -> None:
        """The provider has failed again and again."""
        self.admission.view = BreakerView(BreakerState.OPEN, failures=3, retry_in_seconds=61.04)

    def _policy(self) -> RequestPolicy:
        return RequestPolicy(
            default_provider=self.settings.default_provider,
            allowed_callback_topics=self.settings.allowed_callback_topics,
            sync_responses=self.settings.sync_responses,
            deadline_seconds=self.settings.request_deadline_seconds,
            allow_empty_essays=self.settings.allow_empty_essays,
        )

    def post(self, **fields: Any) -> Answer:
        """Post a comparison whose body differs in these fields from an ordinary one."""
        return self.post_raw(json.dumps(body(**fields)).encode())

    def post_raw(self, raw: bytes, content_type: str = "application/json", **options: Any) -> Answer:
        """Post these bytes as a comparison."""
        return self.call("POST", "/api/v1/comparison", data=raw, content_type=content_type, **options)

    def get(self, path: str) -> Answer:
        return self.call("GET", path)

    def call(self, method: str, path: str, **options: Any) -> Answer:
        response = self.app.test_client().open(path, method=method, **options)
        json_body = response.json if response.is_json else None
        return Answer(response.status_code, response.headers, response.mimetype, response.text, json_body)

    def queue(self, **fields: Any) -> str:
        """Have a comparison accepted for later; its queue id."""
        self.open_circuit()
        response = self.post(**fields)
        assert response.status_code == 202, response.text
        queue_id: str = response.json["queue_id"]
        return queue_id

    def decide(self, queue_id: str, error: ComparisonError | None = None) -> Decision:
        """Do the worker's part up to the commit."""
        texts = self.ledger.claim(queue_id, "a worker").texts
        now = utc_now()
        if error is None:
            notes = {"prompt_sha256": a_prompt(texts).sha256} if texts else {}
            answer = ANSWER.model_copy(update={"notes": notes})
            outcome = outcomes.completed(queue_id, answer, response_time_ms=812, at=now)
        else:
            outcome = outcomes.failed(queue_id, error, response_time_ms=812, at=now)
        decision = self.ledger.commit(queue_id, self._as_stored(queue_id, outcome))
        assert decision is not None
        return decision

    def _as_stored(self, queue_id: str, outcome: Outcome) -> Outcome:
        view = self.ledger.view(queue_id)
        assert view is not None
        return outcomes.with_notes_apart(outcome, view.request)

    @property
    def accepted(self) -> int:
        """How many requests were ever accepted into the ledger."""
        return self.ledger.figures().totals.get("accepted", 0)


@contextmanager
def captured_logs() -> Iterator[io.StringIO]:
    """Everything the service logs, as it would be written, DEBUG included."""
    text, root = io.StringIO(), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    logs.configure("DEBUG")
    written = logging.StreamHandler(text)
    written.setFormatter(root.handlers[0].formatter)
    root.handlers = [written]
    try:
        yield text
    finally:
        root.handlers = handlers
        root.setLevel(level)
