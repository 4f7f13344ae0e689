"""How patiently a provider is called: what is waited for where, what is tried again, and what admission is told."""

import time
from typing import Any

import pytest

from contracts.enums import LLMProviderType
from contracts.events.llm_provider_events import TokenUsage
from llm_provider import call_attempts
from llm_provider.admission import Admission, BreakerState, BreakerView, CallHealth, Obstacle
from llm_provider.api_models import LLMConfigOverrides
from llm_provider.call_attempts import SHORT_WAIT_SECONDS, CallLater
from llm_provider.errors import (
    AnswerLost,
    AuthenticationFailed,
    CallRefused,
    CallUnsendable,
    CircuitOpen,
    HeldBack,
    InvalidAnswer,
    InvalidVerdict,
    KeyUnusable,
    LimitReached,
    NotSentInTime,
    NoVerdict,
    ProviderBusy,
    ProviderError,
    ProviderOverloaded,
    ProviderServerError,
    ProviderTimeout,
    ProviderUnreachable,
    QuotaExceeded,
    RateLimited,
    RequestExpired,
)
from llm_provider.gatekeeper import Gatekeeper
from llm_provider.internal_models import CallProgress
from llm_provider.provider_caller import ProviderCaller
from llm_provider.queue_models import Outcome, QueuedRequest
from llm_provider.retries import RetrySchedule
from tests.unit.builders import (
    PROMPTS,
    Bell,
    ScriptedAdmission,
    ScriptedProvider,
    a_policy,
    a_prompt,
    a_request,
    some_texts,
)

WORKER = CallProgress()
OPEN = Admission(Obstacle.CIRCUIT_OPEN, wait_seconds=90)


class Caller:
    """A provider with a vendor behind it, called through everything that guards it; time passes only in sleeps."""

    def __init__(self, **policy: Any) -> None:
        self.provider = ScriptedProvider(name=LLMProviderType.OPENAI, default_model="gpt")
        self.admission = ScriptedAdmission()
        self.slept: list[float] = []
        self.caller = ProviderCaller(
            {LLMProviderType.OPENAI: self.provider},
            Gatekeeper(self.admission, Bell(), lease_seconds=60),
            a_policy(**policy),
            prompts=PROMPTS,
            sleep=self.slept.append,
        )
        self.request = a_request(provider="openai", model="gpt")

    def slow_down_admission(self, *, after: int, seconds: float) -> None:
        """The admission after so many others takes that long, and then admits."""
        ask = self.admission.ask

        def slow(*args: Any, **about: Any) -> Admission:
            if len(self.admission.asked) >= after:
                time.sleep(seconds)
            return ask(*args, **about)

        self.admission.ask = slow  # type: ignore[method-assign]

    def compare(
        self, *, seconds_left: float = 3600, progress: CallProgress | None = None, request: QueuedRequest | None = None
    ) -> Outcome:
        return self.caller.compare(request or self.request, some_texts(), seconds_left, progress=progress)

    @property
    def calls(self) -> int:
        return len(self.provider.calls)

    @property
    def healths(self) -> list[CallHealth]:
        return [told["health"] for told in self.admission.settled]


def test_a_good_call_is_asked_for_made_and_settled() -> None:
    """Once each, in the name of the request, and nothing is slept."""
    caller = Caller()

    outcome = caller.compare(progress=WORKER)

    asked = caller.admission.asked[0]
    assert (asked["call_id"], asked["target"].model, asked["has_turn"]) == (caller.request.queue_id, "gpt", False)
    assert outcome.verdict is not None
    assert (caller.calls, caller.healths, caller.slept) == (1, [CallHealth.GOOD], [])


@pytest.mark.parametrize("alias", ["models/gpt", "gpt:nitro", "gpt-2026-03-17", "gpt-20260317:floor", "gpt-latest"])
def test_a_model_is_admitted_under_one_name(alias: str) -> None:
    """No spelling of it has limits and holds of its own; the vendor is asked for what the caller named."""
    caller = Caller()
    caller.request = a_request(provider="openai", model=alias)

    caller.compare()

    assert caller.admission.asked[0]["target"].model == "gpt"
    assert caller.provider.calls[0][0].model == alias


