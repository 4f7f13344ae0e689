"""An Apache Kafka of one KRaft node on loopback."""

from __future__ import annotations

import base64
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from scripts.local_servers.jar_cache import kafka_jars
from scripts.local_servers.java import find_java
from scripts.local_servers.kafka_metadata import kafka_cluster_at
from scripts.local_servers.kafka_properties import KAFKA_LOGGING, NO_MORE, kafka_config
from scripts.local_servers.kafka_release import KAFKA_WAYS_ON
from scripts.local_servers.ports import HOST, free_port
from scripts.local_servers.server import LocalServer


class KafkaBroker(LocalServer):
    """One Apache Kafka node, broker and controller in one process; topics are made by whoever needs them."""

    name = KAFKA_WAYS_ON.name
    variable = KAFKA_WAYS_ON.variable
    default_port = 9092
    ways_on = KAFKA_WAYS_ON
    start_seconds = 60.0
    stop_seconds = 30.0

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        heap_megabytes: int = 256,
        properties: Mapping[str, str] = NO_MORE,
    ) -> None:
        super().__init__(directory, port)
        self.heap_megabytes = heap_megabytes
        self.properties = properties

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
        lines = (line.partition("=") for line in stored.splitlines())
        return next((value.strip() for name, _, value in lines if name == "cluster.id" and value.strip()), None)

    @property
    def _storage(self) -> Path:
        return self.directory / "data" / "meta.properties"

    def _prepare(self) -> list[str]:
        jvm = self._jvm(find_java(), kafka_jars())
        (self.directory / "log4j2.properties").write_text(KAFKA_LOGGING)
        text = kafka_config(self.port, free_port(), self.directory / "data", self.properties)
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
