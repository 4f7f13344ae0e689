"""Ports on loopback."""

from __future__ import annotations

import contextlib
import random
import socket

from scripts.local_servers.errors import ServerError
from scripts.local_servers.waiting import PROBE_SECONDS

HOST = "127.0.0.1"
# Below the range from which Linux, macOS and Windows take the ports of outgoing connections: a client that
# keeps knocking at a server that is down could otherwise be given that very port, and block its return.
PORTS = range(20_000, 32_768)


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
