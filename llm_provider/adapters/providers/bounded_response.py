"""An HTTP response of which no part can cost more than it is worth: neither its size, nor its end, nor its charset."""

from collections.abc import Iterator
from typing import cast

import httpx2

from llm_provider.adapters.providers.deadline import deadline

# A verdict is a few hundred bytes, and a long chain of thought some hundred thousand.
MAX_BYTES = 4_194_304
# What an error says beside its status is worth a moment, and no vendor's is longer.
ERROR_BODY_SECONDS = 5.0
ERROR_BODY_BYTES = 262_144


def bounded(response: httpx2.Response) -> httpx2.Response:
    """The response as an SDK may read it."""
    if not response.is_success:
        return _with_what_came(response)
    _take_for_json(response.headers)
    response.stream = _BoundedStream(response.stream)
    return response


class _BoundedStream(httpx2.SyncByteStream):
    def __init__(self, inner: httpx2.SyncByteStream | httpx2.AsyncByteStream) -> None:
        # A response of this client's is never of the other kind, which one class in httpx2 serves as well.
        self._inner = cast("httpx2.SyncByteStream", inner)

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._inner:
            size += len(part)
            if size > MAX_BYTES:
                raise httpx2.DecodingError("The answer is larger than any verdict.")
            yield part

    def close(self) -> None:
        self._inner.close()


def _with_what_came(response: httpx2.Response) -> httpx2.Response:
    """The same error with as much of its body as came soon and can be read.

    Its status says what it means. A body that trickles, breaks off, or is not what its headers say would cost us that.
    """
    body = bytearray()
    try:
        with deadline(ERROR_BODY_SECONDS):
            for part in response.iter_raw():
                body += part
                if len(body) > ERROR_BODY_BYTES:
                    break
    except httpx2.TransportError:
        pass
    finally:
        response.close()
    headers = httpx2.Headers(response.headers)
    for about_the_body in ("content-encoding", "content-length", "transfer-encoding"):
        headers.pop(about_the_body, None)
    _take_for_json(headers)
    text = _decompressed(bytes(body), response.headers.get("content-encoding")).decode(errors="replace")
    return httpx2.Response(response.status_code, headers=headers, content=text.encode(), extensions=response.extensions)


def _decompressed(body: bytes, encoding: str | None) -> bytes:
    try:
        return httpx2.Response(200, headers={"content-encoding": encoding or "identity"}, content=body).content
    except httpx2.DecodingError:
        return b""


def _take_for_json(headers: httpx2.Headers) -> None:
    """JSON is UTF-8 whatever its header says (RFC 8259), and some SDKs believe the header."""
    content_type = headers.get("content-type", "")
    if "charset" in content_type.lower():
        headers["content-type"] = content_type.partition(";")[0]
