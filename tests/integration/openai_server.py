"""A local server that speaks Chat Completions; what it shares with the other vendors' is in vendor_server.py.

Written from OpenAI's published API reference, as of 2026-11-22:
https://platform.openai.com/docs/api-reference/chat/create (the request and the completion object) and
https://platform.openai.com/docs/guides/error-codes (the errors).
"""

import json
from dataclasses import dataclass
from typing import Any

from tests.integration.vendor_server import VERDICT, Request, VendorBehaviour, VendorServer, as_bytes


@dataclass(frozen=True)
class Behaviour(VendorBehaviour):
    """mode: also refusal, content_filter, truncated, or an error's status, like 429; `code` is that error's."""

    code: str | None = None


class OpenAIServer(VendorServer[Behaviour]):
    """A vendor that speaks the same with words of its own is a subclass with its own path, completion and error."""

    behaves = Behaviour
    path = "/v1"

    def is_call(self, request: Request) -> bool:
        return request.path.endswith("/chat/completions")

    def completion(self, sent: dict[str, Any], mode: str) -> dict[str, Any]:
        return completion(sent, mode)

    def error(self, status: int, message: str, code: str | None = None) -> bytes:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()

    def answer(self, request: Request, behaviour: Behaviour) -> tuple[int, bytes]:
        status = int(behaviour.mode) if behaviour.mode.isdigit() else behaviour.status
        if behaviour.body is not None:
            return status, as_bytes(behaviour.body)
        complaint = _complaint(request)
        if complaint is not None:
            return complaint[0], self.error(*complaint)
        sent = request.json()
        if status != 200:
            # A vendor's message may quote the prompt, so this one does.
            message = f"Trouble with: {sent['messages'][-1]['content'][:200]}"
            return status, self.error(status, message, behaviour.code)
        body = json.dumps(self.completion(sent, behaviour.mode)).encode()
        return 200, body[: len(body) // 2] if behaviour.mode == "invalid_json" else body


def _complaint(request: Request) -> tuple[int, str, str | None] | None:
    """The status, the message and the code of a request that is none."""
    if not request.headers.get("authorization", "").startswith("Bearer "):
        return 401, "You did not provide an API key.", "invalid_api_key"
    try:
        sent = request.json()
        well_formed = isinstance(sent["model"], str) and all(
            isinstance(message["role"], str) and isinstance(message["content"], str) for message in sent["messages"]
        )
    except (ValueError, KeyError, TypeError):
        well_formed = False
    return None if well_formed else (400, "We could not parse the JSON body of your request.", None)


def completion(sent: dict[str, Any], mode: str = "ok") -> dict[str, Any]:
    """A chat completion object as the reference shows it, for the request that was sent."""
    message, finish_reason = _message(mode)
    prompt_tokens = sum(len(message["content"]) for message in sent["messages"]) // 4
    completion_tokens = len(message["content"] or "") // 4
    return {
        "id": "chatcmpl-local",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": sent["model"],
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": None,
    }


def _message(mode: str) -> tuple[dict[str, Any], str]:
    """The assistant's message and the finish_reason that goes with it."""
    verdict = json.dumps(VERDICT)
    content, refusal, finish_reason = {
        "refusal": (None, "I'm sorry, I can't help with that.", "stop"),
        "content_filter": (None, None, "content_filter"),
        "truncated": (verdict[: len(verdict) // 2], None, "length"),
    }.get(mode, (verdict, None, "stop"))
    return {"role": "assistant", "content": content, "refusal": refusal, "annotations": []}, finish_reason


if __name__ == "__main__":
    OpenAIServer.main()
