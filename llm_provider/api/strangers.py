"""What is refused before a route is asked: a stranger's web page, and a name that a stranger may point at us."""

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from flask import request
from werkzeug.exceptions import Forbidden, NotFound

from llm_provider.config import PREFIX
from llm_provider.errors import RequestRejected

# What a browser says of the page that asks. A page can forge none of it, but post what a form can, and by DNS
# rebinding be of an origin whose name means this machine.
OWN_SITES = {"same-origin", "none"}
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
NOWHERE = urlsplit("")


class StrangerGuard:
    """Looks at every request but those for the endpoints that are open to all."""

    def __init__(self, host_names: Iterable[str], open_endpoints: Iterable[str]) -> None:
        self._host_names = tuple(host_names)
        self._open_endpoints = frozenset(open_endpoints)

    def check(self) -> None:
        """Raises NotFound, RequestRejected or Forbidden."""
        if "//" in request.environ["PATH_INFO"]:
            # The router would take it for the same path with one slash, or redirect there in HTML.
            raise NotFound
        if request.endpoint not in self._open_endpoints:
            self._check_host()
            _check_page()

    def _check_host(self) -> None:
        sent = request.headers.get("Host")
        if sent is None and request.environ["SERVER_PROTOCOL"] == "HTTP/1.0":
            return
        if sent is None or _is_elsewhere(request.environ.get("RAW_URI", "/"), sent):
            raise RequestRejected("The request must name one host, in its Host header.")
        name = (_split(f"//{request.host}").hostname or "").removesuffix(".")
        if not self._is_trusted(name):
            raise RequestRejected(
                "The Host header names a host that this service is not known by; its operator can add the name to "
                f"{PREFIX}TRUSTED_HOSTS."
            )

    def _is_trusted(self, name: str) -> bool:
        # A name without a dot is in no public DNS, and an address in none at all: no stranger says what they mean.
        if "." not in name or _is_address(name):
            return name != ""
        return any(
            known in {"*", name} or (known.startswith(".") and f".{name}".endswith(known)) for known in self._host_names
        )


def _check_page() -> None:
    site, origin = request.headers.get("Sec-Fetch-Site", "none"), request.headers.get("Origin")
    # Nobody but its reader sees what a link leads to.
    follows_link = request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"
    if (site not in OWN_SITES and not follows_link) or (origin is not None and not _is_ours(origin)):
        raise Forbidden("Web pages of another origin may not ask this service.")


def _is_ours(origin: str) -> bool:
    page = _split(origin)
    port = DEFAULT_PORTS.get(page.scheme)
    return port is not None and page.netloc.lower().removesuffix(port) == request.host.lower().removesuffix(port)


def _is_elsewhere(target: str, host: str) -> bool:
    """Whether a request line with a whole address, or with no path, asks another host than the header does."""
    return not target.startswith("/") and _split(target).netloc.lower() != host.lower()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return NOWHERE
