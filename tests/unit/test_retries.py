"""The schedule of calls made again: what is repeated, when, and how a vendor's wish counts."""

import pytest

from contracts.events.llm_provider_events import TokenUsage
from llm_provider.errors import (
    AnswerLost,
    AuthenticationFailed,
    CallRefused,
    InvalidAnswer,
    ProviderBusy,
    ProviderError,
    ProviderOverloaded,
    ProviderServerError,
    ProviderTimeout,
    ProviderUnreachable,
    QuotaExceeded,
    RateLimited,
)
from llm_provider.retries import JITTER, RetrySchedule

REPEATED = [ProviderBusy, ProviderOverloaded, ProviderServerError, ProviderUnreachable, RateLimited]
UNANSWERED = [AnswerLost, ProviderTimeout]
FINAL = [AuthenticationFailed, CallRefused, InvalidAnswer, QuotaExceeded, ProviderError]


def schedule(*, drawn: float = 0.5, resend: bool = False) -> RetrySchedule:
    """Three waits; `drawn` is what chance says each time, and a half is no jitter."""
    return RetrySchedule(waits=(1.0, 4.0, 9.0), resend_unanswered_calls=resend, random=lambda: drawn)


@pytest.mark.parametrize("failure", REPEATED)
def test_what_may_pass_is_tried_again(failure: type[ProviderError]) -> None:
    """After the schedule's waits, one after the other, and as often as there are some."""
    waits = [schedule().wait_after(failure("no"), failures=count) for count in (1, 2, 3, 4)]

    assert waits == [1.0, 4.0, 9.0, None]


def test_what_a_limit_turns_away_is_asked_again_more_often() -> None:
    """The last wait repeats, up to as many refusals as there may be; what the vendor asks for counts here, too."""
    patient = RetrySchedule(waits=(1.0, 4.0), refusals=5, random=lambda: 0.5)
    waits = [patient.wait_after_refusal(RateLimited("no"), refusals=count) for count in range(1, 7)]

    assert waits == [1.0, 4.0, 4.0, 4.0, 4.0, None]
    assert patient.wait_after_refusal(RateLimited("no", retry_after_seconds=30), refusals=1) == pytest.approx(31.5)


def test_without_waits_nothing_is_made_again() -> None:
    """Neither what failed nor what a limit turned away, whatever the vendor says of waiting."""
    once = RetrySchedule(waits=())

    assert once.wait_after(ProviderOverloaded("no"), failures=1) is None
    assert once.wait_after_refusal(RateLimited("no", retry_after_seconds=3), refusals=1) is None


@pytest.mark.parametrize("failure", FINAL)
def test_what_would_fail_again_is_final(failure: type[ProviderError]) -> None:
    """A key, a quota or an answer does not become better by asking."""
    assert schedule(resend=True).wait_after(failure("no"), failures=1) is None


@pytest.mark.parametrize("failure", UNANSWERED)
def test_what_may_have_been_billed_is_sent_again_only_on_demand(failure: type[ProviderError]) -> None:
    """A second call could be a second bill."""
    assert schedule().wait_after(failure("no"), failures=1) is None
    assert schedule(resend=True).wait_after(failure("no"), failures=1) == 1.0


def test_what_the_vendor_has_counted_is_sent_again_only_on_demand() -> None:
    """An error in the middle of an answer is on the bill, whatever its class; some vendors tell only its price."""
    nine = TokenUsage(prompt_tokens=9, completion_tokens=0, total_tokens=9)
    for usage, cost_usd in ((nine, 0.1), (nine, 0.0), (TokenUsage(), 0.01)):
        counted = ProviderServerError("no").billed(usage, cost_usd)
        assert schedule().wait_after(counted, failures=1) is None
        assert schedule(resend=True).wait_after(counted, failures=1) == 1.0


@pytest.mark.parametrize(("drawn", "wait"), [(0.0, 1 - JITTER), (1.0, 1 + JITTER)])
def test_jitter_spreads_the_waits(drawn: float, wait: float) -> None:
    """Up to a fifth earlier or later."""
    assert schedule(drawn=drawn).wait_after(RateLimited("no"), failures=1) == pytest.approx(wait)


@pytest.mark.parametrize("drawn", [0.0, 0.5, 1.0])
def test_a_vendor_is_never_asked_earlier_than_it_says(drawn: float) -> None:
    """Its Retry-After counts when it is longer than the schedule's wait; chance only adds to it."""
    wait = schedule(drawn=drawn).wait_after(RateLimited("no", retry_after_seconds=30), failures=1)

    assert wait is not None
    assert 30 <= wait <= 33


def test_a_shorter_wish_leaves_the_schedule_alone() -> None:
    """A vendor that says 0 is not hammered."""
    assert schedule().wait_after(RateLimited("no", retry_after_seconds=0), failures=2) == 4.0
