"""Reading a request's body: JSON in UTF-8 and nothing else, within the configured limit, however it is sent."""

import codecs
import json

import jiter
from flask import request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from llm_provider.errors import RequestRejected


class UnsupportedEncoding(UnsupportedMediaType):
    """The body is compressed, or encoded in another way."""


def content_limit(max_body_bytes: int) -> int:
    """Flask's MAX_CONTENT_LENGTH: a chunked body is cut off there without a word, so the byte beyond tells it."""
    return max_body_bytes + 1


def read_json() -> bytes:
    """The whole body, which is text in UTF-8 and said to be JSON; raises RequestRejected for another."""
    check_declaration()
    body = _read_body()
    try:
        body.decode(_detected_encoding(body))
    except UnicodeError:
        raise RequestRejected("The body must be UTF-8.", field="body") from None
    return body.removeprefix(codecs.BOM_UTF8)


def _detected_encoding(body: bytes) -> str:
    encoding = json.detect_encoding(body)
    if not encoding.startswith("utf-8"):
        raise UnicodeError(encoding)
    return encoding


def check_declaration() -> None:
    """Raises UnsupportedMediaType unless the headers announce JSON in UTF-8, not compressed."""
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    # A form, or a page that asks nobody's leave, can send neither of these types.
    kind, _, name = request.mimetype.partition("/")
    if kind != "application" or not (name == "json" or name.endswith("+json")) or charset not in {"utf-8", "utf8"}:
        raise UnsupportedMediaType("Send the body as JSON in UTF-8, with Content-Type: application/json.")
    codings = f"{request.headers.get('Content-Encoding', '')},{request.headers.get('Transfer-Encoding', '')}"
    unknown = {coding.strip().lower() for coding in codings.split(",")} - {"", "identity", "chunked"}
    if unknown:
        raise UnsupportedEncoding(f"Send the body as it is: this service does not decode {', '.join(sorted(unknown))}.")


def _read_body() -> bytes:
    try:
        body = request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise
    except Exception as error:
        # Werkzeug's for a connection that broke, or the server's own for chunks that it cannot read.
        raise RequestRejected("The body is not whole, or its chunks are malformed.", field="body") from error
    if request.max_content_length is not None and len(body) >= request.max_content_length:
        raise RequestEntityTooLarge
    if request.content_length is not None and len(body) < request.content_length:
        raise RequestRejected("The body is shorter than its Content-Length.", field="body")
    return body


def refuse_ambiguous(body: bytes) -> None:
    """Raises RequestRejected for what parsers read differently: a key that stands twice, NaN in an unknown field."""
    try:
        jiter.from_json(body, catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError as error:
        raise RequestRejected(f"{error}.", field="body") from None
