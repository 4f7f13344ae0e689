"""The fixed vocabularies of HTTP and Kafka."""

from enum import StrEnum


class LLMProviderType(StrEnum):
    ANTHROPIC = "anthropic"
    OPENAI = "openai"
    GOOGLE = "google"
    OPENROUTER = "openrouter"
    MOCK = "mock"


class EssayWinner(StrEnum):
    ESSAY_A = "Essay A"
    ESSAY_B = "Essay B"


class QueueStatus(StrEnum):
    """How far a queued request is; `completed` means that its outcome is stored, delivered or not."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"


class CallbackStatus(StrEnum):
    """How far the delivery of the callback is; `dead` means that the broker refused it for good."""

    NONE = "none"
    PENDING = "pending"
    PUBLISHED = "published"
    DEAD = "dead"
