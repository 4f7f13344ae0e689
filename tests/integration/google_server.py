"""A local server that speaks generateContent; what it shares with the other vendors' is in vendor_server.py.

Written from Google's published references: https://ai.google.dev/api/generate-content (the method, the request, the
response with its finish and block reasons, and the counts of tokens), https://ai.google.dev/gemini-api/docs/thinking
(thought parts and their tokens), https://ai.google.dev/gemini-api/docs/troubleshooting (the statuses and what they
mean) and https://google.aip.dev/193 (an error's body and its details), as of 2026-11-23.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tests.integration.vendor_server import VERDICT, Request, VendorBehaviour, VendorServer

METHOD = re.compile(r".*/(v\d\w*)/((?:models|tunedModels)/[^/:?#]+):generateContent")
STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


@dataclass(frozen=True)
class Behaviour(VendorBehaviour):
    """mode: also blocked, truncated, thought_out (truncated before there is an answer), no_parts, or a finish reason
    like SAFETY. The body of an error gets `reason` and `details` as in AIP-193; `answer` replaces fields of a good one.
    """

    reason: str | None = None
    details: tuple[dict[str, Any], ...] = ()
    answer: dict[str, Any] = field(default_factory=dict)


class GoogleServer(VendorServer[Behaviour]):
    behaves = Behaviour
    headers: ClassVar[Mapping[str, str]] = {"content-type": "application/json; charset=UTF-8"}

    def is_call(self, request: Request) -> bool:
        """Of any version."""
        return METHOD.fullmatch(request.path) is not None

    def error(self, status: int, message: str) -> bytes:
        return error_body(status, message)

    def answer(self, request: Request, behaviour: Behaviour) -> tuple[int, bytes]:
        if behaviour.body is not None:
            return behaviour.status, behaviour.body.encode("latin-1")
        complaint = _complaint(request)
        if complaint is not None:
            return 400, complaint
        sent = request.json()
        if behaviour.status != 200:
            # A vendor's message may quote the prompt, so this one does.
            message = f"Trouble with: {sent['contents'][-1]['parts'][-1]['text'][:200]}"
            return behaviour.status, error_body(behaviour.status, message, behaviour.reason, *behaviour.details)
        match = METHOD.fullmatch(request.path)
        assert match is not None
        body = json.dumps(response(sent, match[2], behaviour.mode) | behaviour.answer).encode()
        return 200, body[: len(body) // 2] if behaviour.mode == "invalid_json" else body


def _complaint(request: Request) -> bytes | None:
    if not request.headers.get("x-goog-api-key"):
        details = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
        return error_body(400, "API key not valid. Please pass a valid API key.", None, details)
    try:
        sent = request.json()
        contents = [*sent["contents"], sent.get("systemInstruction", {"parts": [{"text": ""}]})]
        well_formed = all(isinstance(part["text"], str) for content in contents for part in content["parts"])
    except (ValueError, KeyError, TypeError):
        well_formed = False
    return None if well_formed else error_body(400, "Invalid JSON payload received.")


def error_body(status: int, message: str, reason: str | None = None, *details: dict[str, Any]) -> bytes:
    """google.rpc.Status as JSON; `reason` is its canonical code's name."""
    error = {"code": status, "message": message, "status": reason or STATUSES.get(status, "UNKNOWN")}
    return json.dumps({"error": {**error, "details": details} if details else error}).encode()


def response(sent: dict[str, Any], model: str, mode: str = "ok") -> dict[str, Any]:
    """A GenerateContentResponse as the reference shows it, for the request that was sent."""
    prompt_tokens = sum(len(part["text"]) for content in sent["contents"] for part in content["parts"]) // 4
    text = _text(mode)
    usage = {
        "promptTokenCount": prompt_tokens,
        "candidatesTokenCount": len(text) // 4,
        "totalTokenCount": prompt_tokens + len(text) // 4,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt_tokens}],
    }
    if mode == "blocked":
        verdict: dict[str, Any] = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
    else:
        verdict = {"candidates": [_candidate(mode, text)]}
    name = model.removeprefix("models/")
    return {**verdict, "usageMetadata": usage, "modelVersion": name, "responseId": "local"}


def _text(mode: str) -> str:
    verdict = json.dumps(VERDICT)
    if mode in ("truncated", "CONTINUATION"):
        return verdict[: len(verdict) // 2]
    # A refusal comes without a text, as does an answer that is blocked.
    return "" if mode in ("blocked", "thought_out", "no_parts") or mode.isupper() else verdict


def _candidate(mode: str, text: str) -> dict[str, Any]:
    reason = {"truncated": "MAX_TOKENS", "thought_out": "MAX_TOKENS"}.get(mode, mode if mode.isupper() else "STOP")
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}}
    if not text:
        candidate = {"content": {"role": "model"}} if mode == "no_parts" else {}
    token = {"continuationToken": "Z28gb24="} if mode == "CONTINUATION" else {}
    return {**candidate, "finishReason": reason, "index": 0, **token}


if __name__ == "__main__":
    GoogleServer.main()
