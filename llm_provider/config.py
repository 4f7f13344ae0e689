"""Every setting: type, default, unit and one sentence, once. The table in docs/configuration.md is made from it."""

import json
import os
import re
import socket
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contracts.enums import LLMProviderType
from contracts.errors import ErrorCode
from llm_provider.errors import ConfigurationError, ProviderError
from llm_provider.model_names import canonical_name
from llm_provider.redis_address import RedisAddress

PREFIX = "LLM_PROVIDER_"

# Whoever has a key and a URL; the mock has neither.
VENDORS = tuple(name for name in LLMProviderType if name is not LLMProviderType.MOCK)

# A step waits that long at least for a disk that is written once a second, and may be busy with the last write.
DISK_SECONDS = 3.0

# What a mock can be told to fail with.
PROVIDER_ERROR_CODES = tuple(error.error_code for error in ProviderError.__subclasses__())


def _redis_url(value: str) -> str:
    RedisAddress.parse(value)
    return value


def _bootstrap_servers(value: str) -> str:
    servers = [server.strip() for server in value.split(",")]
    for host, _, port in (server.rpartition(":") for server in servers):
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError("must be host:port, or several separated by commas")
    return ",".join(servers)


def _http_url(value: str) -> str:
    try:
        url = urlsplit(value.strip())
        # Reading the port is what finds it to be none.
        legal = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        legal = False
    if not legal:
        raise ValueError("must be an address of http or https: host, or host:port, and a path if need be")
    # Every SDK does something else with these, and some leave the key at home, or send it elsewhere.
    if "@" in url.netloc or set("?#;") & set(value):
        raise ValueError("must be an address without user, password, query and fragment")
    return url.geturl()


def _host_name(value: str) -> str:
    name = value.lower()
    if name != "*" and not all(re.fullmatch("[a-z0-9_-]+", label) for label in name.removeprefix(".").split(".")):
        raise ValueError("must be host names without scheme and port, `.name` for a name and all below it, or `*`")
    return name


def _network(value: str) -> str:
    try:
        _ = value == "*" or ip_network(value)
    except ValueError:
        raise ValueError("must be IP addresses or networks as 10.0.0.0/8, or `*`") from None
    return value


def _sendable_key(value: SecretStr) -> SecretStr:
    # One read from a file often ends with a newline.
    key = value.get_secret_value().strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError("must be printable ASCII characters, which alone a header can hold")
    return SecretStr(key)


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _split_or_none(value: object) -> object:
    # A word says that it is meant; a line with nothing but commas is a slip.
    if isinstance(value, str) and value.strip().lower() == "none":
        return ()
    waits = _split(value)
    if waits == []:
        raise ValueError("must be seconds, separated by commas, or none")
    return waits


