"""The settings: how they are read from the environment, and what a wrong one says."""

import ast
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from contracts.enums import LLMProviderType
from contracts.errors import ErrorCode
from llm_provider.config import PREFIX, VENDORS, RateLimit, Settings, VendorSettings, load_settings
from llm_provider.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]

# The operator's names in contract.md section 4 that are settings already, with the defaults promised there.
PROMISED = {
    "LLM_PROVIDER_REDIS_URL": "redis://127.0.0.1:6379/0",
    "LLM_PROVIDER_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092",
    "LLM_PROVIDER_MOCK_LATENCY_MS": 0,
    "LLM_PROVIDER_MOCK_ERROR_RATE": 0.0,
    "LLM_PROVIDER_DEFAULT_PROVIDER": None,
    "LLM_PROVIDER_SYNC_RESPONSES": True,
    "LLM_PROVIDER_REQUEST_DEADLINE_SECONDS": 14400.0,
    "LLM_PROVIDER_PROVIDER_TIMEOUT_SECONDS": 120.0,
}

WRONG = [
    ("REDIS_URL", "foo"),
    ("REDIS_URL", "http://127.0.0.1:6379"),
    ("REDIS_URL", "unix:///?db=2"),
    ("REDIS_URL", "redis://127.0.0.1:port/0"),
    ("REDIS_URL", "redis://127.0.0.1:70000/0"),
    ("REDIS_URL", "redis://127.0.0.1:6379/zero"),
    ("REDIS_URL", "redis://[::1/0"),
    ("REDIS_URL", "redis://one:6379,two:6379/0"),
    ("REDIS_URL", "redis://:pa/ss@127.0.0.1:6379/0"),
    ("REDIS_URL", "redis://:pa?ss=@127.0.0.1:6379/0"),
    ("REDIS_URL", "redis://127.0.0.1:6379/0?ssl_ca_certs=ca.pem"),
    ("REDIS_URL", "rediss://127.0.0.1:6379/0?ssl_cert_reqs=perhaps"),
    ("REDIS_URL", "rediss://127.0.0.1:6379/0?ssl_ca_cert=ca.pem"),
    ("REDIS_URL", "sentinel://127.0.0.1:26379/0"),
    ("REDIS_URL", "sentinel://one:26379,two:port/0?service=comparisons"),
    ("REDIS_REPLICAS", "-1"),
    ("REDIS_WAIT_FOR_DISK", "perhaps"),
    ("KAFKA_BOOTSTRAP_SERVERS", "localhost"),
    ("KAFKA_BOOTSTRAP_SERVERS", "localhost:"),
    ("KAFKA_BOOTSTRAP_SERVERS", ":9092"),
    ("KAFKA_BOOTSTRAP_SERVERS", "a:9092,,b:9092"),
    ("KAFKA_BOOTSTRAP_SERVERS", "a:65536"),
    ("KAFKA_DELIVERY_TIMEOUT_SECONDS", "0.5"),
    ("DEFAULT_PROVIDER", "gpt"),
    ("SYNC_RESPONSES", "perhaps"),
    ("REQUEST_DEADLINE_SECONDS", "0"),
    ("REQUEST_DEADLINE_SECONDS", "-1"),
    ("REQUEST_DEADLINE_SECONDS", "inf"),
    ("REQUEST_DEADLINE_SECONDS", "nan"),
    ("REQUEST_DEADLINE_SECONDS", "four hours"),
    ("LEASE_SECONDS", "inf"),
    ("LEASE_SECONDS", "1.9"),
    ("WEB_THREADS", "1"),
    ("WEB_SYNC_THREADS", "-1"),
    ("WORKER_CONCURRENCY", "0"),
    ("WORKER_CONCURRENCY", "1.5"),
    ("ALLOWED_CALLBACK_TOPICS", " , "),
    ("DELIVERY_RETRY_SECONDS", "1,0"),
    ("DELIVERY_RETRY_SECONDS", "1;2"),
    ("OPENAI_API_KEY", "sk-one\nsk-two"),
    ("ANTHROPIC_API_KEY", "sk-\u00e9"),
    ("OPENAI_BASE_URL", "api.openai.com/v1"),
    ("OPENAI_BASE_URL", "ftp://127.0.0.1"),
    ("GOOGLE_BASE_URL", "http://"),
    ("GOOGLE_BASE_URL", "http:///v1"),
    ("GOOGLE_BASE_URL", "https://user@:80/v1"),
    ("OPENROUTER_BASE_URL", "http://host:port/v1"),
    ("OPENROUTER_BASE_URL", "http://[::1/v1"),
    ("OPENAI_BASE_URL", "https://user:zebra@gateway.example/v1"),
    ("OPENAI_BASE_URL", "https://gateway.example/v1?token=zebra"),
    ("OPENAI_BASE_URL", "https://gateway.example/v1#zebra"),
    ("OPENAI_BASE_URL", "https://gateway.example/a;b/v1"),
    ("BREAKER_TIMEOUT_SECONDS", "0"),
    ("LONGEST_HOLD_SECONDS", "0"),
    ("GOOGLE_REQUESTS_PER_MINUTE", "0"),
    ("OPENROUTER_MODEL_LIMITS", "big=3"),
    ("OPENROUTER_MODEL_LIMITS", '{"big": 3}'),
    ("ANTHROPIC_MODEL_LIMITS", '{"big": {"requests": 3}}'),
    ("GOOGLE_MODEL_LIMITS", '{"zebra": {"tokens_per_minute": 1}, "models/zebra": {"requests_per_minute": 1}}'),
    ("PROVIDER_RETRY_SECONDS", "0"),
    ("PROVIDER_RETRY_SECONDS", " , "),
    ("PROVIDER_RETRY_SECONDS", "none, 1"),
    ("DELIVERY_RETRY_SECONDS", "none"),
    ("MOCK_ERROR_RATE", "1.1"),
    ("MOCK_ERROR_CODES", "OUT_OF_LUCK"),
    ("MOCK_ERROR_CODES", "VALIDATION_ERROR"),
    ("KEY_PREFIX", "two words:"),
    ("TRUSTED_HOSTS", "llm.example.org:8080"),
    ("TRUSTED_HOSTS", "https://llm.example.org"),
    ("TRUSTED_HOSTS", "*.example.org"),
    ("FORWARDED_ALLOW_IPS", "10.0.0.1/8"),
    ("FORWARDED_ALLOW_IPS", "proxy"),
    ("LOG_LEVEL", "LOUD"),
]


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    """The settings under an environment with these variables, named without the prefix."""
    for name, value in variables.items():
        monkeypatch.setenv(PREFIX + name, value)
    return load_settings()


