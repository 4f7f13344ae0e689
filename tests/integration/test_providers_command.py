"""`llm-provider providers`: what an operator sees of the vendors, beside a Redis and without one."""

import os
import re
import subprocess
import sys
from pathlib import Path

from llm_provider.adapters.redis_admission import RedisAdmission
from llm_provider.adapters.redis_client import connect_redis
from llm_provider.admission import BreakerPolicy, CallAsk, CallHealth, CallReport
from llm_provider.config import VendorSettings
from llm_provider.internal_models import ComparisonTarget
from tests.conftest import GivenRedis

COMMAND = Path(sys.executable).parent / "llm-provider"
KEY = "sk-zebra-secret-zebra"


def run(*arguments: str, **settings: str) -> tuple[str, str]:
    """What it prints, to both streams."""
    environment = os.environ | {f"LLM_PROVIDER_{name}": value for name, value in settings.items()}
    done = subprocess.run(
        [COMMAND, "providers", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout, done.stderr


def row(table: str, provider: str) -> str:
    (found,) = [line for line in table.splitlines() if line.startswith(f"{provider} ")]
    return found


def test_every_provider_is_a_row(redis_server: GivenRedis, key_prefix: str) -> None:
    """With its limits and where its calls go, its key being set or not, and never the key."""
    table, complaints = run(
        REDIS_URL=redis_server.url,
        KEY_PREFIX=key_prefix,
        OPENAI_API_KEY=KEY,
        OPENAI_BASE_URL="http://127.0.0.1:9/v1",
        OPENAI_REQUESTS_PER_MINUTE="5000",
        OPENAI_MODEL_LIMITS='{"big": {"requests_per_minute": 3}}',
    )

    assert row(table, "openai").split() == (
        [
            "openai",
            "yes",
            "closed",
            "none",
            "gpt-5.4-mini",
            "5,000",
            "requests/min,",
            "1",
            "models",
            "with",
            "their",
            "own",
            "http://127.0.0.1:9/v1",
        ]
    )
    assert "no " in row(table, "anthropic")
    assert [line.split()[0] for line in table.splitlines()[1:]] == [
        "mock",
        "anthropic",
        "openai",
        "google",
        "openrouter",
    ]
    assert KEY not in table + complaints


def test_what_keeps_calls_back_is_shown_and_can_be_released(redis_server: GivenRedis, key_prefix: str) -> None:
    """An open circuit, a model its vendor wants left alone, and for how long yet: the same in every process."""
    client = connect_redis(redis_server.url, timeout_seconds=5)
    admission = RedisAdmission(
        client,
        prefix=key_prefix,
        breaker=BreakerPolicy(failures=1, open_seconds=600, successes=1),
        limits=lambda _: VendorSettings(),
        lease_seconds=10,
    )
    target = ComparisonTarget(provider="google", model="any")
    admission.ask(CallAsk(target, "call", tokens=1, patience_seconds=1))
    admission.settle(target, "call", CallReport(CallHealth.BAD))
    held = ComparisonTarget(provider="google", model="held-one")
    admission.settle(held, "another", CallReport(hold_seconds=600))
    client.close()

    table, _ = run(REDIS_URL=redis_server.url, KEY_PREFIX=key_prefix)

    assert "open for 5" in row(table, "google") or "open for 600 s" in row(table, "google")
    assert re.search(r"held-one for (5\d\d|600) s", row(table, "google"))

    said, complaints = run("release", "google", REDIS_URL=redis_server.url, KEY_PREFIX=key_prefix)
    table, _ = run(REDIS_URL=redis_server.url, KEY_PREFIX=key_prefix)

    assert "google is called again" in said
    assert row(table, "google").split()[:4] == ["google", "no", "closed", "none"]
    assert complaints == ""


def test_without_redis_the_rest_is_told() -> None:
    """In a sentence, and no traceback."""
    table, complaints = run(REDIS_URL="redis://127.0.0.1:1/0")

    assert "unknown" in row(table, "openai")
    assert "Redis does not answer" in complaints
    assert "Traceback" not in complaints
    said, complaints = run("release", "openai", REDIS_URL="redis://127.0.0.1:1/0")
    assert said == ""
    assert "Redis does not answer, so nothing is changed" in complaints


def test_only_a_vendor_can_be_released() -> None:
    """The mock is never held back, and a slip of the keyboard is told with the names that there are."""
    for name in ("mock", "opneai"):
        said, complaints = run("release", name)
        assert said == ""
        assert "anthropic" in complaints
