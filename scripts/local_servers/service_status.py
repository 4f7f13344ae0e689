"""How the project's services stand."""

from __future__ import annotations

from dataclasses import dataclass

from scripts.local_servers.addresses import without_password
from scripts.local_servers.own_servers import configured_elsewhere, local_servers
from scripts.local_servers.server import LocalServer


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


def services_status() -> list[ServiceStatus]:
    """How each service stands, asked now."""
    return [_status(server) for server in local_servers()]


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


def spoken_time(seconds: float) -> str:
    """A duration in its two largest units, for people."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86_400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {int(seconds) % 60} s" if minutes else f"{int(seconds)} s"
