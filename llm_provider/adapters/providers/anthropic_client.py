"""The official SDK's client, set up so that nothing but our settings decides where a key is sent."""

import logging

from anthropic import Anthropic

from llm_provider.adapters.providers.deadline_transport import http_client


def build_client(api_key: str, base_url: str) -> Anthropic:
    """A client that makes each call once, follows no redirect and heeds no ANTHROPIC_* variable and no proxy."""
    # At its lower levels, which ANTHROPIC_LOG can switch on by itself, the SDK logs whole prompts.
    logging.getLogger("anthropic").setLevel(logging.WARNING)
    client = Anthropic(
        api_key=api_key,  # With a key given, no token, profile or identity is looked for.
        webhook_key="",  # None would be read from the environment.
        base_url=base_url,
        max_retries=0,
        open_telemetry=False,  # Spans of this SDK would send our trace's ids to the vendor.
        http_client=http_client(),
    )
    # The environment's headers would be sent along, even instead of the key, and no argument says "none".
    client._custom_headers = {}  # noqa: SLF001 - The only way out; a test with ANTHROPIC_CUSTOM_HEADERS watches it.
    return client