def test_what_was_sent_is_noted_as_a_digest() -> None:
    """The SHA-256 of both messages as they went out, among the metadata."""
    caller = Caller()

    outcome = caller.compare()

    sent = caller.provider.calls[0][0].prompt
    assert outcome.notes["prompt_sha256"] == sent.sha256 == a_prompt(some_texts()).sha256
    assert len(sent.sha256) == 64


def test_the_digest_of_a_failed_call_is_noted_too() -> None:
    """With the time of that call alone."""
    caller = Caller()
    caller.provider.answer = CallRefused("no")
    caller.provider.on_call = lambda: time.sleep(0.02)

    with pytest.raises(CallRefused) as failure:
        caller.compare()

    assert failure.value.notes == {"prompt_sha256": a_prompt(some_texts()).sha256}
    assert 20 <= failure.value.response_time_ms < 1000


@pytest.mark.parametrize(
    ("error", "was_sent"),
    [
        (ProviderUnreachable("no"), False),
        (NotSentInTime("no"), False),
        (CallUnsendable("no"), False),
        (AnswerLost("no"), True),
        (CallRefused("no"), True),
    ],
)
def test_what_never_went_out_has_no_digest(error: ProviderError, was_sent: bool) -> None:
    """Without a connection nothing was sent; over one that broke it may have been."""
    caller = Caller(retries=RetrySchedule(waits=()))
    caller.provider.answer = error

    with pytest.raises(type(error)) as failure:
        caller.compare()

    assert bool(failure.value.notes) == was_sent


def test_a_short_wait_is_slept_in_the_thread() -> None:
    """The second call comes after the first wait of the schedule."""
    caller = Caller()
    caller.provider.before = [ProviderOverloaded("no")]

    assert caller.compare(progress=WORKER).verdict is not None
    assert (caller.calls, caller.slept) == (2, [1.0])
    assert caller.healths == [CallHealth.BAD, CallHealth.GOOD]


def test_a_long_wait_gives_the_thread_back() -> None:
    """With how many calls have failed so far, so that the next claim goes on where this one ended."""
    caller = Caller()
    caller.provider.answer = ProviderOverloaded("no")

    with pytest.raises(CallLater) as later:
        caller.compare(progress=WORKER)

    assert (later.value.wait_seconds, later.value.progress.failures) == (5.0, 2)


def test_a_short_wait_after_a_long_call_gives_the_thread_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a worker that is to stop would wait for as many long calls as there are tries."""
    monkeypatch.setattr(call_attempts, "SHORT_RUN_SECONDS", 1.1)
    caller = Caller()
    caller.provider.answer = ProviderOverloaded("no")
    caller.provider.on_call = lambda: time.sleep(0.2)

    with pytest.raises(CallLater) as later:
        caller.compare(progress=WORKER)

    assert (later.value.wait_seconds, later.value.progress.failures) == (1.0, 1)
    assert (caller.calls, caller.slept) == (1, [])


def test_all_calls_of_a_synchronous_request_take_what_one_may() -> None:
    """Its caller and a rollout wait for a provider's timeout, not for one at each try."""
    caller = Caller(timeout_seconds=40)
    caller.provider.before = [ProviderOverloaded("no")]
    caller.provider.on_call = lambda: time.sleep(0.2)

    caller.compare()

    first, second = (timeout for _, timeout in caller.provider.calls)
    assert first == 40
    assert second <= 39.8


def test_a_synchronous_request_without_time_for_another_call_ends_with_the_first_error() -> None:
    """The wait before it would end when its calls must have ended."""
    caller = Caller(timeout_seconds=1.0)
    caller.provider.before = [ProviderOverloaded("no")]

    with pytest.raises(ProviderOverloaded):
        caller.compare()

    assert (caller.calls, caller.slept) == (1, [])


def test_the_schedule_goes_on_after_a_long_wait() -> None:
    """Failures before it count: after the last wait the error stands."""
    caller = Caller()
    caller.provider.answer = ProviderOverloaded("no")

    with pytest.raises(CallLater) as later:
        caller.compare(progress=CallProgress(failures=2))
    with pytest.raises(ProviderOverloaded):
        caller.compare(progress=CallProgress(failures=3))

    assert later.value.wait_seconds == 30.0
    assert caller.calls == 2


