"""Which cluster answers at an address, asked in Kafka's own protocol without a client."""

from __future__ import annotations

import socket
import struct

from scripts.local_servers.ports import HOST
from scripts.local_servers.waiting import PROBE_SECONDS

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
