"""Reading a request's body within the configured limit, however it is sent."""

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge

# Of a body that is refused so much is read and thrown away, so that its sender sees the answer and may go on using
# the connection; whoever sends more finds it closed.
DISCARD_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024


def content_limit(max_body_bytes: int) -> int:
    """Flask's MAX_CONTENT_LENGTH: a chunked body is cut off there without a word, so the byte beyond tells it."""
    return max_body_bytes + 1


def read_body() -> bytes:
    """The whole body; raises RequestEntityTooLarge for one beyond the limit."""
    body = request.get_data(cache=False)
    if request.max_content_length is not None and len(body) >= request.max_content_length:
        raise RequestEntityTooLarge
    return body


def discard_body() -> None:
    """Read what the client still sends."""
    if not request.environ.get("wsgi.input_terminated"):
        return
    stream, left = request.environ["wsgi.input"], DISCARD_BYTES
    while left > 0 and (chunk := stream.read(_CHUNK_BYTES)):
        left -= len(chunk)
