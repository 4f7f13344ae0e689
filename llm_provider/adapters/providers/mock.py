"""A provider without a vendor: for demonstrations, tests and a first day without keys."""

import hashlib
import math
import re
import time

from contracts.enums import EssayWinner, LLMProviderType
from contracts.errors import ErrorCode
from contracts.events.llm_provider_events import TokenUsage
from llm_provider.config import Settings
from llm_provider.errors import (
    AuthenticationFailed,
    CallRefused,
    InvalidAnswer,
    ProviderError,
    ProviderOverloaded,
    ProviderServerError,
    ProviderTimeout,
    ProviderUnreachable,
    QuotaExceeded,
    RateLimited,
)
from llm_provider.internal_models import (
    CHARS_PER_TOKEN,
    ComparisonTexts,
    Prompt,
    ProviderAnswer,
    ProviderCall,
    Verdict,
)

_CONNECTIVES = re.compile(
    r"\b(also|although|as a result|because|but|consequently|despite|finally|first|for example|for instance"
    r"|furthermore|hence|however|if|in addition|in conclusion|in contrast|instead|moreover|nevertheless"
    r"|on the other hand|second|since|so|therefore|though|thus|unless|when|whereas|which|while|yet)\b",
    re.IGNORECASE,
)

_FAILURES: dict[ErrorCode, type[ProviderError]] = {
    failure.error_code: failure
    for failure in (
        AuthenticationFailed,
        CallRefused,
        InvalidAnswer,
        ProviderOverloaded,
        ProviderServerError,
        ProviderTimeout,
        ProviderUnreachable,
        QuotaExceeded,
        RateLimited,
    )
}


class MockProvider:
    """LLMProviderProtocol without a network: the same essays and seed give the same verdict in every process.

    Whether a call fails is drawn from the seed and all its texts: the error rate holds over different
    requests, and one that fails does so each time.
    """

    name = LLMProviderType.MOCK
    default_model = "mock-1"

    def __init__(self, settings: Settings) -> None:
        self._enabled = settings.mock_enabled
        self._latency_seconds = settings.mock_latency_ms / 1000
        self._error_rate = settings.mock_error_rate
        self._failures = [_FAILURES[code] for code in settings.mock_error_codes]
        self._seed = settings.mock_seed

    def is_configured(self) -> bool:
        return self._enabled

    def compare(self, call: ProviderCall, *, timeout_seconds: float) -> ProviderAnswer:
        self._take_time(timeout_seconds)
        self._fail_at_times(call.texts)
        verdict = self._judge(call.texts)
        return ProviderAnswer(verdict=verdict, token_usage=_token_usage(call.prompt, verdict), cost_usd=0.0)

    def close(self) -> None:
        pass

    def _take_time(self, timeout_seconds: float) -> None:
        time.sleep(max(0.0, min(self._latency_seconds, timeout_seconds)))
        if self._latency_seconds >= timeout_seconds:
            raise ProviderTimeout("The mock gave no complete answer in time.")

    def _fail_at_times(self, texts: ComparisonTexts) -> None:
        every_text = (texts.user_prompt, texts.essay_a, texts.essay_b, texts.system_prompt or "")
        if self._draw("fails", *every_text) < self._error_rate:
            which = int(self._draw("failure", *every_text) * len(self._failures))
            raise self._failures[which]("The mock fails now and then, as it was told to.")

    def _judge(self, texts: ComparisonTexts) -> Verdict:
        lead = self._quality(texts.essay_a) - self._quality(texts.essay_b)
        if lead == 0:
            lead = self._draw("tie", texts.essay_a) - 0.5
            return _verdict(math.copysign(1e-9, lead), texts)
        return _verdict(lead, texts)

    def _quality(self, essay: str) -> float:
        """Length, with diminishing returns, then how the thoughts are connected, then a little taste."""
        return math.log1p(len(essay.split())) + 6 * _connectedness(essay) + 0.1 * self._draw("taste", essay)

    def _draw(self, purpose: str, *texts: str) -> float:
        """A number in [0, 1) that depends on nothing but the seed, the purpose and the texts."""
        digest = hashlib.sha256(repr((self._seed, purpose, texts)).encode()).digest()
        return int.from_bytes(digest[:6]) / 2**48


def _connectedness(essay: str) -> float:
    """Connectives per word; capped, so that a list of them does not make an essay."""
    words = len(essay.split())
    return min(len(_CONNECTIVES.findall(essay)) / words, 0.1) if words else 0.0


def _verdict(lead: float, texts: ComparisonTexts) -> Verdict:
    winner, better, worse = EssayWinner.ESSAY_A, texts.essay_a, texts.essay_b
    if lead < 0:
        winner, better, worse = EssayWinner.ESSAY_B, texts.essay_b, texts.essay_a
    return Verdict(
        winner=winner,
        justification=_justification(winner, better, worse, abs(lead)),
        confidence=round(1 - math.exp(-2 * abs(lead)), 4),
    )


def _justification(winner: EssayWinner, better: str, worse: str, lead: float) -> str:
    reasons = []
    if len(better.split()) > len(worse.split()):
        reasons.append("develops its argument further")
    if _connectedness(better) > _connectedness(worse):
        reasons.append("connects its thoughts more clearly")
    strength = "clearly" if lead > 0.5 else "somewhat" if lead > 0.1 else "barely"
    why = " and ".join(reasons) or "reads a little more smoothly"
    return f"{winner} is {strength} the better one: it {why}."


def _token_usage(prompt: Prompt, verdict: Verdict) -> TokenUsage:
    """An estimate from the characters of what a vendor would have been sent and would have answered."""
    asked = math.ceil((len(prompt.system) + len(prompt.user)) / CHARS_PER_TOKEN)
    answered = math.ceil(len(verdict.model_dump_json()) / CHARS_PER_TOKEN)
    return TokenUsage(prompt_tokens=asked, completion_tokens=answered, total_tokens=asked + answered)