def test_a_synchronous_call_does_not_wait_for_long() -> None:
    """Its caller is on the line: short waits only, then the vendor's own error."""
    caller = Caller()
    caller.provider.answer = RateLimited("no", retry_after_seconds=17)

    with pytest.raises(RateLimited) as failure:
        caller.compare()

    assert failure.value.retry_after_seconds == 17
    assert (caller.calls, caller.slept) == (1, [])


def test_what_may_be_billed_is_not_sent_again() -> None:
    """Neither a timeout nor a broken connection, unless the setting says so."""
    caller = Caller()
    for error in (ProviderTimeout("no"), AnswerLost("no")):
        caller.provider.before = [error]
        with pytest.raises(type(error)):
            caller.compare(progress=WORKER)

    assert caller.calls == 2


def test_no_wait_goes_beyond_the_deadline() -> None:
    """A vendor that asks for more than is left ends it now, with its own Retry-After for the caller."""
    caller = Caller()
    caller.provider.answer = RateLimited("no", retry_after_seconds=60)

    with pytest.raises(RateLimited) as failure:
        caller.compare(seconds_left=50, progress=WORKER)

    assert failure.value.retry_after_seconds == 60


@pytest.mark.parametrize(("seconds_left", "calls"), [(0.5, 1), (60.0, 2)])
def test_a_call_that_would_be_cut_off_is_not_made_again(seconds_left: float, calls: int) -> None:
    """What took so long to fail takes as long to answer, and whoever is cut off may be billed."""
    caller = Caller(retries=RetrySchedule(waits=(0.001,)))
    caller.provider.answer = ProviderServerError("no")
    caller.provider.on_call = lambda: time.sleep(0.3)

    with pytest.raises(ProviderServerError):
        caller.compare(seconds_left=seconds_left)

    assert caller.calls == calls


@pytest.mark.parametrize("error", [RateLimited("no"), ProviderServerError("no")])
def test_who_is_to_be_called_again_has_had_its_turn(error: ProviderError) -> None:
    """Another one would come behind all turns that are given; what has really been called limits it all the same."""
    caller = Caller()
    caller.provider.before = [error]

    caller.compare(progress=WORKER)

    assert [(asked["has_turn"], asked["is_late"]) for asked in caller.admission.asked] == [
        (False, False),
        (True, False),
    ]


def test_a_call_may_take_what_is_left() -> None:
    """Its timeout is the shorter one of the provider's and the deadline's."""
    caller = Caller(timeout_seconds=40)

    caller.compare(seconds_left=10)
    caller.compare(seconds_left=100)

    assert [round(timeout, 1) for _, timeout in caller.provider.calls] == [10.0, 40]


def test_nothing_is_sent_past_the_deadline() -> None:
    """Not even when the last wait was one for admission; the place among the concurrent calls is given back."""
    caller = Caller()

    with pytest.raises(RequestExpired):
        caller.compare(seconds_left=0, progress=WORKER)

    assert caller.calls == 0


@pytest.mark.parametrize("obstacle", Obstacle)
def test_a_short_obstacle_is_waited_for_in_the_thread(obstacle: Obstacle) -> None:
    """Then admission is asked again, with the turn it has reserved."""
    caller = Caller()
    caller.admission.answers = [Admission(obstacle, wait_seconds=0.7, has_turn=True)]

    assert caller.compare().verdict is not None
    assert caller.slept == [0.7]
    assert [asked["has_turn"] for asked in caller.admission.asked] == [False, True]


@pytest.mark.parametrize("obstacle", Obstacle)
def test_a_long_obstacle_is_a_due_time(obstacle: Obstacle) -> None:
    """The request comes back with its turn; no call is made, and none is settled."""
    caller = Caller()
    caller.admission.answers = [Admission(obstacle, wait_seconds=90, has_turn=True)]

    with pytest.raises(CallLater) as later:
        caller.compare(progress=WORKER)

    assert (later.value.wait_seconds, later.value.progress) == (90, CallProgress(has_turn=True))
    assert (caller.calls, caller.healths, caller.admission.left) == (0, [], [])


