"""Every way a request can go wrong, as one tree.

    ServiceError
    ├── RequestRejected            the caller must change something
    │   ├── ProviderNotConfigured
    │   └── RequestTooLarge
    ├── NotAcceptedNow             the caller may send it again as it is
    │   ├── LedgerUnavailable
    │   ├── QueueFull
    │   └── ThreadsBusy
    ├── AdmissionUnavailable       breakers and limits cannot be asked; calls go on without
    ├── RecordUnreadable           what the ledger holds of a request is damaged, or a newer version's
    ├── ComparisonError            an accepted comparison that ends without a verdict
    │   ├── ProviderError          what the vendor did
    │   │   ├── ProviderTimeout
    │   │   │   └── NotSentInTime
    │   │   ├── ProviderUnreachable
    │   │   │   └── AnswerLost
    │   │   ├── ProviderOverloaded
    │   │   │   └── ProviderBusy
    │   │   ├── ProviderServerError
    │   │   ├── RateLimited
    │   │   ├── QuotaExceeded
    │   │   ├── AuthenticationFailed
    │   │   │   └── KeyUnusable
    │   │   ├── CallRefused
    │   │   │   └── CallUnsendable
    │   │   └── InvalidAnswer
    │   │       └── NoVerdict
    │   │           └── InvalidVerdict
    │   ├── NotAdmitted            nothing was sent
    │   │   ├── CircuitOpen
    │   │   ├── HeldBack
    │   │   └── LimitReached
    │   ├── PromptTooLong          nor here: it would be too long
    │   ├── ProviderMissing
    │   ├── RequestExpired
    │   ├── RequestPoisoned
    │   ├── RequestDamaged
    │   ├── RequestRevoked
    │   └── UnexpectedError
    ├── PublishError               an event that is not (known to be) on its topic
    │   ├── BrokerUnavailable
    │   ├── TopicUnavailable
    │   └── EventRefused
    └── ConfigurationError         the process must not start

Error code, HTTP status and retryability belong to the class. A message is ours: it never quotes a
vendor, since a vendor may quote a prompt.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Self

from pydantic import JsonValue

from contracts.errors import ErrorCode
from contracts.events.llm_provider_events import TokenUsage


class ServiceError(Exception):
    """Anything this service reports on purpose; `details` are plain values that may be shown to a caller."""

    error_code: ClassVar[ErrorCode] = ErrorCode.LLM_PROVIDER_SERVICE_ERROR
    http_status: ClassVar[int] = 500
    is_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        details: dict[str, str | int | float | bool] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.details = details or {}


class RequestRejected(ServiceError):
    """The request is wrong as it stands; `field` says where."""

    error_code = ErrorCode.VALIDATION_ERROR
    http_status = 400

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ProviderNotConfigured(RequestRejected):
    """The provider that was asked for has no key here, or is switched off."""

    error_code = ErrorCode.CONFIGURATION_ERROR


class RequestTooLarge(RequestRejected):
    """The body is larger than the service reads."""

    http_status = 413


class NotAcceptedNow(ServiceError):
    """Nothing was wrong with the request; it can be sent again."""

    error_code = ErrorCode.SERVICE_UNAVAILABLE
    http_status = 503
    is_retryable = True


class LedgerUnavailable(NotAcceptedNow):
    """Redis did not answer in time, or refused; what was asked of it may or may not have happened.

    `reason` is one word: Redis is `away`, or answers with that error.
    """

    reason = "away"


class AdmissionUnavailable(ServiceError):
    """Breakers and limits cannot be asked; calls go on without them."""


class RecordUnreadable(ServiceError):
    """A request's record cannot be read here; `reason` says why and quotes nothing of it."""

    error_code = ErrorCode.PROCESSING_ERROR
    http_status = 503
    is_retryable = True

    def __init__(self, reason: str, *, is_newer: bool = False) -> None:
        super().__init__(f"The record of this request cannot be read here: {reason}.")
        self.reason = reason
        self.is_newer = is_newer


class QueueFull(NotAcceptedNow):
    """The ledger holds as many open requests as it may."""


class ThreadsBusy(NotAcceptedNow):
    """All threads of this process that may wait for a provider do so."""


class ComparisonError(ServiceError):
    """An accepted comparison ends with this instead of a verdict."""

    error_code = ErrorCode.PROCESSING_ERROR
    http_status = 502
    # What the vendor counted, and what else is to be told of the call; nothing where none was made.
    token_usage: TokenUsage = TokenUsage()
    cost_usd: float = 0.0
    response_time_ms: int = 0
    notes: Mapping[str, JsonValue] = MappingProxyType({})

    def billed(self, token_usage: TokenUsage, cost_usd: float) -> Self:
        """The same error with what the call, or all calls before it, cost."""
        self.token_usage, self.cost_usd = token_usage, cost_usd
        return self

    def noted(self, notes: Mapping[str, JsonValue]) -> Self:
        """The same error with more of what the caller should know about the call."""
        self.notes = {**self.notes, **notes}
        return self


class ProviderError(ComparisonError):
    """The vendor did not give a usable answer."""

    error_code = ErrorCode.EXTERNAL_SERVICE_ERROR
    # Whether the call left this machine, or may have.
    was_sent: ClassVar[bool] = True
    # Whether the vendor may have done the work all the same, so that another call could be a second bill.
    may_be_billed: ClassVar[bool] = False
    # Whether it tells that the vendor is not well, and is not about this one call.
    trips_breaker: ClassVar[bool] = False
    # Whether it tells that the vendor is well: its model has answered. That a vendor finds fault with one call tells
    # nothing of what it does with others: many a proxy answers 404 or 401 for a service that is down.
    shows_life: ClassVar[bool] = False


