"""An HTTP response of which no part can cost more than it is worth: neither its size, nor its end, nor its charset."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import httpx2

from llm_provider.adapters.providers.deadline import deadline

# A verdict is a few hundred bytes, and a long chain of thought some hundred thousand.
MAX_BYTES = 4_194_304
# Objects, lists and commas: an SDK makes an object of its own of each value, and a million empty ones take it a minute.
MAX_JSON_SIGNS = 50_000
# What an error says beside its status is worth a moment, and no vendor's is longer.
ERROR_BODY_SECONDS = 5.0
ERROR_BODY_BYTES = 262_144


def bounded(response: httpx2.Response) -> httpx2.Response:
    """The response as an SDK may read it."""
    if not response.is_success:
        return _with_what_came(response)
    _take_for_json(response.headers)
    encoding = response.headers.pop("content-encoding", "identity")
    response.stream = _BoundedStream(response.stream, encoding)
    return response


class _BoundedStream(httpx2.SyncByteStream):
    """No more than MAX_BYTES, decompressed here, because a few bytes could grow to any size, and MAX_JSON_SIGNS."""

    def __init__(self, inner: httpx2.SyncByteStream | httpx2.AsyncByteStream, encoding: str) -> None:
        # A response of this client's is never of the other kind, which one class in httpx2 serves as well.
        self._inner = cast("httpx2.SyncByteStream", inner)
        self._encoding = encoding

    def __iter__(self) -> Iterator[bytes]:
        signs = 0
        for part in _decompressed(self._inner, self._encoding, MAX_BYTES):
            signs += sum(map(part.count, (b"{", b"[", b",")))
            if signs > MAX_JSON_SIGNS:
                raise httpx2.DecodingError("The answer has more parts than any verdict.")
            yield part

    def close(self) -> None:
        self._inner.close()


def _decompressed(parts: Iterable[bytes], encoding: str, most: int) -> Iterator[bytes]:
    """The parts as they were before their compression, if it is known; raises DecodingError beyond `most` bytes."""
    inflate, size = _inflater(encoding), 0
    for part in parts:
        try:
            plain = inflate(part, most - size + 1)
        except zlib.error as error:
            raise httpx2.DecodingError("The answer cannot be decompressed.") from error
        size += len(plain)
        if size > most:
            raise httpx2.DecodingError("The answer is larger than any verdict.")
        yield plain


def _inflater(encoding: str) -> Callable[[bytes, int], bytes]:
    """None is asked for, but some gateways compress all the same."""
    match encoding.strip().lower():
        case "gzip" | "x-gzip":
            return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress
        case "deflate":
            return zlib.decompressobj().decompress
        case _:
            return lambda part, most: part


def _with_what_came(response: httpx2.Response) -> httpx2.Response:
    """The same error with as much of its body as came soon and can be read.

    Its status says what it means. A body that trickles, breaks off, or is not what its headers say would cost us that.
    """
    body, encoding = bytearray(), response.headers.get("content-encoding", "identity")
    try:
        with deadline(ERROR_BODY_SECONDS):
            for part in _decompressed(response.iter_raw(), encoding, ERROR_BODY_BYTES):
                body += part
    except (httpx2.TransportError, httpx2.DecodingError):
        pass
    finally:
        response.close()
    headers = httpx2.Headers(response.headers)
    for about_the_body in ("content-encoding", "content-length", "transfer-encoding"):
        headers.pop(about_the_body, None)
    _take_for_json(headers)
    text = body.decode(errors="replace")
    return httpx2.Response(response.status_code, headers=headers, content=text.encode(), extensions=response.extensions)


def _take_for_json(headers: httpx2.Headers) -> None:
    """JSON is UTF-8 whatever its header says (RFC 8259), and some SDKs believe the header."""
    content_type = headers.get("content-type", "")
    if "charset" in content_type.lower():
        headers["content-type"] = content_type.partition(";")[0]