def test_a_turn_that_was_reserved_is_claimed_with_the_next_claim() -> None:
    """Otherwise the request would stand in line twice."""
    caller = Caller()

    caller.compare(progress=CallProgress(has_turn=True))

    assert caller.admission.asked[0]["has_turn"]


def test_many_short_waits_are_a_long_one() -> None:
    """Who finds no place among the concurrent calls does not hold a thread for ever."""
    caller = Caller()
    caller.admission.answers = [Admission(Obstacle.CONCURRENCY, wait_seconds=0.9)] * 9

    with pytest.raises(CallLater) as later:
        caller.compare(progress=WORKER)

    assert later.value.wait_seconds == 0.9
    assert sum(caller.slept) <= SHORT_WAIT_SECONDS


@pytest.mark.parametrize(
    ("obstacle", "error"),
    [
        (Obstacle.CIRCUIT_OPEN, CircuitOpen),
        (Obstacle.VENDOR_HOLD, HeldBack),
        (Obstacle.RATE_LIMIT, LimitReached),
        (Obstacle.CONCURRENCY, LimitReached),
    ],
)
def test_an_obstacle_that_lasts_beyond_the_deadline_says_so(obstacle: Obstacle, error: type[Exception]) -> None:
    """With when it would end and whose limit it is, and with the place in the line given up."""
    caller = Caller()
    caller.admission.answers = [Admission(obstacle, wait_seconds=90)]

    with pytest.raises(error) as failure:
        caller.compare(seconds_left=60, progress=WORKER)

    assert getattr(failure.value, "retry_after_seconds", None) == 90
    assert ("this service" in str(failure.value)) == (error is LimitReached)
    assert caller.admission.left == [caller.request.queue_id]


def test_who_will_be_queued_keeps_its_turn() -> None:
    """A synchronous call that cannot wait for its place goes on from there in the queue."""
    caller = Caller()
    caller.admission.answers = [Admission(Obstacle.CONCURRENCY, wait_seconds=9, has_turn=True, is_late=True)]

    with pytest.raises(LimitReached) as late:
        caller.compare()

    assert (late.value.has_turn, late.value.is_late) == (True, True)
    assert caller.admission.left == []


@pytest.mark.parametrize("wait", [0.1, 60.0, 10_000.0])
def test_who_sleeps_until_it_is_called_needs_no_thread(wait: float) -> None:
    """However short or long it may take; at its deadline it is told, and until then nothing is lost by waiting."""
    caller = Caller()
    told = Admission(Obstacle.CONCURRENCY, wait_seconds=wait, has_turn=True, is_late=True, sleeps=True)
    caller.admission.answers = [told]

    with pytest.raises(CallLater) as later:
        caller.compare(seconds_left=600, progress=WORKER)

    assert (later.value.wait_seconds, later.value.sleeps) == (wait, True)
    assert later.value.progress == CallProgress(has_turn=True, is_late=True)
    assert (caller.slept, caller.admission.left) == ([], [])


def test_only_who_can_come_back_can_sleep() -> None:
    """A synchronous call has its caller on the line."""
    caller = Caller()

    caller.compare(progress=WORKER)
    caller.compare()

    assert [asked["can_sleep"] for asked in caller.admission.asked] == [True, False]


def test_who_was_late_for_its_turn_says_so() -> None:
    """Otherwise it would pass as if on time."""
    caller = Caller()

    caller.compare(progress=CallProgress(has_turn=True, is_late=True))

    asked = caller.admission.asked[0]
    assert (asked["has_turn"], asked["is_late"]) == (True, True)


def test_a_synchronous_call_reserves_no_distant_turn() -> None:
    """It will not come back for it; a queued one reserves up to its deadline."""
    caller = Caller()

    caller.compare(seconds_left=500)
    caller.compare(seconds_left=500, progress=WORKER)

    patience = [round(asked["patience_seconds"]) for asked in caller.admission.asked]
    assert patience == [SHORT_WAIT_SECONDS, 500]