# One variable each; the vendors' settings have variables of their own.
PLAIN = [name for name in Settings.model_fields if name != "vendors"]


@pytest.mark.parametrize("field", [*Settings.model_fields.values(), *VendorSettings.model_fields.values()])
def test_every_setting_explains_itself(field: FieldInfo) -> None:
    """Each has a default and one sentence that ends like one; the table in the docs is made of them."""
    assert not field.is_required()
    assert field.description is not None
    assert field.description.endswith(".")
    assert len(field.description) <= 120


@pytest.mark.parametrize(("variable", "default"), PROMISED.items())
def test_the_promised_names_exist_with_their_defaults(variable: str, default: object) -> None:
    """A process manager sets these and nothing else."""
    assert getattr(load_settings(), variable.removeprefix(PREFIX).lower()) == default


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """One variable a setting, in the types that config.py gives."""
    settings = load(
        monkeypatch,
        REDIS_URL="rediss://user:secret@redis.example:6380/2?ssl_cert_reqs=required",
        DEFAULT_PROVIDER="mock",
        SYNC_RESPONSES="false",
        WEB_THREADS="4",
        MOCK_ERROR_RATE="0.25",
        LOG_LEVEL="debug",
    )

    assert settings.redis_url == "rediss://user:secret@redis.example:6380/2?ssl_cert_reqs=required"
    assert settings.default_provider is LLMProviderType.MOCK
    assert (settings.sync_responses, settings.web_threads, settings.mock_error_rate) == (False, 4, 0.25)
    assert settings.log_level == "DEBUG"


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spaces around the parts, and a comma too many, mean nothing."""
    settings = load(
        monkeypatch,
        ALLOWED_CALLBACK_TOPICS="grades.*, exact ,",
        DELIVERY_RETRY_SECONDS="1,2.5, 30",
        MOCK_ERROR_CODES="TIMEOUT,RATE_LIMIT",
        KAFKA_BOOTSTRAP_SERVERS="one:9092, two:9093",
    )

    assert settings.allowed_callback_topics == ("grades.*", "exact")
    assert settings.delivery_retry_seconds == (1.0, 2.5, 30.0)
    assert settings.mock_error_codes == (ErrorCode.TIMEOUT, ErrorCode.RATE_LIMIT)
    assert settings.kafka_bootstrap_servers == "one:9092,two:9093"


@pytest.mark.parametrize("name", PLAIN)
def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Process managers pass on `NAME=` for what nobody chose."""
    settings = load(monkeypatch, **{name.upper(): ""})

    assert getattr(settings, name) == Settings.model_fields[name].default


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_vendor_has_the_same_variables(monkeypatch: pytest.MonkeyPatch, vendor: LLMProviderType) -> None:
    """A key, a URL and limits, named after it; what is not set is as if it were not there."""
    name = vendor.upper()
    settings = load(
        monkeypatch,
        **{
            f"{name}_API_KEY": "sk-of-this-one\n",
            f"{name}_BASE_URL": "http://127.0.0.1:1234/v9",
            f"{name}_REQUESTS_PER_MINUTE": "60",
            f"{name}_MODEL_LIMITS": '{"big": {"requests_per_minute": 3}}',
            f"{name}_MAX_CONCURRENT_CALLS": "",
        },
    )

    told = settings.vendor(vendor)
    assert (told.key, told.base_url, told.max_concurrent_calls) == ("sk-of-this-one", "http://127.0.0.1:1234/v9", None)
    assert (told.rate_limit("big").requests_per_minute, told.rate_limit("other").requests_per_minute) == (3, 60)
    assert all(settings.vendor(other).key == "" for other in VENDORS if other is not vendor)


