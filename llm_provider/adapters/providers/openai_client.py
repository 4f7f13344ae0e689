"""The official SDK's client, set up so that nothing but our settings decides where a key is sent."""

from openai import OpenAI

from llm_provider.adapters.providers.deadline_transport import http_client


def build_client(api_key: str, base_url: str) -> OpenAI:
    """A client that makes each call once, follows no redirect and heeds no OPENAI_* variable and no proxy."""
    client = OpenAI(
        api_key=api_key,
        admin_api_key="",  # None would be read from the environment, as with the next ones.
        webhook_secret="",
        base_url=base_url,
        max_retries=0,
        http_client=http_client(),
    )
    # The environment's values for these would be sent along, and no argument says "none".
    client.organization = None
    client.project = None
    client._custom_headers = {}  # noqa: SLF001 - The only way out; a test with OPENAI_CUSTOM_HEADERS watches it.
    # The SDK imports its resources when they are first used; here that happens once, and not in every thread.
    _ = client.chat.completions
    return client