def test_the_vendors_error_outlives_an_open_circuit() -> None:
    """A synchronous caller whose own failures opened the circuit hears what the vendor did."""
    caller = Caller()
    caller.provider.answer = ProviderServerError("broken")
    caller.admission.answers = [Admission(), OPEN]

    with pytest.raises(ProviderServerError):
        caller.compare()


def test_the_vendors_error_outlives_a_wait_without_a_thread() -> None:
    """All that is told of it, with the bill, should no further call be possible in time."""
    caller = Caller(retries=RetrySchedule(waits=(1.0,), resend_unanswered_calls=True))
    usage = TokenUsage(prompt_tokens=10, completion_tokens=5, total_tokens=15)
    error = RateLimited("no", retry_after_seconds=17, details={"http_status": 429})
    caller.provider.answer = error.billed(usage, 0.5)
    caller.provider.on_call = lambda: time.sleep(0.02)
    with pytest.raises(CallLater) as later:
        caller.compare(progress=WORKER)
    caller.admission.answers = [OPEN]

    with pytest.raises(RateLimited, match="no") as failure:
        caller.compare(seconds_left=60, progress=later.value.progress)

    told = failure.value
    assert (told.retry_after_seconds, told.details) == (17, {"http_status": 429})
    assert told.notes == {"prompt_sha256": a_prompt(some_texts()).sha256}
    assert 20 <= told.response_time_ms < 1000
    assert (told.token_usage, told.cost_usd) == (usage, 0.5)


def test_the_next_error_is_the_last_one() -> None:
    """What went before it is told no more."""
    caller = Caller()
    caller.provider.answer = ProviderOverloaded("no", retry_after_seconds=17)
    with pytest.raises(CallLater) as later:
        caller.compare(progress=WORKER)
    caller.provider.answer = CallRefused("never")

    with pytest.raises(CallRefused):
        caller.compare(progress=later.value.progress)


@pytest.mark.parametrize(
    ("error", "health"),
    [
        (ProviderServerError("no"), CallHealth.BAD),
        (ProviderTimeout("no"), CallHealth.BAD),
        (AnswerLost("no"), CallHealth.BAD),
        (RateLimited("no"), CallHealth.UNKNOWN),
        (ProviderUnreachable("no"), CallHealth.BAD),
        (CallRefused("no"), CallHealth.UNKNOWN),
        (CallUnsendable("no"), CallHealth.UNKNOWN),
        (KeyUnusable("no"), CallHealth.UNKNOWN),
        (ProviderError("no"), CallHealth.UNKNOWN),
        (ProviderBusy("no"), CallHealth.UNKNOWN),
        (QuotaExceeded("no"), CallHealth.UNKNOWN),
        (AuthenticationFailed("no"), CallHealth.UNKNOWN),
        (InvalidAnswer("no"), CallHealth.UNKNOWN),
        (NoVerdict("no"), CallHealth.GOOD),
        (InvalidVerdict("no"), CallHealth.GOOD),
    ],
)
def test_only_the_vendors_health_counts_against_it(error: ProviderError, health: CallHealth) -> None:
    """Not what was wrong with the call, nor what a limit turned away; and only what a model answered counts for it."""
    caller = Caller()
    caller.provider.answer = error

    with pytest.raises((ProviderError, CallLater)):
        caller.compare()

    assert caller.healths[0] is health


@pytest.mark.parametrize("error", [ProviderTimeout("no"), NotSentInTime("no")])
@pytest.mark.parametrize(
    ("seconds_left", "health"), [(1, CallHealth.UNKNOWN), (29, CallHealth.UNKNOWN), (40, CallHealth.BAD)]
)
def test_a_caller_in_a_hurry_is_no_judge(error: ProviderError, seconds_left: float, health: CallHealth) -> None:
    """A timeout that its own deadline cut short says nothing about the vendor, unless it had waited for long."""
    caller = Caller(judged_after_seconds=30.0)
    caller.provider.answer = error

    with pytest.raises(ProviderTimeout):
        caller.compare(seconds_left=seconds_left)

    assert caller.healths[0] is health