@pytest.mark.parametrize("key", ["judge-4", "models/judge-4", "judge-4:nitro", "judge-4-2026-03-17", "judge-4-latest"])
@pytest.mark.parametrize("name", ["judge-4", "models/judge-4", "judge-4:floor", "judge-4-20260317:online"])
def test_a_model_has_its_limit_however_it_is_spelled(monkeypatch: pytest.MonkeyPatch, key: str, name: str) -> None:
    """By the operator and by the caller; another model has the vendor's."""
    limits = f'{{"{key}": {{"requests_per_minute": 3}}}}'
    told = load(monkeypatch, GOOGLE_REQUESTS_PER_MINUTE="60", GOOGLE_MODEL_LIMITS=limits).vendor(LLMProviderType.GOOGLE)

    assert told.rate_limit(name).requests_per_minute == 3
    assert told.rate_limit(f"{name}:free").requests_per_minute == 60


def test_a_models_own_limit_leaves_the_vendors_other_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not said is inherited; null is said, and means as much as there is."""
    told = load(
        monkeypatch,
        OPENAI_REQUESTS_PER_MINUTE="60",
        OPENAI_TOKENS_PER_MINUTE="1000",
        OPENAI_MODEL_LIMITS='{"dear": {"requests_per_minute": 1}, "free": {"tokens_per_minute": null}}',
    ).vendor(LLMProviderType.OPENAI)

    assert told.rate_limit("dear") == RateLimit(requests_per_minute=1, tokens_per_minute=1000)
    assert told.rate_limit("free") == RateLimit(requests_per_minute=60, tokens_per_minute=None)


@pytest.mark.parametrize("word", ["none", " None "])
def test_calls_may_be_made_once_only(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """A word of its own switches the schedule off; an empty line leaves the default."""
    assert load(monkeypatch, PROVIDER_RETRY_SECONDS=word).provider_retry_seconds == ()


def test_zero_is_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread may wait for a provider, and that is not the same as unset."""
    assert load(monkeypatch, WEB_SYNC_THREADS="0").sync_threads == 0
    assert load(monkeypatch, WEB_SYNC_THREADS="", WEB_THREADS="10").sync_threads == 5


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_setting_is_named_and_its_value_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """The message begins with the variable as an operator typed it."""
    with pytest.raises(ConfigurationError) as refused:
        load(monkeypatch, **{name: value})

    assert refused.value.message.startswith(f"{PREFIX}{name}: ")
    if len(value) > 4:
        assert value not in refused.value.message


def test_all_wrong_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One failed start is enough to repair a configuration."""
    with pytest.raises(ConfigurationError) as refused:
        load(monkeypatch, REDIS_URL="foo", WEB_THREADS="many", LOG_LEVEL="LOUD")

    assert all(f"{PREFIX}{name}: " in refused.value.message for name in ("REDIS_URL", "WEB_THREADS", "LOG_LEVEL"))


def test_watermarks_are_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A low one above the high one would never accept again; the message names both."""
    with pytest.raises(ConfigurationError) as refused:
        load(monkeypatch, QUEUE_HIGH_WATERMARK="10", QUEUE_LOW_WATERMARK="11")

    assert "LLM_PROVIDER_QUEUE_LOW_WATERMARK" in refused.value.message
    assert "LLM_PROVIDER_QUEUE_HIGH_WATERMARK" in refused.value.message
    assert load(monkeypatch, QUEUE_LOW_WATERMARK="10").queue_low_watermark == 10


def test_sweeps_come_often_enough_to_judge_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further apart they would be taken for an outage for ever, and no dead worker's request would be taken up."""
    with pytest.raises(ConfigurationError) as refused:
        load(monkeypatch, LEASE_SECONDS="30", SWEEP_INTERVAL_SECONDS="10.1")

    assert "LLM_PROVIDER_SWEEP_INTERVAL_SECONDS must be at most a third" in refused.value.message
    assert load(monkeypatch, SWEEP_INTERVAL_SECONDS="10").sweep_interval_seconds == 10


