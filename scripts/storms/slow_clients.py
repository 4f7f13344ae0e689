"""Clients that take their time with a web process; whoever else asks it must not notice."""

import http.client
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

HOST = "127.0.0.1"
HEALTH_SECONDS = 5.0  # Within which /healthz has to answer, whatever others do.
OF_EACH = 10
STEP_SECONDS = 0.2

_HEAD = b"POST /api/v1/comparison HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
_HEAD_OF_BODY = _HEAD + b"Content-Length: 4000\r\n\r\n"


@dataclass(frozen=True)
class Manner:
    """What a client says at once, what it adds at every step, and whether it takes the answers."""

    opening: bytes
    drip: bytes = b""
    reads: bool = True


MANNERS = (
    Manner(b""),
    Manner(_HEAD),
    Manner(_HEAD, drip=b"X"),
    Manner(_HEAD_OF_BODY + b'{"user_prompt": "'),
    Manner(_HEAD_OF_BODY, drip=b" "),
    Manner(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 20, reads=False),
)


@dataclass
class SlowClient:
    """One connection, opened again when it was closed."""

    port: int
    manner: Manner
    connection: socket.socket | None = None

    def step(self) -> None:
        try:
            if self.connection is None:
                self._open()
            else:
                self._go_on(self.connection)
        except BlockingIOError:
            pass  # Nothing to read, or no room to write: it is waited for, and that is all this client does.
        except OSError:
            self.close()

    def _open(self) -> None:
        self.connection = socket.socket()
        if not self.manner.reads:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        self.connection.settimeout(1)
        self.connection.connect((HOST, self.port))
        self.connection.setblocking(False)
        self.connection.send(self.manner.opening)

    def _go_on(self, connection: socket.socket) -> None:
        connection.send(self.manner.drip)
        if self.manner.reads and not connection.recv(65536):
            self.close()

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


@dataclass
class SlowClients:
    """As many of each manner, as long as the block runs."""

    port: int
    _stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="slow clients", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        clients = [SlowClient(self.port, manner) for manner in MANNERS for _ in range(OF_EACH)]
        while not self._stopped.wait(STEP_SECONDS):
            for client in clients:
                client.step()
        for client in clients:
            client.close()


def ask_health(port: int, seconds: float = HEALTH_SECONDS) -> float | None:
    """Seconds until /healthz answered, whatever it said; None when it did not in time."""
    begin = time.monotonic()
    connection = http.client.HTTPConnection(HOST, port, timeout=seconds)
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        connection.close()
        return time.monotonic() - begin
    connection.close()
    return None