def test_a_gateway_that_waited_in_vain_is_a_judge() -> None:
    """Its 504 is the vendor's own word, however little time the caller has."""
    caller = Caller()
    caller.provider.answer = ProviderTimeout("no", details={"http_status": 504})

    with pytest.raises(ProviderTimeout):
        caller.compare(seconds_left=1)

    assert caller.healths == [CallHealth.BAD]


def test_a_short_timeout_of_the_installations_own_is_a_judge() -> None:
    """Nobody is waited for any longer there."""
    caller = Caller(timeout_seconds=5.0, judged_after_seconds=30.0)
    caller.provider.answer = ProviderTimeout("no")

    with pytest.raises(ProviderTimeout):
        caller.compare()

    assert caller.healths == [CallHealth.BAD]


def test_a_deadline_that_passes_between_admission_and_call_counts_no_error_twice() -> None:
    """The error before it was settled with its own call; this place is given back unused."""
    caller = Caller(retries=RetrySchedule(waits=(0.05,)))
    caller.provider.before = [ProviderOverloaded("no")]
    caller.slow_down_admission(after=1, seconds=0.2)

    with pytest.raises(ProviderOverloaded):
        caller.compare(seconds_left=0.15, progress=WORKER)

    assert (caller.calls, caller.healths) == (1, [CallHealth.BAD, CallHealth.UNKNOWN])


def test_a_place_is_given_back_whatever_breaks() -> None:
    """A defect in a provider must not use up the limit."""
    caller = Caller()
    caller.provider.answer = ZeroDivisionError()

    with pytest.raises(ZeroDivisionError):
        caller.compare()

    assert caller.healths == [CallHealth.UNKNOWN]


def test_a_429_holds_its_model_back_for_everybody() -> None:
    """For as long as the vendor said."""
    caller = Caller()
    caller.provider.answer = RateLimited("no", retry_after_seconds=17)

    with pytest.raises(CallLater):
        caller.compare(progress=WORKER)

    assert caller.admission.settled[0]["hold_seconds"] == 17


def test_a_limit_of_the_vendors_uses_up_no_try() -> None:
    """Waiting is no failure; but for ever it is not repeated, and the last wait of the schedule repeats."""
    caller = Caller(retries=RetrySchedule(waits=(3.0, 5.0), refusals=4, random=lambda: 0.5))
    caller.provider.answer, caller.admission.is_granting = RateLimited("no"), True
    progress, waits = WORKER, list[float]()
    for _ in range(4):
        with pytest.raises(CallLater) as later:
            caller.compare(progress=progress)
        progress, waits = later.value.progress, [*waits, later.value.wait_seconds]
    with pytest.raises(RateLimited):
        caller.compare(progress=progress)

    assert waits == [3.0, 5.0, 5.0, 5.0]
    assert (progress.failures, progress.turned_away) == (0, 4)
    assert all(told["turned_away"] for told in caller.admission.settled)


def test_a_vendor_that_turns_all_calls_away_is_no_matter_of_turns() -> None:
    """Then the schedule ends as after any other failure."""
    caller = Caller(retries=RetrySchedule(waits=(3.0,), random=lambda: 0.5))
    caller.provider.answer = RateLimited("no")
    with pytest.raises(CallLater) as later:
        caller.compare(progress=WORKER)
    with pytest.raises(RateLimited):
        caller.compare(progress=later.value.progress)

    assert (later.value.progress.failures, later.value.progress.turned_away) == (1, 0)


def test_a_failure_is_not_turned_away() -> None:
    """It says nothing about a limit, nor does a call that was granted."""
    caller = Caller()
    caller.provider.before = [ProviderOverloaded("no")]

    caller.compare(progress=WORKER)

    assert [told["turned_away"] for told in caller.admission.settled] == [False, False]


def test_a_429_that_asks_for_too_much_is_cut() -> None:
    """One odd answer must not stop a model for a year; the request itself heeds it, and ends by it."""
    caller = Caller(longest_hold_seconds=600.0)
    caller.provider.answer = RateLimited("no", retry_after_seconds=31_536_000)

    with pytest.raises(RateLimited) as failure:
        caller.compare(seconds_left=14_400, progress=WORKER)

    assert failure.value.retry_after_seconds == 31_536_000
    assert caller.admission.settled[0]["hold_seconds"] == 600


