"""A local server that speaks Chat Completions as OpenRouter does.

Written from its published API reference of 2026-08-22: https://openrouter.ai/docs/api_reference/overview (the
completion), .../errors-and-debugging (the errors) and .../limits, and the pages on usage accounting and on reasoning
tokens beside them.
"""

import json
from typing import Any

from tests.integration.openai_server import OpenAIServer, completion

COST_USD = 0.00123
THOUGHTS = "Let me weigh both essays."


class OpenRouterServer(OpenAIServer):
    path = "/api/v1"

    def completion(self, sent: dict[str, Any], mode: str) -> dict[str, Any]:
        made = completion(sent, mode)
        (choice,) = made["choices"]
        thoughts = [{"type": "reasoning.text", "text": THOUGHTS, "format": "unknown", "index": 0}]
        message = {**choice["message"], "reasoning": THOUGHTS, "reasoning_details": thoughts}
        return {
            **made,
            "id": "gen-local",
            "provider": "OpenAI",
            "choices": [{**choice, "message": message, "native_finish_reason": "completed"}],
            "usage": {
                **made["usage"],
                "cost": COST_USD,
                "is_byok": False,
                "cost_details": {"upstream_inference_cost": None},
            },
        }

    def error(self, status: int, message: str, code: str | None = None) -> bytes:
        """Its code is the status; what else there is to say stands in the metadata."""
        told: dict[str, Any] = {"code": status, "message": message}
        if code is not None:
            told["metadata"] = {"limit_source": code}
        return json.dumps({"error": told, "user_id": "user_local"}).encode()