def _parsed_json(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("must be JSON") from None


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _provider_error(code: ErrorCode) -> ErrorCode:
    if code not in PROVIDER_ERROR_CODES:
        raise ValueError(f"must be error codes of a provider: {', '.join(PROVIDER_ERROR_CODES)}")
    return code


# What is longer than ten years is a slip of the keyboard, and beyond what a date can hold.
Seconds = Annotated[float, Field(gt=0, le=315_360_000)]
Count = Annotated[int, Field(ge=1)]
Key = Annotated[SecretStr, AfterValidator(_sendable_key)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
# Written in the environment as one line, separated by commas.
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), Field(min_length=1)]
HostNames = Annotated[tuple[Annotated[str, AfterValidator(_host_name)], ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(_split)]
Waits = Annotated[tuple[Seconds, ...], NoDecode, BeforeValidator(_split), Field(min_length=1)]
WaitsOrNone = Annotated[tuple[Seconds, ...], NoDecode, BeforeValidator(_split_or_none)]
MockError = Annotated[ErrorCode, AfterValidator(_provider_error)]
MockErrors = Annotated[tuple[MockError, ...], NoDecode, BeforeValidator(_split), Field(min_length=1)]


class RateLimit(BaseModel):
    """What one model may be asked per minute; None: as much as there is. Unset: as the vendor's other models."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None


def _by_canonical_name(limits: Mapping[str, RateLimit]) -> Mapping[str, RateLimit]:
    named = {canonical_name(model): limit for model, limit in limits.items()}
    if len(named) < len(limits):
        raise ValueError("two entries are of the same model")
    return named


ModelLimits = Annotated[
    Mapping[str, RateLimit], NoDecode, BeforeValidator(_parsed_json), AfterValidator(_by_canonical_name)
]


class VendorSettings(BaseModel):
    """What is the same for every vendor."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    api_key: Key | None = Field(None, description="Key for the vendor; unset: it is not configured.")
    base_url: HttpUrl | None = Field(
        None,
        description="Where the vendor's protocol is spoken, as its SDK takes it; unset: at the vendor's.",
    )
    default_model: str | None = Field(None, description="Model of requests that name none; unset: see the next table.")
    reasoning_effort: str | None = Field(
        None, description="How much a model that reasons shall do so; unset: as the vendor sees fit."
    )
    requests_per_minute: Count | None = Field(
        None, description="Calls per minute to each model, of all processes together; unset: no limit."
    )
    tokens_per_minute: Count | None = Field(
        None, description="Tokens per minute of each model, of all processes together; unset: no limit."
    )
    model_limits: ModelLimits = Field(
        {},
        description='Single models\' limits: `{"a-model": {"requests_per_minute": 10}}`; what one leaves out is as '
        "above, null lifts it.",
    )
    max_concurrent_calls: Count | None = Field(
        None, description="Calls to the vendor at the same time, of all processes together; unset: no limit."
    )

    @property
    def key(self) -> str:
        """The key itself, or an empty text."""
        return self.api_key.get_secret_value() if self.api_key is not None else ""

    def rate_limit(self, model: str) -> RateLimit:
        """What this model may be asked per minute, however its name is spelled."""
        usual = RateLimit(requests_per_minute=self.requests_per_minute, tokens_per_minute=self.tokens_per_minute)
        own = self.model_limits.get(canonical_name(model))
        return usual if own is None else usual.model_copy(update=own.model_dump(exclude_unset=True))


class _VendorEnvironment(BaseSettings, VendorSettings):
    """The same, read from the environment with the prefix LLM_PROVIDER_<VENDOR>_."""

    model_config = SettingsConfigDict(env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True)


class Settings(BaseSettings):
    """The whole configuration, read from the environment with the prefix LLM_PROVIDER_."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        # A process manager that sets NAME= means: not set.
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    # Redis
    redis_url: Annotated[str, AfterValidator(_redis_url)] = Field(
        "redis://127.0.0.1:6379/0",
        repr=False,  # It may hold a password.
        description="The Redis that holds ledger, queue and results, or its Sentinels; operations.md has every form.",
    )
    redis_replicas: Annotated[int, Field(ge=0)] = Field(
        0, description="Replicas that must have what is accepted, claimed or decided before it counts; 0: none."
    )
    redis_wait_for_disk: bool = Field(
        False, description="Whether Redis's disk must have it as well, which takes up to a second a step (`WAITAOF`)."
    )
    key_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]*$")] = Field(
        "llm-provider:",
        description="Put before every Redis key, so that several installations can share a server.",
    )
    redis_memory_bytes: Count | None = Field(
        None,
        description="Bytes that Redis may fill, if less than its maxmemory or, without one, its machine's memory.",
    )
    web_redis_timeout_seconds: Seconds = Field(
        0.5, description="Seconds a web thread waits for one Redis operation before it answers 503."
    )
    worker_redis_timeout_seconds: Seconds = Field(
        5.0, description="Seconds a worker waits for one Redis operation before it tries again."
    )

    # Kafka
    kafka_bootstrap_servers: Annotated[str, AfterValidator(_bootstrap_servers)] = Field(
        "127.0.0.1:9092", description="Kafka brokers to begin with, host:port, separated by commas."
    )
    kafka_delivery_timeout_seconds: Annotated[Seconds, Field(ge=1)] = Field(
        6.0,
        description="Seconds within which Kafka must acknowledge an event; after that the sweeper tries again.",
    )
    kafka_max_block_seconds: Seconds = Field(
        2.0, description="Seconds a publisher waits for a topic's metadata before it counts as unavailable."
    )
    kafka_topic_partitions: Count = Field(3, description="Partitions of a topic that the bootstrap script creates.")
    kafka_topic_replication_factor: Count = Field(
        1, description="Replicas of a topic that the bootstrap script creates; 3 on a real cluster."
    )
    kafka_bootstrap_wait_seconds: Seconds = Field(
        60.0, description="Seconds the bootstrap script waits for a broker that is still starting."
    )
    allowed_callback_topics: Names = Field(
        ("*",), description="Patterns (`*`, `?`) of topics a request may name, separated by commas."
    )

    # Requests
    default_provider: LLMProviderType | None = Field(
        None, description="Provider of requests that name none; unset: such a request is a 400."
    )
    sync_responses: bool = Field(
        True, description="Answer requests without callback_topic at once when the provider is available."
    )
    request_deadline_seconds: Seconds = Field(
        14400.0,
        description="Seconds after which a request is not sent to a provider any more and its caller is told.",
    )
    provider_timeout_seconds: Seconds = Field(120.0, description="Total seconds of one call to a provider.")
    allow_empty_essays: bool = Field(
        False, description="Whether an essay may have no visible character; unless it may, such a request is a 400."
    )
    max_body_bytes: Count = Field(1_048_576, description="Bytes of the largest request body that is read.")
    max_prompt_chars: Annotated[int, Field(ge=1000)] | None = Field(
        None,
        description="Characters of the longest prompt; unset: four a token of the model's context, at most 4,000,000.",
    )
    delimiter_secret: Annotated[SecretStr, Field(min_length=16)] | None = Field(
        None,
        description="Secret of the tags around essays; unset: made once at random, and kept in Redis.",
    )
    trust_system_prompts: bool = Field(
        False,
        description="Whether a request's own system prompt is sent without our sentences on how to take essays.",
    )
    queue_high_watermark: Count = Field(
        100_000, description="Open requests above which new ones that must be queued get 503."
    )
    queue_low_watermark: Count = Field(90_000, description="Open requests below which they are accepted again.")

    # Web process
    web_processes: Count = Field(2, description="gunicorn processes.")
    web_threads: Annotated[int, Field(ge=2)] = Field(16, description="Threads of each gunicorn process.")
    trusted_hosts: HostNames = Field(
        (),
        description="Names with a dot by which callers may ask, beside $HOST and this machine's; "
        "`.name`: all below; `*`: all.",
    )
    forwarded_allow_ips: Networks = Field(
        ("127.0.0.1", "::1"),
        description="Proxies whose X-Forwarded-Proto gunicorn believes: addresses, networks or `*`.",
    )
    forwarded_prefix: bool = Field(
        False, description="Whether X-Forwarded-Prefix, which a proxy must then set, is the path before ours."
    )
    web_sync_threads: int | None = Field(
        None, ge=0, description="Threads of each process that may wait for a provider; unset: half of them."
    )

    web_connections: Annotated[int, Field(ge=32)] = Field(
        500, description="Connections of each gunicorn process; of more the oldest idle or slow one is closed."
    )
    web_head_seconds: Seconds = Field(
        10.0, description="Seconds within which a client must have sent the head of its request."
    )
    web_request_seconds: Seconds = Field(
        30.0, description="Seconds within which it must have sent the whole of it, from the same moment on."
    )
    web_answer_seconds: Seconds = Field(30.0, description="Seconds within which it must have taken its answer.")

    # Worker process
    worker_concurrency: Count = Field(
        100, description="Requests one worker process works on at once (the pool is threads)."
    )
    worker_stall_seconds: Annotated[Seconds, Field(ge=3)] = Field(
        60.0, description="Seconds a worker's event loop may stand still while messages wait; then the process ends."
    )
    lease_seconds: Annotated[Seconds, Field(ge=2)] = Field(
        10.0, description="Seconds after which the requests of a worker that died are taken up again."
    )
    sweep_interval_seconds: Seconds = Field(
        1.0, description="Seconds between two sweeps of the ledger; at most a third of the lease."
    )
    sweep_batch: Count = Field(500, description="Requests one sweep takes at most.")
    redispatch_after_seconds: Seconds = Field(
        10.0, description="Seconds a request that was dispatched again is left alone."
    )
    delivery_retry_seconds: Waits = Field(
        (1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
        description="Waits between attempts to deliver an outcome; the last one repeats.",
    )
    dead_letter_after_seconds: Seconds = Field(
        600.0, description="Seconds Kafka refuses an event without a break before it becomes a dead letter."
    )

    # Results
    result_expires_seconds: Annotated[int, Field(ge=60)] = Field(
        86_400, description="Seconds a result is kept for polling."
    )
    record_retention_seconds: Annotated[int, Field(ge=60)] = Field(
        86_400, description="Seconds a request's record outlives its result, or its delivery to a topic."
    )

    # Calls to providers
    provider_retry_seconds: WaitsOrNone = Field(
        (0.5, 1.5, 5.0, 15.0),
        description="Waits before a failed call is made again, one a call; Retry-After prolongs them; "
        "`none`: it never is.",
    )
    provider_refusals: Annotated[int, Field(ge=0)] = Field(
        20, description="How often a vendor that grants other calls may turn one away (429), beside those waits."
    )
    resend_unanswered_calls: bool = Field(
        False,
        description="Whether a call whose answer came late or not whole is made again: it may be billed twice.",
    )
    repair_invalid_answers: bool = Field(
        False, description="Whether an answer that cannot be understood is asked for once more: a second bill."
    )
    breaker_failures: Count = Field(3, description="Failures in a row after which a provider is left alone.")
    breaker_open_seconds: Seconds = Field(
        120.0, description="Seconds a provider is left alone before one call probes it."
    )
    breaker_successes: Count = Field(2, description="Probes in a row that must succeed before all calls go on.")
    breaker_timeout_seconds: Seconds = Field(
        30.0,
        description="Seconds without an answer that count as a failure, also when a request's own deadline ended it.",
    )
    longest_hold_seconds: Seconds = Field(
        600.0,
        description="Longest time a model is left alone by all requests because its vendor told one of them to wait.",
    )

    # Providers
    vendors: Annotated[Mapping[LLMProviderType, VendorSettings], NoDecode] = Field(
        default_factory=lambda: _vendors_of_the_environment(),
        description="What each vendor is told; read from variables of its own, below.",
    )
    mock_enabled: bool = Field(True, description="Whether the mock provider may be asked for.")
    mock_latency_ms: Annotated[int, Field(ge=0)] = Field(0, description="Milliseconds a mock answer takes.")
    mock_error_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Share of mock calls that fail, 0 to 1."
    )
    mock_error_codes: MockErrors = Field(
        (ErrorCode.SERVICE_UNAVAILABLE, ErrorCode.RATE_LIMIT, ErrorCode.TIMEOUT),
        description="Error codes that failing mock calls draw from, separated by commas.",
    )
    mock_seed: int = Field(0, description="Seed of the mock's verdicts and failures.")

    # Logs
    log_level: Annotated[str, BeforeValidator(_upper), Field(pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")] = Field(
        "INFO", description="Least severe level that is logged."
    )

    @property
    def sync_threads(self) -> int:
        """Threads of a web process that may wait for a provider; the others stay free to accept and to answer."""
        return self.web_threads // 2 if self.web_sync_threads is None else self.web_sync_threads

    @property
    def host_names(self) -> tuple[str, ...]:
        """Names by which callers may ask a web process, beside addresses and names without a dot."""
        # Browsers take *.localhost for this machine, without a look at any DNS.
        return (*self.trusted_hosts, ".localhost", os.environ.get("HOST", "").lower(), socket.gethostname().lower())

    @property
    def delivery_window_seconds(self) -> float:
        """Longest time one attempt to deliver may take; until then nobody else tries."""
        # The bus waits a second longer than its producer, for a final answer.
        return self.kafka_max_block_seconds + self.kafka_delivery_timeout_seconds + 2.0

    @property
    def longest_task_seconds(self) -> float:
        """Longest time a worker works on one request while Redis answers; a wait that is longer holds no worker."""
        calls = 2 if self.repair_invalid_answers else 1
        return calls * self.provider_timeout_seconds + self.kafka_delivery_timeout_seconds + 15.0

    @property
    def redis_address(self) -> RedisAddress:
        """Where Redis is, or the Sentinels that know it."""
        return RedisAddress.parse(self.redis_url)

    def vendor(self, name: LLMProviderType) -> VendorSettings:
        """The settings of one vendor."""
        return self.vendors.get(name) or VendorSettings()

    @model_validator(mode="after")
    def _default_provider_is_usable(self) -> "Settings":
        name = self.default_provider
        if name is LLMProviderType.MOCK:
            setting, is_usable = "MOCK_ENABLED=true", self.mock_enabled
        else:
            setting, is_usable = f"{name}_API_KEY".upper(), name is None or bool(self.vendor(name).key)
        if not is_usable:
            raise ValueError(f"{PREFIX}DEFAULT_PROVIDER: {name} cannot be used here; set {PREFIX}{setting}")
        return self

    @model_validator(mode="after")
    def _sweeps_are_no_outage(self) -> "Settings":
        # When the last sweep is half a lease ago nobody judges leases; the rest is the time that a sweep takes.
        if self.sweep_interval_seconds > self.lease_seconds / 3:
            raise ValueError(
                f"{PREFIX}SWEEP_INTERVAL_SECONDS must be at most a third of {PREFIX}LEASE_SECONDS: sweeps further "
                "apart are taken for an outage of Redis, and what a dead worker had in flight would never be taken up"
            )
        return self

    @model_validator(mode="after")
    def _waits_are_long_enough_for_a_disk(self) -> "Settings":
        if self.redis_wait_for_disk and self.web_redis_timeout_seconds < DISK_SECONDS:
            raise ValueError(
                f"{PREFIX}REDIS_WAIT_FOR_DISK needs {PREFIX}WEB_REDIS_TIMEOUT_SECONDS of {DISK_SECONDS:g} or more: "
                "Redis writes to its disk once a second"
            )
        return self

    @model_validator(mode="after")
    def _watermarks_are_in_order(self) -> "Settings":
        if self.queue_low_watermark > self.queue_high_watermark:
            raise ValueError("LLM_PROVIDER_QUEUE_LOW_WATERMARK must not exceed LLM_PROVIDER_QUEUE_HIGH_WATERMARK")
        return self


def load_settings() -> Settings:
    """Read the environment; a ConfigurationError names every setting that is wrong, and shows no value."""
    wrong: list[str] = []
    vendors = {}
    for name in VENDORS:
        try:
            vendors[name] = _vendor_of_the_environment(name)
        except ValidationError as error:
            wrong += [_complaint(detail, _prefix(name)) for detail in error.errors()]
    try:
        settings = Settings(vendors=vendors)
    except ValidationError as error:
        wrong += [_complaint(detail, PREFIX) for detail in error.errors()]
    if wrong:
        raise ConfigurationError("; ".join(wrong))
    return settings


def _prefix(vendor: LLMProviderType) -> str:
    return f"{PREFIX}{vendor.upper()}_"


def _vendor_of_the_environment(name: LLMProviderType) -> VendorSettings:
    return _VendorEnvironment(_env_prefix=_prefix(name))


def _vendors_of_the_environment() -> dict[LLMProviderType, VendorSettings]:
    return {name: _vendor_of_the_environment(name) for name in VENDORS}


def _complaint(error: ErrorDetails, prefix: str) -> str:
    message = error["msg"].removeprefix("Value error, ")
    return f"{prefix}{str(error['loc'][0]).upper()}: {message}" if error["loc"] else message