def test_what_was_not_used_is_given_back() -> None:
    """Tokens of a call that never went out, or that a limit turned away; one that failed may have used them."""
    given_back = {}
    for error in (ProviderUnreachable("no"), CallUnsendable("no"), RateLimited("no"), ProviderTimeout("no")):
        caller = Caller(retries=RetrySchedule(waits=()))
        caller.provider.answer = error
        with pytest.raises(type(error)):
            caller.compare()
        estimate = caller.admission.asked[0]["tokens"]
        given_back[type(error)] = -caller.admission.settled[0]["tokens_beyond_estimate"] == estimate

    assert given_back == {ProviderUnreachable: True, CallUnsendable: True, RateLimited: True, ProviderTimeout: False}


def test_what_was_used_corrects_the_estimate() -> None:
    """Tokens are reserved by the length of the prompt, and settled by the vendor's count."""
    caller = Caller()

    caller.compare()

    estimate = caller.admission.asked[0]["tokens"]
    assert estimate > 300
    assert caller.admission.settled[0]["tokens_beyond_estimate"] == 960 - estimate


def test_a_probe_is_settled_as_one() -> None:
    """Only it may close the circuit."""
    caller = Caller()
    caller.admission.answers = [Admission(is_probe=True)]

    caller.compare()

    assert caller.admission.settled[0]["is_probe"]


def test_while_redis_is_away_calls_go_on() -> None:
    """And for a second nobody asks again, so that not each of them waits for it."""
    caller = Caller()
    caller.admission.is_away = True

    assert caller.compare().verdict is not None
    caller.admission.is_away = False
    assert caller.compare().verdict is not None
    assert caller.admission.asked == []


def test_the_mock_is_not_guarded() -> None:
    """It costs nothing, and what it is told to fail with is an answer, given at once."""
    caller = Caller()
    caller.provider.name = LLMProviderType.MOCK
    caller.provider.answer = ProviderOverloaded("as told")
    caller.caller = ProviderCaller(
        {LLMProviderType.MOCK: caller.provider}, Gatekeeper(caller.admission, Bell(), lease_seconds=60), a_policy()
    )

    with pytest.raises(ProviderOverloaded) as failure:
        caller.compare(request=a_request(), progress=WORKER)

    assert (caller.calls, caller.admission.asked, dict(failure.value.notes)) == (1, [], {})


def test_an_answer_that_cannot_be_understood_is_final() -> None:
    """A second one would be a second bill."""
    caller = Caller()
    caller.provider.before = [InvalidAnswer("no JSON")]

    with pytest.raises(InvalidAnswer):
        caller.compare(progress=WORKER)


def test_an_answer_can_be_repaired_once_on_demand() -> None:
    """The model hears what was wrong, and both bills are told."""
    caller = Caller(repair_invalid_answers=True)
    usage = TokenUsage(prompt_tokens=10, completion_tokens=5, total_tokens=15)
    caller.provider.before = [InvalidVerdict("The model's answer is not a JSON object.").billed(usage, 0.5)]

    outcome = caller.compare()

    sent = caller.provider.calls[1][0].prompt
    assert "is not a JSON object" in sent.user
    assert outcome.notes["prompt_sha256"] == sent.sha256
    assert (outcome.token_usage.total_tokens, outcome.cost_estimate) == (975, 0.5125)


def test_a_second_invalid_answer_ends_it_with_both_bills() -> None:
    """One repair, not a conversation."""
    caller = Caller(repair_invalid_answers=True)
    usage = TokenUsage(prompt_tokens=10, completion_tokens=5, total_tokens=15)
    caller.provider.before = [InvalidVerdict("one").billed(usage, 0.5), InvalidVerdict("two").billed(usage, 0.25)]

    with pytest.raises(InvalidVerdict, match="two") as failure:
        caller.compare(progress=WORKER)

    assert (failure.value.token_usage.total_tokens, failure.value.cost_usd, caller.calls) == (30, 0.75, 2)


