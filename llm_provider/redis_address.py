"""Where Redis is, read once from LLM_PROVIDER_REDIS_URL: one server, a socket, or the Sentinels that know."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

_SERVERS = ("redis", "rediss", "valkey", "valkeys")
_SOCKETS = ("unix", "redis+unix")
_SENTINELS = ("sentinel", "sentinels")
_ENCRYPTED = ("rediss", "valkeys", "sentinels")

_OPTIONS = ("client_name", "protocol")
_TLS_OPTIONS = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_SENTINEL_OPTIONS = ("service", "sentinel_username", "sentinel_password")
_FORMS = (
    "must be redis://, rediss://, valkey:// or valkeys:// with [user:password@]host:port/number, "
    "unix://[user:password@]/path?db=number, "
    "or sentinel:// or sentinels:// with [user:password@]host:port,host:port/number?service=name; "
    "in a password / is %2F, ? is %3F, # is %23 and @ is %40"
)

Options = Mapping[str, str]


@dataclass(frozen=True)
class RedisAddress:
    """`service` is the name that Sentinels give the primary, and `hosts` are theirs then; no password is shown.

    `options` are what a connection takes as it stands in the URL.
    """

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    db: int = 0
    service: str = ""
    options: Options = field(default_factory=dict)
    login: Options = field(default_factory=dict, repr=False)
    sentinel_login: Options = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, url: str) -> "RedisAddress":
        """Raises ValueError with a sentence that shows nothing of the URL but the names of its parameters."""
        parts = _split(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        _refuse_unknown(parts.scheme, query)
        userinfo, _, hosts = parts.netloc.rpartition("@")
        username, _, password = userinfo.partition(":")
        is_socket = parts.scheme in _SOCKETS
        return cls(
            scheme=parts.scheme,
            hosts=() if is_socket else _hosts(hosts, 26379 if parts.scheme in _SENTINELS else 6379),
            path=unquote(parts.path) if is_socket else "",
            db=_number(query.get("db") or ("" if is_socket else parts.path.strip("/")) or "0"),
            service=query.get("service", ""),
            options=_options(parts.scheme, query),
            login=_login(unquote(username), unquote(password)),
            sentinel_login=_login(query.get("sentinel_username", ""), query.get("sentinel_password", "")),
        )

    @property
    def is_by_sentinel(self) -> bool:
        return bool(self.service)

    @property
    def is_encrypted(self) -> bool:
        return self.scheme in _ENCRYPTED

    @property
    def celery_url(self) -> str:
        """As Celery, kombu and flower write it, who mask the password wherever they show it."""
        login = ":".join(quote(self.login.get(part, ""), safe="") for part in ("username", "password"))
        userinfo = f"{login}@" if self.login else ""
        if self.path:
            return f"redis+socket://{userinfo}{self.path}?virtual_host={self.db}"
        (host, port), *_ = self.hosts
        kind = "sentinel" if self.is_by_sentinel else "rediss" if self.is_encrypted else "redis"
        return f"{kind}://{userinfo}{f'[{host}]' if ':' in host else host}:{port}/{self.db}"

    def __str__(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{self.scheme}://{hosts}{self.path}/{self.db}"


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        raise ValueError(_FORMS) from None
    is_legal = parts.scheme in (*_SERVERS, *_SENTINELS) or (parts.scheme in _SOCKETS and len(parts.path) > 1)
    is_whole = not parts.fragment and "@" not in f"{parts.path}{parts.query}"
    if not is_legal or not is_whole or ("," in parts.netloc and parts.scheme not in _SENTINELS):
        raise ValueError(_FORMS)
    return parts


def _refuse_unknown(scheme: str, query: Options) -> None:
    known = {
        "db",
        *_OPTIONS,
        *(_TLS_OPTIONS if scheme in _ENCRYPTED else ()),
        *(_SENTINEL_OPTIONS if scheme in _SENTINELS else ()),
    }
    if unknown := sorted(query.keys() - known):
        raise ValueError(f"has parameters that {scheme}:// does not know: {', '.join(unknown)}")
    if scheme in _SENTINELS and not query.get("service"):
        raise ValueError("must end with ?service=name, the name that the Sentinels give the primary")


def _hosts(listed: str, default_port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for host in listed.split(","):
        try:
            parts = urlsplit(f"//{host.strip()}")
            name, port = parts.hostname, parts.port
        except ValueError:
            raise ValueError(_FORMS) from None
        if port == 0:
            raise ValueError(_FORMS)
        hosts.append((name or "localhost", port or default_port))
    return tuple(hosts)


def _number(db: str) -> int:
    if not db.isdecimal():
        raise ValueError(_FORMS)
    return int(db)


def _options(scheme: str, query: Options) -> dict[str, str]:
    options = {name: query[name] for name in (*_OPTIONS, *_TLS_OPTIONS) if name in query}
    if scheme in _ENCRYPTED and options.setdefault("ssl_cert_reqs", "required") not in {"required", "optional", "none"}:
        raise ValueError("must have required, optional or none as ssl_cert_reqs")
    return options


def _login(username: str, password: str) -> dict[str, str]:
    return {name: value for name, value in (("username", username), ("password", password)) if value}
