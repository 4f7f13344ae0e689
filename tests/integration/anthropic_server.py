"""A local server that speaks the Messages API; what it shares with the other vendors' is in vendor_server.py.

Written from Anthropic's published API reference for version 2026-10-21, read on 2026-11-22:
https://platform.claude.com/docs/en/api/messages (the request and the message object),
https://platform.claude.com/docs/en/api/versioning (what each version takes),
https://platform.claude.com/docs/en/build-with-claude/structured-outputs (what a schema may hold),
https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons and
https://platform.claude.com/docs/en/api/errors, https://platform.claude.com/docs/en/api/rate-limits (the errors).
What that reference does not allow is a 400.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tests.integration.vendor_server import VERDICT, Request, VendorBehaviour, VendorServer, as_bytes

VERSIONS = {"2023-06-01", "2026-10-21"}
SAMPLING = {"temperature", "top_p", "top_k"}
PARAMETERS = {
    *{"model", "max_tokens", "messages", "system", "output_config", "tools", "tool_choice", "thinking", "metadata"},
    *{"stop_sequences", "service_tier", "speed", "stream", "cache_control", "inference_geo"},
}
EFFORTS = {"low", "medium", "high", "xhigh", "max"}
# What a schema may not hold, since the model's grammar cannot enforce it.
UNSUPPORTED = {"minimum", "maximum", "multipleOf", "minLength", "maxLength", "maxItems", "uniqueItems"}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}


@dataclass(frozen=True)
class Behaviour(VendorBehaviour):
    """mode: also an error's status, like 429. `message` replaces fields of a good message, `code` and `says` are an
    error's error_code and words.
    """

    code: str | None = None
    says: str | None = None
    message: dict[str, Any] = field(default_factory=dict)


class Refused(Exception):
    """What the vendor would not take."""

    def __init__(self, status: int, says: str) -> None:
        super().__init__(says)
        self.status, self.says = status, says


class AnthropicServer(VendorServer[Behaviour]):
    behaves = Behaviour
    headers: ClassVar[Mapping[str, str]] = {
        **VendorServer.headers,
        "request-id": "req_local",
        "anthropic-organization-id": "org-local",
    }

    def is_call(self, request: Request) -> bool:
        return (request.method, request.path) == ("POST", "/v1/messages")

    def answer(self, request: Request, behaviour: Behaviour) -> tuple[int, bytes]:
        status = int(behaviour.mode) if behaviour.mode.isdigit() else behaviour.status
        if behaviour.body is not None:
            return status, as_bytes(behaviour.body)
        try:
            sent = accepted(request)
        except Refused as refusal:
            return refusal.status, self.error(refusal.status, refusal.says)
        if status != 200:
            # A vendor's message may quote the prompt, so this one does.
            quoted = f"Trouble with: {sent['messages'][-1]['content'][:200]}"
            return status, self.error(status, behaviour.says or quoted, behaviour.code)
        body = json.dumps({**message(sent), **behaviour.message}).encode()
        return 200, body[: len(body) // 2] if behaviour.mode == "invalid_json" else body

    def error(self, status: int, message: str, code: str | None = None) -> bytes:
        error: dict[str, Any] = {"type": ERROR_TYPES.get(status, "api_error"), "message": message}
        if code is not None:
            error["details"] = {"error_code": code}
        return json.dumps({"type": "error", "error": error, "request_id": "req_local"}).encode()


def accepted(request: Request) -> dict[str, Any]:
    """The request's body, when the vendor would take it."""
    key = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
    if not key:
        raise Refused(401, "x-api-key header is required")
    version = request.headers.get("anthropic-version")
    if version not in VERSIONS:
        raise Refused(400, "anthropic-version: header is required")
    try:
        sent = request.json()
        complaint = next(_complaints(sent, PARAMETERS if version == "2026-10-21" else PARAMETERS | SAMPLING), None)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Refused(400, "The request body is not valid.") from None
    if complaint is not None:
        raise Refused(400, complaint)
    return dict(sent)


def _complaints(sent: dict[str, Any], parameters: set[str]) -> Iterator[str]:
    yield from (f"{name}: Extra inputs are not permitted" for name in sent.keys() - parameters)
    if not isinstance(sent["model"], str) or not isinstance(sent["max_tokens"], int) or sent["max_tokens"] < 1:
        yield "model, max_tokens: Input should be valid"
    if any(turn["role"] not in {"user", "assistant"} or not turn["content"] for turn in sent["messages"]):
        yield "messages: all messages must have a role and non-empty content"
    if not 0 <= sent.get("temperature", 1) <= 1:
        yield "temperature: range: 0..1"
    yield from _structure_complaints(sent)


def _structure_complaints(sent: dict[str, Any]) -> Iterator[str]:
    config = sent.get("output_config", {})
    yield from (
        f"output_config.{name}: Extra inputs are not permitted" for name in config.keys() - {"effort", "format"}
    )
    if config.get("effort", "low") not in EFFORTS:
        yield "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'"
    schemas = [tool["input_schema"] for tool in sent.get("tools", []) if tool.get("strict")]
    if "format" in config:
        schemas.append(config["format"]["schema"])
    yield from (complaint for schema in schemas for complaint in _schema_complaints(schema))
    names = {tool["name"] for tool in sent.get("tools", [])}
    if "tool_choice" in sent and sent["tool_choice"].get("name") not in names:
        yield "tool_choice.name: tool not found in provided tools"


def _schema_complaints(schema: dict[str, Any]) -> Iterator[str]:
    yield from (f"output_config.format.schema: '{name}' is not supported" for name in schema.keys() & UNSUPPORTED)
    if schema["type"] == "object":
        if schema.get("additionalProperties") is not False:
            yield "output_config.format.schema: 'additionalProperties' must be explicitly set to false"
        for inner in schema["properties"].values():
            yield from _schema_complaints(inner)


def message(sent: dict[str, Any]) -> dict[str, Any]:
    """A message object as the reference shows it, for the request that was sent."""
    content, stop_reason = _content(sent)
    read = sent.get("system", "") + "".join(turn["content"] for turn in sent["messages"])
    return {
        "id": "msg_local",
        "type": "message",
        "role": "assistant",
        "model": sent["model"],
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": len(read) // 4,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": len(json.dumps(VERDICT)) // 4,
            "service_tier": "standard",
        },
    }


def _content(sent: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    if "tool_choice" in sent:
        tool = {"type": "tool_use", "id": "toolu_local", "name": sent["tool_choice"]["name"], "input": VERDICT}
        return [tool], "tool_use"
    return [{"type": "text", "text": json.dumps(VERDICT), "citations": None}], "end_turn"


if __name__ == "__main__":
    AnthropicServer.main()