def test_a_repair_waits_for_nothing_long() -> None:
    """When its turn would come late the first answer's error stands."""
    caller = Caller(repair_invalid_answers=True)
    caller.provider.before = [InvalidVerdict("one")]
    caller.admission.answers = [Admission(), OPEN]

    with pytest.raises(InvalidVerdict, match="one"):
        caller.compare(progress=WORKER)
    assert caller.admission.left == [caller.request.queue_id]


def test_a_repair_that_fails_leaves_the_first_error() -> None:
    """What the caller can act on is the answer that could not be used; both bills are told."""
    caller = Caller(repair_invalid_answers=True)
    usage = TokenUsage(prompt_tokens=10, completion_tokens=5, total_tokens=15)
    caller.provider.before = [InvalidVerdict("one").billed(usage, 0.5), ProviderServerError("no").billed(usage, 0.25)]

    with pytest.raises(InvalidVerdict, match="one") as failure:
        caller.compare(progress=WORKER)

    assert (failure.value.token_usage.total_tokens, failure.value.cost_usd, caller.calls) == (30, 0.75, 2)


def test_only_an_answer_of_the_model_is_repaired() -> None:
    """A refusal, or half an answer, would be given again, and billed again."""
    caller = Caller(repair_invalid_answers=True)
    caller.provider.answer = InvalidAnswer("The model refused to judge these essays.")

    with pytest.raises(InvalidAnswer):
        caller.compare(progress=WORKER)

    assert caller.calls == 1


def test_all_calls_are_on_the_bill() -> None:
    """Those that were made again on demand, too, even when the request came back in between."""
    caller = Caller(retries=RetrySchedule(waits=(1.0, 5.0), resend_unanswered_calls=True, random=lambda: 0.5))
    usage = TokenUsage(prompt_tokens=10, completion_tokens=5, total_tokens=15)
    caller.provider.before = [ProviderServerError(str(number)).billed(usage, 0.5) for number in range(2)]

    with pytest.raises(CallLater) as later:
        caller.compare(progress=WORKER)
    outcome = caller.compare(progress=later.value.progress)

    assert outcome.token_usage.total_tokens == 990
    assert outcome.cost_estimate == pytest.approx(1.0125)


def test_what_failed_in_the_end_has_all_calls_on_its_bill() -> None:
    """And is not counted twice when no time is left to make it again."""
    caller = Caller(retries=RetrySchedule(waits=(1.0,), resend_unanswered_calls=True, random=lambda: 0.5))
    usage = TokenUsage(prompt_tokens=10, completion_tokens=5, total_tokens=15)
    caller.provider.before = [ProviderServerError(str(number)).billed(usage, 0.5) for number in range(2)]

    with pytest.raises(ProviderServerError) as failure:
        caller.compare(progress=WORKER)

    assert (failure.value.token_usage.total_tokens, failure.value.cost_usd) == (30, 1.0)


def test_what_the_caller_chose_reaches_the_provider() -> None:
    """Temperature, tokens and the system prompt."""
    caller = Caller()
    overrides = LLMConfigOverrides(temperature_override=0.3, max_tokens_override=77)

    caller.compare(request=a_request(provider="openai", model="gpt", overrides=overrides))

    call = caller.provider.calls[0][0]
    assert (call.temperature, call.max_tokens) == (0.3, 77)
    assert call.prompt.system.startswith("You are strict.")


def test_a_breaker_decides_about_availability() -> None:
    """Open or half-open: what is queued probes it; without Redis calls go on."""
    caller = Caller()
    available = []
    for state in BreakerState:
        caller.admission.view = BreakerView(state)
        available.append(caller.caller.is_available(caller.provider))
    caller.admission.is_away = True

    assert available == [True, False, False, True]
    assert caller.caller.is_available(caller.provider)


@pytest.mark.parametrize("first", [ProviderOverloaded("Not now."), InvalidVerdict("No winner.")])
def test_for_a_caller_who_has_hung_up_no_further_call_is_made(first: ProviderError) -> None:
    """Neither another try nor a repair, whose answers nobody would read."""
    caller = Caller(repair_invalid_answers=True)
    caller.provider.before = [first]
    with pytest.raises(type(first)):
        caller.caller.compare(caller.request, some_texts(), 3600, is_gone=lambda: True)

    assert caller.calls == 1
