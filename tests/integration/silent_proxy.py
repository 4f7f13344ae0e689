"""A TCP proxy that swallows what goes through some of its connections: they stay open, and nobody answers."""

import socket
import threading
from contextlib import closing, suppress
from urllib.parse import urlsplit

from scripts.local_servers import HOST


class SilentProxy:
    """Stands before one server; `fall_silent` concerns the connections there are, and none that come later."""

    def __init__(self, url: str) -> None:
        server = urlsplit(url)
        self._server = (server.hostname, server.port)
        self._listener = socket.create_server((HOST, 0))
        self._silenced: list[threading.Event] = []
        self.port = self._listener.getsockname()[1]
        self.url = f"redis://{HOST}:{self.port}/0"
        threading.Thread(target=self._serve, daemon=True).start()

    def fall_silent(self) -> int:
        """From here on nothing passes through what is connected; how many connections that are."""
        silenced, self._silenced = self._silenced, []
        for connection in silenced:
            connection.set()
        return len(silenced)

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                try:
                    server = socket.create_connection(self._server)
                except OSError:
                    client.close()
                    continue
                self._connect(client, server)

    def _connect(self, client: socket.socket, server: socket.socket) -> None:
        is_silent = threading.Event()
        self._silenced.append(is_silent)
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=_pass_on, args=(source, sink, is_silent), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket, is_silent: threading.Event) -> None:
    with closing(source), closing(sink), suppress(OSError):
        while data := source.recv(65536):
            if not is_silent.is_set():
                sink.sendall(data)
