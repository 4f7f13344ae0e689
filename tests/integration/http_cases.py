"""Requests that no client should send, drawn with a seed: odd methods, paths, headers, framings and bodies."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.integration.web_process import comparison

METHODS = [
    "GET",
    "HEAD",
    "OPTIONS",
    "PUT",
    "DELETE",
    "PATCH",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "post",
    "Post",
    "P",
    "POST\t",
]
QUEUE_IDS = [
    "7b0f4c1e-5c55-4d0e-8f3a-0d7b2f1c9a10",
    "x",
    "%00",
    "%ff",
    "%zz",
    "..",
    "%2e%2e%2f",
    "a%20b",
    "q" * 3_000,
    "é",
]
PATHS = [
    *(
        "/",
        "//",
        "*",
        "",
        "x",
        "/healthz",
        "/metrics",
        "/healthz/",
        "/api/v1/providers",
        "/api/v1/models",
        "/favicon.ico",
    ),
    *(
        "//api/v1/comparison",
        "/api//v1/comparison",
        "/api/v1/comparison/",
        "/api/v1/comparison?x=%ff&x",
        "/api%2Fv1/models",
    ),
    *("/api/v1/comparison#x", "http://localhost/api/v1/comparison", "http://evil.example/healthz", "evil.example:80"),
    *("/api/v1/models?provider=openai", "/api/v1/models?provider=acme", "/api/v1/models?provider=%00", "/%0d%0aX: y"),
    *("/api/v1/providers/mock/test", "/api/v1/providers/acme/test", "/api/v1/providers/%F0%9F/test", f"/{'p' * 5_000}"),
    *(f"/api/v1/{route}/{queue_id}" for route in ("status", "results") for queue_id in QUEUE_IDS),
]
HOSTS = [
    "127.0.0.1",
    "[::1]:80",
    "web",
    "evil.example",
    "evil.example:80",
    "a b",
    "",
    "localhost:99999",
    "[::1",
    "x" * 300,
    ".",
]
TYPES = [
    "application/x+json",
    "application/json; charset=utf-16",
    "text/plain",
    "multipart/form-data",
    "",
    "\xff",
    "a" * 4_000,
]
HEADERS = [
    *(("Origin", origin) for origin in ("null", "http://evil.example", "http://localhost", "http://[", "é")),
    *(("Sec-Fetch-Site", site) for site in ("cross-site", "same-site", "same-origin", "none", "")),
    *(("Content-Encoding", coding) for coding in ("gzip", "identity", "br, gzip", "")),
    *(("Transfer-Encoding", coding) for coding in ("chunked", "gzip", "gzip, chunked", "chunked, chunked", "nonsense")),
    *(("Content-Length", length) for length in ("0", "-1", "1e3", "9" * 30, "\u00b2", "")),
    *(("Prefer", prefer) for prefer in ("respond-async", ",,;=", "é")),
    *(("traceparent", trace) for trace in (f"00-{'a' * 32}-{'b' * 16}-01", "00", "é" * 100)),
    *(("Expect", "100-continue"), ("Expect", "x"), ("Host", "other"), ("SCRIPT_NAME", "/x"), ("PATH_INFO", "/x")),
    *(("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Prefix", "//evil"), ("X-Forwarded-Proto", "https")),
    *(("tracestate", "s" * 600), ("X-Long", "l" * 9_000), ("X bad", "x"), ("X-Nul", "a\0b"), ("Upgrade", "h2c")),
    *(("Cookie", "=;="), ("Range", "bytes=0-")),
]  # fmt: skip
VALUES: list[Any] = [
    *(None, True, 0, -1, 1.5, 2, 1e-300, 1e308, 10**30, 9**999, [], {}, [[]], [None], {"a": {"": []}}),
    *("", " ", "\u200b\u3164", "x", "\0", "é", "x" * 300, "x" * 70_000, "mock", "openai", "t.v1", "__t", QUEUE_IDS[0]),
]  # fmt: skip
FIELDS = [
    *comparison(),
    "callback_topic",
    "correlation_id",
    "user_id",
    "deadline_seconds",
    "metadata",
    "unknown",
    "",
    "n" * 5_000,
]
OVERRIDES = [
    "provider_override",
    "model_override",
    "temperature_override",
    "system_prompt_override",
    "max_tokens_override",
]
# Each is put into a body in place of a value.
LITERALS = [
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 5_000,
    '"\\ud800"',
    '"\x01"',
    "[" * 300 + "]" * 300,
    '{"k":1,"k":2}',
    "tru",
    "'x'",
    "",
]
WHOLE_BODIES = [
    b"",
    b"null",
    b"1",
    b'"x"',
    b"[]",
    b"{}",
    b"[" * 50_000,
    b'{"a":' * 50_000,
    b"\xff\xfe",
    b"\0" * 9,
    b"x" * 1_100_000,
]
SIZES = [b"zz", b"-5", b"", b"5;\x01", b"fffffffffffffffff", b"1" * 9_000, b"5 ", b"0x5"]


@dataclass
class Case:
    """One request before it is written down."""

    method: str = "POST"
    path: str = "/api/v1/comparison"
    version: str = "HTTP/1.1"
    headers: list[tuple[str, str]] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=comparison)
    body: bytes | None = None
    frame: Callable[[bytes], tuple[str, bytes]] = lambda body: (f"Content-Length: {len(body)}\r\n", body)

    def raw(self) -> bytes:
        """Its bytes; the host and the type are the right ones unless another one is among the headers."""
        body = json.dumps(self.fields).encode() if self.body is None else self.body
        usual = {"Host": "localhost", "Content-Type": "application/json", "Connection": "close"}
        named = [*(each for each in usual.items() if each[0] not in dict(self.headers)), *self.headers]
        framing, framed = self.frame(body)
        head = f"{self.method} {self.path} {self.version}\r\n" + "".join(f"{name}: {text}\r\n" for name, text in named)
        return f"{head}{framing}\r\n".encode(errors="replace") + framed


def draw(source: random.Random) -> bytes:
    """A request with up to three things odd about it."""
    case = Case()
    for change in source.sample(CHANGES, source.choice([0, 1, 1, 1, 2, 3])):
        change(case, source)
    return case.raw()


def _method(case: Case, source: random.Random) -> None:
    case.method = source.choice(METHODS)


def _path(case: Case, source: random.Random) -> None:
    case.path, case.method = source.choice(PATHS), source.choice(["GET", "POST", case.method])


def _version(case: Case, source: random.Random) -> None:
    case.version = source.choice(["HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/0.9", "HTTP/1.1x"])


def _host(case: Case, source: random.Random) -> None:
    case.headers.append(("Host", source.choice(HOSTS)))


def _type(case: Case, source: random.Random) -> None:
    case.headers.append(("Content-Type", source.choice(TYPES)))


def _header(case: Case, source: random.Random) -> None:
    case.headers.append(source.choice(HEADERS))


def _many_headers(case: Case, source: random.Random) -> None:
    case.headers += [(f"X-{number}", "x") for number in range(source.choice([50, 150]))]


def _field(case: Case, source: random.Random) -> None:
    case.fields[source.choice(FIELDS)] = source.choice(VALUES)


def _topic(case: Case, _: random.Random) -> None:
    # Accepted for later, so that what should have been refused shows.
    case.fields["callback_topic"] = "t.v1"


def _override(case: Case, source: random.Random) -> None:
    case.fields["llm_config_overrides"] = {"provider_override": "mock", source.choice(OVERRIDES): source.choice(VALUES)}


def _literal(case: Case, source: random.Random) -> None:
    marked = json.dumps(case.fields | {source.choice(FIELDS): "here"})
    case.body = marked.replace('"here"', source.choice(LITERALS)).encode()


def _whole_body(case: Case, source: random.Random) -> None:
    case.body = source.choice(WHOLE_BODIES)


def _encoding(case: Case, source: random.Random) -> None:
    case.body = json.dumps(case.fields).encode(
        source.choice(["utf-8-sig", "utf-16", "utf-16-le", "utf-32-be", "utf-7"])
    )


def _bytes(case: Case, source: random.Random) -> None:
    broken = bytearray(json.dumps(case.fields).encode())
    for _ in range(source.choice([1, 3])):
        broken[source.randrange(len(broken))] = source.randrange(256)
    case.body = bytes(broken)


def _tail(case: Case, source: random.Random) -> None:
    whole = json.dumps(case.fields).encode()
    case.body = source.choice(
        [whole + b"}", whole + b" x", whole + whole, whole[:-1], whole[:40], whole + b"\0", whole + b"\n"]
    )


def _length(case: Case, source: random.Random) -> None:
    length = source.choice(["0", "5", "999", "2000000", "-1", "", "+5", "1_0", "0x5", "9" * 40])
    case.frame = lambda body: (f"Content-Length: {length}\r\n", body)


def _chunks(case: Case, source: random.Random) -> None:
    size, end = (
        source.choice(SIZES),
        source.choice([b"0\r\n\r\n", b"0\r\n", b"", b"XX", b"0\r\nHost: x\r\n\r\n", b"0\r\nA: b\n\n"]),
    )
    fine, between = source.random() < 0.6, source.choice([b"\r\n", b"\r\n", b"XX", b""])
    case.frame = lambda body: (
        "Transfer-Encoding: chunked\r\n",
        (b"%x" % len(body) if fine else size) + b"\r\n" + body + between + end,
    )


CHANGES: list[Callable[[Case, random.Random], None]] = [
    *(_method, _path, _path, _version, _host, _type, _header, _header, _many_headers),
    *(
        _field,
        _field,
        _topic,
        _topic,
        _topic,
        _override,
        _literal,
        _whole_body,
        _encoding,
        _bytes,
        _tail,
        _length,
        _chunks,
    ),
]
