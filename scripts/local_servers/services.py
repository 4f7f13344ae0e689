"""What `scripts/services` does, and what the demo starts: a Redis and a Kafka that answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scripts.local_servers.addresses import without_password
from scripts.local_servers.errors import ServerError
from scripts.local_servers.file_lock import locked
from scripts.local_servers.jar_folder import kafka_jars_path
from scripts.local_servers.kafka_broker import KafkaBroker
from scripts.local_servers.own_servers import configured_elsewhere, local_servers, state_directory
from scripts.local_servers.ports import first_free_port
from scripts.local_servers.server import LocalServer

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


def services_up(report: Report = lambda line: None) -> Services:
    """Have a Redis and a Kafka that answer: the user's own where configured, else local ones.

    Raises ServerError. Whatever ends this early, Ctrl-C included, leaves nothing running that it started.
    """
    started: list[LocalServer] = []
    with locked(state_directory() / "lock"):
        servers = local_servers()
        # Looked at before anything is started: one that is silent ends this at once.
        environment = _theirs(servers, report)
        try:
            for server in servers:
                if server.variable not in environment:
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


def _theirs(servers: list[LocalServer], report: Report) -> dict[str, str]:
    """The user's own servers by variable, all of which answer."""
    environment: dict[str, str] = {}
    for server in servers:
        if theirs := configured_elsewhere(server):
            _check_theirs(server, theirs)
            report(f"{server.name}: yours, at {without_password(theirs)}")
            environment[server.variable] = theirs
    return environment


def _up(server: LocalServer, started: list[LocalServer], report: Report) -> str:
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
