"""How gunicorn runs the web process. Read in its main process, so that a wrong setting stops the boot there."""

import sys
from typing import Any

import structlog
from gunicorn.glogging import Logger

from llm_provider import logs
from llm_provider.boot_checks import check_redis
from llm_provider.config import load_settings
from llm_provider.errors import ConfigurationError
from llm_provider.metrics import share_among_processes

log = structlog.get_logger(__name__)

try:
    _settings = load_settings()
    share_among_processes()
except ConfigurationError as error:
    sys.exit(f"llm-provider: {error.message}")

worker_class = "llm_provider.web_worker.WebWorker"
workers = _settings.web_processes
threads = _settings.web_threads
worker_connections = _settings.web_connections
loglevel = _settings.log_level.lower()
# All calls for a synchronous request together may last as long as one may, after 2 s for its turn; a rollout waits.
graceful_timeout = int(_settings.provider_timeout_seconds) + 10
keepalive = 75
forwarded_allow_ips = ",".join(_settings.forwarded_allow_ips)
# gunicorn would let a proxy on this machine, and so everybody there, replace the path by a header with an underscore.
forwarder_headers = ""
# Its one path in the home directory would be shared by every gunicorn of this user.
control_socket_disable = True


class JsonLogger(Logger):  # type: ignore[misc] # gunicorn ships no types.
    """gunicorn's lines take the way of all others: one JSON form."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = []
        self.error_log.propagate = True


logger_class = JsonLogger
logs.configure(_settings.log_level)


def on_starting(server: Any) -> None:
    """Before the first process is forked: what can never work is told once, and ends all."""
    try:
        check_redis(_settings)
    except ConfigurationError as error:
        sys.exit(f"llm-provider: {error.message}")