class ProviderTimeout(ProviderError):
    """No complete answer within the total time of the call."""

    error_code = ErrorCode.TIMEOUT
    http_status = 504
    is_retryable = True
    may_be_billed = True
    trips_breaker = True


class NotSentInTime(ProviderTimeout):
    """The call's total time was over before there was a connection, or before the request was sent completely."""

    was_sent = False
    may_be_billed = False


class ProviderUnreachable(ProviderError):
    """No connection to the vendor, or none that took the whole request: there is nothing it could answer or bill."""

    error_code = ErrorCode.CONNECTION_ERROR
    http_status = 503
    is_retryable = True
    was_sent = False
    trips_breaker = True


class AnswerLost(ProviderUnreachable):
    """The connection broke after the call was, or may have been, sent and before a complete answer."""

    was_sent = True
    may_be_billed = True


class ProviderOverloaded(ProviderError):
    """The vendor says that it cannot serve now (503, 529)."""

    error_code = ErrorCode.SERVICE_UNAVAILABLE
    http_status = 503
    is_retryable = True
    trips_breaker = True


class ProviderBusy(ProviderOverloaded):
    """The vendor asks for this one call again (408, 409)."""

    trips_breaker = False


class ProviderServerError(ProviderError):
    """The vendor failed (another 5xx)."""

    is_retryable = True
    trips_breaker = True


class RateLimited(ProviderError):
    """Too many requests or tokens for now (429)."""

    error_code = ErrorCode.RATE_LIMIT
    http_status = 503
    is_retryable = True


class QuotaExceeded(ProviderError):
    """The account's money or quota is used up; waiting does not help."""

    error_code = ErrorCode.QUOTA_EXCEEDED
    http_status = 503


class AuthenticationFailed(ProviderError):
    """The vendor does not accept the configured key, or not for this model."""

    error_code = ErrorCode.AUTHENTICATION_ERROR


class KeyUnusable(AuthenticationFailed):
    """There is no key, or one that the SDK does not even send."""

    was_sent = False


class CallRefused(ProviderError):
    """The vendor refuses this call as it stands (model, parameters, size)."""

    error_code = ErrorCode.INVALID_REQUEST


class CallUnsendable(CallRefused):
    """What was asked for cannot be put into a call to this vendor."""

    was_sent = False


class InvalidAnswer(ProviderError):
    """The vendor answered, but not with a verdict."""

    error_code = ErrorCode.INVALID_RESPONSE
    may_be_billed = True


class NoVerdict(InvalidAnswer):
    """The model refused, or gave half an answer or none."""

    shows_life = True


class InvalidVerdict(NoVerdict):
    """The model gave a whole answer that cannot be understood; another one might be."""


class NotAdmitted(ComparisonError):
    """No call was made, since its turn would come too late; `retry_after_seconds` says when it would."""

    http_status = 503
    is_retryable = True
    # Whether a turn under the rate limits is reserved all the same, to be used when the request is queued; and missed.
    has_turn: bool = False
    is_late: bool = False


class CircuitOpen(NotAdmitted):
    """The provider has failed again and again, and is left alone for a while."""

    error_code = ErrorCode.CIRCUIT_BREAKER_OPEN


class HeldBack(NotAdmitted):
    """The vendor asked that the model be left alone for a while, or be asked more slowly (429)."""

    error_code = ErrorCode.RATE_LIMIT


class LimitReached(NotAdmitted):
    """This service's own limit on the rate or the number of calls to the provider."""

    error_code = ErrorCode.RATE_LIMIT


class PromptTooLong(ComparisonError):
    """No call was made: its prompt would be longer than this service, or surely the model, takes."""

    error_code = ErrorCode.INVALID_REQUEST


class ProviderMissing(ComparisonError):
    """This worker lacks the provider that the request was accepted for: web and worker are configured differently."""

    error_code = ErrorCode.CONFIGURATION_ERROR


class RequestExpired(ComparisonError):
    """The request's deadline passed before an outcome."""

    error_code = ErrorCode.TIMEOUT
    http_status = 504


class RequestPoisoned(ComparisonError):
    """Every worker that took the request died of it."""


class RequestDamaged(ComparisonError):
    """The record of the request was damaged, so that it cannot be processed any more."""


class RequestRevoked(ComparisonError):
    """An operator revoked the request's task."""


class UnexpectedError(ComparisonError):
    """A defect of our own, caught so that the caller is told."""

    error_code = ErrorCode.UNKNOWN_ERROR
    http_status = 500


class PublishError(ServiceError):
    """The event is not known to be on its topic; publishing it again is safe."""

    error_code = ErrorCode.KAFKA_PUBLISH_ERROR
    is_retryable = True
    # Whether Kafka answered, and said no: only that counts towards giving the event up.
    is_refusal: ClassVar[bool] = False


class BrokerUnavailable(PublishError):
    """Kafka gave no acknowledgement in time; no topic can be expected to work now."""


class TopicUnavailable(PublishError):
    """Kafka refuses this topic now: it does not exist, or is not allowed; others may well be."""

    is_refusal = True


class EventRefused(PublishError):
    """The broker or the client refuses this one event, whatever the topic: too large."""

    is_retryable = False
    is_refusal = True


class ConfigurationError(ServiceError):
    """A setting is wrong; the message names it."""

    error_code = ErrorCode.CONFIGURATION_ERROR
