"""`scripts/services` on real servers: a state directory of its own, free ports, its own processes."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from redis import Redis

from scripts.local_servers import REPOSITORY, KafkaBroker, RedisServer, free_port

REDIS = "LLM_PROVIDER_REDIS_URL"
KAFKA = "LLM_PROVIDER_KAFKA_BOOTSTRAP_SERVERS"


class Script:
    """The script as a user calls it, on one state directory."""

    def __init__(self, state: Path) -> None:
        own = {"LLM_PROVIDER_LOCAL_DIR": str(state)}
        self.environment = {k: v for k, v in os.environ.items() if k not in (REDIS, KAFKA)} | own
        self.redis = RedisServer(state / "redis")
        self.kafka = KafkaBroker(state / "kafka")
        for server in (self.redis, self.kafka):
            # The ports it remembers come before the usual ones, which may be somebody else's.
            server.directory.mkdir()
            (server.directory / "server.port").write_text(f"{server.port}\n")

    def begin(self, command: str, **configured: str) -> subprocess.Popen[str]:
        """Start the script without waiting for it."""
        return subprocess.Popen(
            [REPOSITORY / "scripts" / "services", command],
            env=self.environment | configured,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str, **configured: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        process = self.begin(command, **configured)
        out, err = process.communicate(timeout=150)
        return process.returncode, out, err

    def exports(self) -> str:
        return f"export {REDIS}={self.redis.url}\nexport {KAFKA}={self.kafka.bootstrap_servers}\n"


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    """The script on a fresh state directory; whatever it left running ends with the test."""
    state = tmp_path / "local"
    state.mkdir()
    script = Script(state)
    yield script
    script.run("down")


def test_up_status_down(script: Script) -> None:
    """Two calls at once share one pair of servers; a stale pid is seen through; down leaves nothing."""
    (script.redis.directory / "server.pid").write_text(f"{os.getpid()}\n")

    both = [script.begin("up"), script.begin("up")]
    printed = [process.communicate(timeout=150) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert [out for out, _ in printed] == [script.exports()] * 2
    assert "started" in printed[0][1] + printed[1][1]
    assert "runs already" in printed[0][1] + printed[1][1]

    code, out, _ = script.run("status")
    assert code == 0
    pids = (script.redis.pid, script.kafka.pid)
    for shown in (script.redis.url, script.kafka.bootstrap_servers, *pids):
        assert str(shown) in out

    assert script.run("up")[:2] == (0, script.exports())
    assert (script.redis.pid, script.kafka.pid) == pids

    code, _, err = script.run("down")
    assert (code, script.redis.pid, script.kafka.pid) == (0, None, None)
    assert all(f"pid {pid}" in err for pid in pids)
    assert script.run("status")[0] == 1
    assert script.run("env")[:2] == (0, "")
    assert script.run("down")[0] == 0


def test_what_was_stored_survives_a_kill(script: Script) -> None:
    """After kill -9 of both, up brings them back at the same addresses with their data."""
    assert script.run("up")[0] == 0
    write(script)
    script.redis.kill()
    script.kafka.kill()
    assert script.run("status")[0] == 1
    assert script.run("up")[:2] == (0, script.exports())
    assert read(script) == (b"kept", [b"kept"])


def write(script: Script) -> None:
    """One key and one acknowledged record."""
    servers = script.kafka.bootstrap_servers
    with Redis.from_url(script.redis.url) as redis:
        redis.set("key", "kept")
    admin = KafkaAdminClient(bootstrap_servers=servers)
    admin.create_topics(["records"])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=False)
    producer.send("records", b"kept").get(timeout=20)
    producer.close(timeout=5)


def read(script: Script) -> tuple[object, list[bytes]]:
    """What is in the key and in the topic."""
    with Redis.from_url(script.redis.url) as redis:
        key = redis.get("key")
    consumer = KafkaConsumer(
        "records",
        bootstrap_servers=script.kafka.bootstrap_servers,
        auto_offset_reset="earliest",
        consumer_timeout_ms=3000,
    )
    records = [record.value for record in consumer]
    consumer.close()
    return key, records


def test_servers_of_ones_own_are_asked_and_never_started_or_stopped(script: Script, tmp_path: Path) -> None:
    """A set variable means that server and no other."""
    redis, kafka = RedisServer(tmp_path / "redis"), KafkaBroker(tmp_path / "kafka")
    try:
        redis.start()
        kafka.start()
        yours = {REDIS: redis.url, KAFKA: kafka.bootstrap_servers}
        code, out, err = script.run("up", **yours)
        assert (code, out) == (0, "")
        assert err.count("yours") == 2
        code, out, _ = script.run("status", **yours)
        assert (code, out.count("yours")) == (0, 2)
        assert script.run("down", **yours)[0] == 0
        assert redis.ready()
        assert kafka.ready()
        assert (script.redis.pid, script.kafka.pid) == (None, None)
    finally:
        kafka.stop()
        redis.stop()


@pytest.mark.parametrize("variable", [REDIS, KAFKA])
def test_when_a_server_of_ones_own_is_silent_nothing_is_started(script: Script, variable: str) -> None:
    """It is looked at first, whichever it is; the message says what to do."""
    nobody = f"127.0.0.1:{free_port()}"
    code, out, err = script.run("up", **{variable: f"redis://{nobody}/0" if variable == REDIS else nobody})
    assert (code, out) == (1, "")
    assert f"unset {variable}" in err
    assert "Traceback" not in err
    assert "listens at" not in err
    assert not script.redis.log.exists()
    assert not script.kafka.log.exists()


def test_an_interrupted_up_leaves_nothing_running(script: Script) -> None:
    """A Ctrl-C while Kafka starts ends Kafka and the Redis that was started before it."""
    up = script.begin("up")
    end = time.monotonic() + 60
    while script.kafka.pid is None and time.monotonic() < end:
        time.sleep(0.02)
    # However long this test is kept from the processor, it comes before Kafka answers.
    script.kafka.freeze()
    up.send_signal(signal.SIGINT)
    _, err = up.communicate(timeout=60)
    assert up.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert (script.redis.pid, script.kafka.pid) == (None, None)


def test_a_port_lost_to_another_program_is_replaced(tmp_path: Path) -> None:
    """Between choice and use another run may take the port: the server moves, and says where it went."""
    with RedisHolder(tmp_path / "first") as first:
        second = RedisServer(tmp_path / "second")
        second.port = first.port
        try:
            second.start()
            assert second.ready()
            assert second.port != first.port
        finally:
            second.stop()


def test_a_frozen_server_runs_but_does_not_answer(tmp_path: Path) -> None:
    """Its port still takes connections, so only an answer tells."""
    with RedisHolder(tmp_path) as server:
        server.freeze()
        assert server.pid is not None
        assert not server.ready()
        server.thaw()
        assert server.ready()


class RedisHolder:
    """A Redis for the length of a with block."""

    def __init__(self, directory: Path) -> None:
        self.server = RedisServer(directory)

    def __enter__(self) -> RedisServer:
        self.server.start()
        return self.server

    def __exit__(self, *_: object) -> None:
        self.server.stop()