def test_a_web_process_that_waits_for_a_disk_has_the_time_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every post would be a 503 otherwise."""
    with pytest.raises(ConfigurationError) as refused:
        load(monkeypatch, REDIS_WAIT_FOR_DISK="true")
    assert "LLM_PROVIDER_WEB_REDIS_TIMEOUT_SECONDS" in refused.value.message
    assert load(monkeypatch, WEB_REDIS_TIMEOUT_SECONDS="3").redis_wait_for_disk


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in a repr nor in a complaint about another setting."""
    settings = load(
        monkeypatch,
        OPENAI_API_KEY="sk-secret",
        REDIS_URL="redis://:pw-secret@127.0.0.1:6379/0",
        DELIMITER_SECRET="tag-" + "secret" * 3,
    )
    with pytest.raises(ConfigurationError) as refused:
        load(monkeypatch, OPENAI_BASE_URL="x", REDIS_URL="redis://:pw-secret@host:port")

    assert settings.vendor(LLMProviderType.OPENAI).key == "sk-secret"
    shown = (repr(settings) + str(settings)).replace("delimiter_secret", "")
    assert "secret" not in shown + refused.value.message + repr(refused.value.__cause__)


def test_settings_cannot_be_changed() -> None:
    """What a process was started with is what it runs with."""
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.web_threads = 1  # type: ignore[misc] # That is the point.


def test_a_longer_delivery_gets_a_longer_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else tries while one attempt may still succeed."""
    settings = load(monkeypatch, KAFKA_DELIVERY_TIMEOUT_SECONDS="20", KAFKA_MAX_BLOCK_SECONDS="7")

    assert settings.delivery_window_seconds > 27


def test_only_the_configuration_reads_the_environment() -> None:
    """Everything else is given its settings; two modules set a variable that their library looks at."""
    readers = {path.relative_to(ROOT).as_posix() for path in product_files() if reads_environment(path)}

    assert readers <= {
        "llm_provider/config.py",
        "llm_provider/metrics.py",
        "llm_provider/adapters/providers/google_client.py",
    }


def product_files() -> list[Path]:
    """The modules that run in production."""
    found = [path for package in ("llm_provider", "contracts") for path in (ROOT / package).rglob("*.py")]
    return [*found, ROOT / "celery_app.py"]


def reads_environment(path: Path) -> bool:
    """Whether a module asks os for a variable: os.environ, os.getenv, or either of them imported."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    imported = {
        a.name for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "os" for a in node.names
    }
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os"}
    return bool((imported | used) & {"environ", "environb", "getenv", "getenvb"})


def test_a_key_is_shown_in_no_form_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there all the same, without the newline that came with it out of a file."""
    settings = load(monkeypatch, OPENAI_API_KEY="sk-zebra-secret-zebra\n")

    assert settings.vendor(LLMProviderType.OPENAI).key == "sk-zebra-secret-zebra"
    assert "zebra" not in repr(settings) + str(settings)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8000", "https://gateway.example/a/v1/", "HTTPS://gateway.example/v1beta", "http://[::1]:80"],
)
def test_a_vendor_may_be_anywhere(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """With a path, and read from a file, if need be."""
    settings = load(monkeypatch, GOOGLE_BASE_URL=f" {url}\n")

    assert settings.vendor(LLMProviderType.GOOGLE).base_url == url.replace("HTTPS", "https")


@pytest.mark.parametrize(
    ("environment", "remedy"),
    [
        ({"DEFAULT_PROVIDER": "openai"}, "LLM_PROVIDER_OPENAI_API_KEY"),
        ({"DEFAULT_PROVIDER": "mock", "MOCK_ENABLED": "false"}, "LLM_PROVIDER_MOCK_ENABLED=true"),
        ({"DEFAULT_PROVIDER": "anthropic"}, "LLM_PROVIDER_ANTHROPIC_API_KEY"),
        ({"DEFAULT_PROVIDER": "google", "GOOGLE_API_KEY": " \n"}, "LLM_PROVIDER_GOOGLE_API_KEY"),
    ],
)
def test_a_default_provider_that_cannot_be_used_stops_the_boot(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], remedy: str
) -> None:
    """Otherwise every request that names none would be refused, one by one."""
    for name, value in environment.items():
        monkeypatch.setenv(f"LLM_PROVIDER_{name}", value)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert "LLM_PROVIDER_DEFAULT_PROVIDER" in refused.value.message
    assert remedy in refused.value.message
