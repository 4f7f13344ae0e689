"""When a failed call is made again: a visible schedule, a little jitter, and what the vendor asks for."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llm_provider.errors import ProviderError, RateLimited

# Callers that failed together shall not come back together.
JITTER = 0.2


@dataclass(frozen=True)
class RetrySchedule:
    """Waits in seconds, one for each call that may be made again; config.py says what each setting is for.

    Without any, no call is made again, whatever became of it.
    """

    waits: Sequence[float]
    # How often a limit of the vendor's may turn a request away.
    refusals: int = 20
    resend_unanswered_calls: bool = False
    random: Callable[[], float] = field(default=random.random, repr=False)

    def wait_after(self, error: ProviderError, *, failures: int) -> float | None:
        """Seconds until the next call, after failure number `failures`; None when there is none."""
        if not self._may_repeat(error) or failures > len(self.waits):
            return None
        return self._wait(error, self.waits[failures - 1])

    def wait_after_refusal(self, error: RateLimited, *, refusals: int) -> float | None:
        """Likewise after so many refusals by a vendor that granted other calls: no failures, which use up no try.

        The schedule's last wait repeats.
        """
        if not self.waits or not self._may_repeat(error) or refusals > self.refusals:
            return None
        return self._wait(error, self.waits[min(refusals, len(self.waits)) - 1])

    def _wait(self, error: ProviderError, scheduled: float) -> float:
        spread = 1 + JITTER * (2 * self.random() - 1)
        # Never earlier than the vendor asks, and not all at the first moment it allows.
        asked = (error.retry_after_seconds or 0.0) * (1 + JITTER * self.random() / 2)
        return max(asked, scheduled * spread)

    def _may_repeat(self, error: ProviderError) -> bool:
        # What the vendor has counted or charged, it bills.
        may_be_billed = error.may_be_billed or error.token_usage.total_tokens > 0 or error.cost_usd > 0
        return error.is_retryable and (self.resend_unanswered_calls or not may_be_billed)
