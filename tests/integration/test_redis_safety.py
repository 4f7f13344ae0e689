"""What counts only once a replica, or the disk, has it; and what a start says about servers that cannot do that."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from llm_provider.adapters.redis_checks import check_redis
from llm_provider.adapters.redis_client import connect_redis
from llm_provider.adapters.redis_ledger import RedisLedger
from llm_provider.adapters.redis_safety import Safety
from llm_provider.errors import ConfigurationError, LedgerUnavailable
from llm_provider.ledger import ClaimState
from llm_provider.redis_address import RedisAddress
from scripts.local_servers import HOST, RedisFailover, RedisServer
from tests.unit.builders import a_request, a_timing, a_verdict_for, some_texts

ON_A_REPLICA, ON_DISK = Safety(replicas=1, wait_seconds=0.4), Safety(on_disk=True, wait_seconds=2.4)


@pytest.fixture(scope="module")
def failover(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisFailover]:
    with RedisFailover(tmp_path_factory.mktemp("redis")).running() as failover:
        yield failover


@pytest.fixture
def client(failover: RedisFailover) -> Iterator[Redis]:
    with closing(connect_redis(failover.url, timeout_seconds=2)) as client:
        yield client


def ledger_over(client: Redis, key_prefix: str, safety: Safety) -> RedisLedger:
    return RedisLedger(client, prefix=key_prefix, timing=a_timing(), safety=safety)


def test_a_step_that_no_replica_has_does_not_count_however_often_it_is_taken(
    failover: RedisFailover, client: Redis, key_prefix: str
) -> None:
    """Also when it finds its work done and writes nothing, over a connection that has written nothing."""
    ledger, request = ledger_over(client, key_prefix, ON_A_REPLICA), a_request()
    ledger.accept(request, some_texts())
    ledger.claim(request.queue_id, "holder")
    outcome = a_verdict_for(request)
    failover.replica.freeze()
    try:
        for _ in range(2):
            with pytest.raises(LedgerUnavailable, match="TooFewCopies"):
                ledger.commit(request.queue_id, outcome)
        with pytest.raises(LedgerUnavailable, match="TooFewCopies"):
            ledger.decided(request.queue_id)
    finally:
        failover.replica.thaw()
    decision = ledger.commit(request.queue_id, outcome)
    assert decision is not None
    assert decision.mine


def test_a_claim_that_no_replica_has_is_given_back(failover: RedisFailover, client: Redis, key_prefix: str) -> None:
    """Its lease would lapse, and count as the death of a worker that made no call."""
    ledger, request = ledger_over(client, key_prefix, ON_A_REPLICA), a_request()
    ledger.accept(request, some_texts())
    failover.replica.freeze()
    try:
        with pytest.raises(LedgerUnavailable):
            ledger.claim(request.queue_id, "holder")
    finally:
        failover.replica.thaw()
    assert client.hget(f"{key_prefix}request:{request.queue_id}", "state") == "suspended"
    assert ledger.claim(request.queue_id, "another").state is ClaimState.CLAIMED
    assert client.hget(f"{key_prefix}request:{request.queue_id}", "lapses") is None


def test_a_power_cut_forgets_nothing_that_counted(tmp_path: Path, key_prefix: str) -> None:
    """What is on no disk does not count; what counted is still there when the file ends with its last fsync."""
    server, lost, kept = RedisServer(tmp_path / "redis"), a_request(), a_request()
    server.start()
    try:
        with closing(connect_redis(server.url, timeout_seconds=3)) as client:
            ledger = ledger_over(client, key_prefix, ON_DISK)
            client.config_set("appendfsync", "no")
            synced = appended(server).stat().st_size
            with pytest.raises(LedgerUnavailable, match="TooFewCopies"):
                ledger.accept(lost, some_texts())
            cut(server, synced)
            ledger.accept(kept, some_texts())
            synced = appended(server).stat().st_size
            ledger_over(client, key_prefix, Safety()).accept(lost, some_texts())
            cut(server, synced)
            assert [ledger.view(request.queue_id) is not None for request in (kept, lost)] == [True, False]
    finally:
        server.stop()


def appended(server: RedisServer) -> Path:
    [file] = server.directory.rglob("*.incr.aof")
    return file


def cut(server: RedisServer, size: int) -> None:
    """The machine loses its power, and with it what no fsync has written."""
    server.kill()
    with appended(server).open("r+b") as file:
        file.truncate(size)
    server.start()


@pytest.mark.parametrize(
    ("url", "safety", "told"),
    [
        ("sentinel://{sentinel}/0?service=another", Safety(), "the Sentinels know no service another."),
        ("sentinel://{primary}/0?service=comparisons", Safety(), "a plain Redis answers, no Sentinel;"),
        ("redis://{sentinel}/0", Safety(), "a Sentinel answers; write sentinel://"),
        ("redis://{primary}/99", Safety(), "this Redis has no database number 99."),
        ("redis://nobody:secret@{primary}/0", Safety(), "Redis refuses the user or the password."),
        ("redis://{memory}/0", Safety(on_disk=True, wait_seconds=1), "needs a Redis with appendonly yes."),
        ("redis://{cluster}/0", Safety(), "a Redis Cluster answers,"),
    ],
)
def test_what_can_never_work_ends_the_start(
    failover: RedisFailover, tmp_path: Path, url: str, safety: Safety, told: str
) -> None:
    """With a sentence that names the setting and shows no password."""
    kinds = {"{memory}": "appendonly no", "{cluster}": "cluster-enabled yes"}
    server = next((RedisServer(tmp_path / "redis", more=[line]) for kind, line in kinds.items() if kind in url), None)
    ports = {"primary": failover.primary.port, "sentinel": failover.sentinel.port}
    if server is not None:
        server.start()
        ports |= {"memory": server.port, "cluster": server.port}
    try:
        address = RedisAddress.parse(url.format_map({kind: f"{HOST}:{port}" for kind, port in ports.items()}))
        with pytest.raises(ConfigurationError) as refused:
            check_redis(address, prefix="llm-provider:", safety=safety)
    finally:
        if server is not None:
            server.stop()
    assert told in refused.value.message
    assert "secret" not in refused.value.message


def test_too_few_replicas_are_a_warning(failover: RedisFailover) -> None:
    """They may come; until then nothing is accepted."""
    address, safety = RedisAddress.parse(failover.url), Safety(replicas=2, wait_seconds=0.4)
    [(event, sentence)] = check_redis(address, prefix="llm-provider:", safety=safety)
    assert (event, sentence.partition(":")[0]) == ("redis_is_limited", "1 replicas are there, 2 are asked for")


def test_a_socket_is_as_good_as_a_port(tmp_path: Path, key_prefix: str) -> None:
    """For the ledger, and for whoever uses the same connections."""
    path = Path("/tmp") / f"{key_prefix[:20].strip(':')}.sock"  # noqa: S108 A socket's path must be short.
    server = RedisServer(tmp_path / "redis", more=[f"unixsocket {path}"])
    server.start()
    try:
        with closing(connect_redis(f"unix://{path}?db=1", timeout_seconds=2)) as client:
            ledger_over(client, key_prefix, Safety()).ping()
    finally:
        server.stop()
