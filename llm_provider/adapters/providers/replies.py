"""What every vendor's answer comes down to, and the one way from there to a ProviderAnswer."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from pydantic import JsonValue

from contracts.enums import LLMProviderType
from contracts.events.llm_provider_events import TokenUsage
from llm_provider.adapters.pricing import price
from llm_provider.errors import InvalidAnswer, InvalidVerdict, NoVerdict, ProviderError
from llm_provider.internal_models import Cost, ProviderAnswer, TokenCounts, Verdict
from llm_provider.verdicts import parse_verdict

MAX_TOKENS = 1_000_000_000  # More than any model reads; a greater count is a defect of the vendor's.


@dataclass(frozen=True)
class Reply:
    """A vendor's answer, told apart before any JSON is parsed: `texts`, or `problem`, why there is none to parse."""

    # The parts in which the model's text came.
    texts: tuple[str, ...] = field(repr=False)
    problem: str | None
    counts: TokenCounts
    # What changes the price list's figures, in genai-prices' words, such as {"service_tier": "flex"}.
    price_context: Mapping[str, str] = field(default_factory=dict)
    # What they are to be multiplied with besides.
    price_factor: float = 1.0
    # US dollars, when the vendor itself says what it charged.
    charged_usd: float | None = None
    # What went wrong at the vendor, told with the status of a success.
    failure: ProviderError | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


def to_answer(
    reply: Reply, *, provider: LLMProviderType, model: str, dropped_parameters: Sequence[str] = ()
) -> ProviderAnswer:
    """Validate and price it; a ProviderError carries what the vendor counted, and bills, all the same."""
    cost = price(
        provider,
        model,
        reply.counts,
        reply.price_context,
        factor=reply.price_factor,
        charged_usd=reply.charged_usd,
    )
    usage = _token_usage(reply.counts)
    # A call that failed and was not counted is taken to cost nothing, unless the work may have been done.
    is_free = reply.failure is not None and reply.counts.is_empty and not reply.failure.may_be_billed
    notes = notes_on(dropped_parameters, None if is_free else cost)
    try:
        if reply.failure is not None:
            raise reply.failure
        if reply.problem is not None:
            # What has counted nothing is no model, but whatever stands before it.
            raise (InvalidAnswer if reply.counts.is_empty else NoVerdict)(reply.problem)
        verdict = _verdict(reply)
    except ProviderError as error:
        raise error.billed(usage, cost.usd).noted(notes) from None
    return ProviderAnswer(verdict=verdict, token_usage=usage, cost_usd=cost.usd, notes=notes)


def _verdict(reply: Reply) -> Verdict:
    """One verdict may be spread over several parts, or stand in the last one, behind what a model says about it."""
    try:
        return parse_verdict(reply.text)
    except InvalidVerdict as error:
        failure = error
    if len(reply.texts) > 1:
        with suppress(InvalidVerdict):
            return parse_verdict(reply.texts[-1])
    raise failure


def notes_on(dropped_parameters: Sequence[str], cost: Cost | None = None) -> dict[str, JsonValue]:
    """What the caller should know beside the answer, or the error."""
    notes: dict[str, JsonValue] = {}
    if dropped_parameters:
        notes["dropped_parameters"] = list(dropped_parameters)
    if cost is not None and cost.note:
        notes["cost_note"] = cost.note
    return notes


def count(holder: object, name: str) -> int:
    """A count of tokens off a vendor's object, or 0 when it is missing or makes no sense."""
    value = getattr(holder, name, None)
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return value if 0 <= value <= MAX_TOKENS else 0


def _token_usage(counts: TokenCounts) -> TokenUsage:
    """The vendor's counts; the total is theirs added up, so that the three never disagree."""
    return TokenUsage(
        prompt_tokens=counts.prompt,
        completion_tokens=counts.completion,
        total_tokens=counts.prompt + counts.completion,
    )
