"""A Redis with users: the one that operations.md gives suffices, and what another one lacks is told at the start."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from llm_provider.adapters.redis_checks import ESSENTIAL, check_redis
from llm_provider.adapters.redis_safety import Safety
from llm_provider.errors import ConfigurationError
from llm_provider.redis_address import RedisAddress
from scripts.local_servers import KafkaBroker, RedisServer
from tests.integration.conftest import installation_on
from tests.integration.inbox import Inbox
from tests.integration.openai_server import OpenAIServer
from tests.integration.processes import ROOT, Installation, all_ready, eventually

PREFIX = "llm-provider:"
[MINIMAL] = re.findall(r"^ACL SETUSER llm-provider (.*)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
SCRIPTS = ROOT / "llm_provider/adapters/lua"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Its default user is off, so that whatever connects without a name is refused."""
    users = ["user default off", "user admin on >secret ~* &* +@all"]
    server = RedisServer(tmp_path_factory.mktemp("redis"), more=users, login="admin:secret")
    server.start()
    yield server
    server.stop()


def url_of(redis: RedisServer, rules: str) -> str:
    """The address of a user with these rules."""
    with closing(Redis.from_url(redis.url)) as admin:
        admin.execute_command(  # type: ignore[no-untyped-call]
            "ACL", "SETUSER", "llm-provider", "reset", *rules.replace("PASSWORD", "pw").split()
        )
    return redis.url.replace("admin:secret", "llm-provider:pw")


def lacking(redis: RedisServer, *rules: str) -> list[tuple[str, str]]:
    """What a process is told at its start, when the user has these rules beside the minimal ones."""
    address = RedisAddress.parse(url_of(redis, " ".join((MINIMAL, *rules))))
    return check_redis(address, prefix=PREFIX, safety=Safety())


@pytest.fixture
def chain(tmp_path: Path, redis: RedisServer, kafka: KafkaBroker, provider: OpenAIServer) -> Iterator[Installation]:
    installation = installation_on(tmp_path, redis, kafka, provider)
    installation.settings |= {"REDIS_URL": url_of(redis, MINIMAL), "KEY_PREFIX": PREFIX}
    yield installation
    installation.abandon()


def test_the_minimal_user_suffices(chain: Installation, inbox: Inbox, provider: OpenAIServer) -> None:
    """For callbacks, polled results, what a sweep takes up, the operator's commands and Celery's."""
    web, doomed = chain.web(), chain.worker()
    all_ready(web, doomed)
    inbox.collect([chain.send(web)], 15)
    polled = chain.send(web, None)
    eventually(lambda: web.get(f"/api/v1/results/{polled.queue_id}").status_code == 200, 15, "the result is there")

    provider.behave(latency_ms=60_000)
    taken = chain.send(web)
    eventually(lambda: provider.by_id[taken.key], 15, "the worker works on it")
    doomed.kill()
    provider.behave()
    worker = chain.worker()
    inbox.collect([taken], 30)
    assert "taken_up" in worker.logs()

    assert run(chain, "llm_provider.cli", "dead-letters", "list").stdout == "No dead letters.\n"
    assert "pong" in run(chain, "celery", "-A", "celery_app", "inspect", "ping").stdout
    told = [json.loads(line) for process in chain.processes for line in process.logs().splitlines() if "{" in line]
    assert not [line for line in told if line["event"] in {"redis_is_limited", "background_work_failed"}]


def run(chain: Installation, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    program = "from llm_provider.cli import main; main()" if module == "llm_provider.cli" else ""
    command = [sys.executable, "-c", program, *words] if program else [sys.executable, "-m", module, *words]
    environment = {f"LLM_PROVIDER_{name}": value for name, value in chain.settings.items()}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ("-evalsha", "lacks EVALSHA;"),
        ("-hincrby -brpop", "lacks HINCRBY, BRPOP;"),
        ("-psubscribe", "lacks PSUBSCRIBE;"),
        ("resetkeys ~llm-provider:[^a]*", "lacks the key llm-provider:admission:;"),
        (
            "resetchannels &llm-provider:*",
            "llm-provider:/0.celery.pidbox, the channel llm-provider:/0.celeryev/worker.*;",
        ),
    ],
)
def test_whatever_is_missing_is_named(redis: RedisServer, rules: str, named: str) -> None:
    """In one sentence, which ends the start: it can never work."""
    with pytest.raises(ConfigurationError) as refused:
        lacking(redis, rules)
    assert named in refused.value.message


def test_what_the_service_can_do_without_is_a_warning(redis: RedisServer) -> None:
    """And nothing is left behind by the questions."""
    assert lacking(redis) == []
    [(event, sentence)] = lacking(redis, "-info")
    assert (event, "lacks INFO" in sentence) == ("redis_is_limited", True)
    with closing(Redis.from_url(redis.url)) as admin:
        assert admin.keys(f"{PREFIX}probe*") == []


def test_a_user_without_info_sweeps(chain: Installation, redis: RedisServer) -> None:
    """What a sweep can do without never ends it."""
    chain.settings["REDIS_URL"] = url_of(redis, f"{MINIMAL} -info")
    worker = chain.worker()
    worker.ready()
    with closing(Redis.from_url(redis.url)) as admin:
        admin.delete(f"{PREFIX}ledger:sweep")
        eventually(lambda: admin.exists(f"{PREFIX}ledger:sweep"), 15, "it sweeps")
    assert worker.logs().count("redis_is_limited") == 1
    assert "background_work_failed" not in worker.logs()


@pytest.mark.parametrize("kind", ["web", "worker"])
def test_a_process_that_lacks_something_ends_with_the_sentence(
    chain: Installation, redis: RedisServer, kind: str
) -> None:
    """Once, and not with a traceback."""
    chain.settings["REDIS_URL"] = url_of(redis, f"{MINIMAL} -evalsha")
    getattr(chain, kind)()
    [process] = chain.processes
    assert process.wait(30) == 1
    assert [line for line in process.logs().splitlines() if "EVALSHA" in line] == [
        "llm-provider: LLM_PROVIDER_REDIS_URL: its user lacks EVALSHA; docs/operations.md has the ACL line."
    ]
    assert "Traceback" not in process.logs()


def test_every_command_of_our_scripts_is_asked_for() -> None:
    """A script that learns a new one would fail for a user who lacks it, and not at the start."""
    sent = {command for file in SCRIPTS.rglob("*.lua") for command in re.findall(r"call\('(\w+)'", file.read_text())}
    asked = {command.split()[0] for line in ESSENTIAL.splitlines() for command in line.split("|") if command.strip()}
    assert sent - {"INFO"} <= asked
    assert {command.lower() for command in asked - {"SCRIPT"}} <= set(MINIMAL.replace("+", "").split())
