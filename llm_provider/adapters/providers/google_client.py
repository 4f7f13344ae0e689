"""The official SDK's client, set up so that nothing but our settings decides where a key is sent."""

import os
import re

import httpx2
from google.genai import Client, types
from google.genai.client import DebugConfig

from llm_provider.adapters.providers.deadline_transport import http_client
from llm_provider.internal_models import Prompt

# The stable one, which the vendor supports for as long as it exists; structured output, thinking and system
# instructions are among its features (https://ai.google.dev/gemini-api/docs/api-versions), and the SDK takes it, too.
API_VERSION = "v1"

_VERSION = re.compile(r"v\d++((alpha|beta)\d*+)?", re.IGNORECASE)


class GoogleClient:
    """Makes each call once, follows no redirect and heeds no GOOGLE_* variable and no proxy."""

    def __init__(self, api_key: str, base_url: str) -> None:
        self._http = http_client()
        # It closes its connections as soon as nobody holds it, whoever holds its parts.
        self._sdk = _build_sdk(api_key, base_url, self._http)

    def generate(self, model: str, prompt: Prompt, config: types.GenerateContentConfig) -> object:
        """The body of the answer to one call, as it came; what is to be generated, `config` says."""
        content = types.Content(role="user", parts=[types.Part(text=prompt.user)])
        reply = self._sdk.models.generate_content(model=model, contents=[content], config=config)
        return reply.sdk_http_response.body if reply.sdk_http_response is not None else None

    def close(self) -> None:
        self._sdk.close()
        self._http.close()


def _build_sdk(api_key: str, base_url: str, http: httpx2.Client) -> Client:
    """Everything that the environment would decide otherwise is said here."""
    # No argument overrules this one, which may ask for a library that is not installed.
    os.environ.pop("GOOGLE_GENAI_HTTP_CLIENT", None)
    url, version = _split_version(base_url)
    return Client(
        vertexai=False,
        api_key=api_key,
        # None would be read from the environment, which can make the SDK write every call to a file.
        debug_config=DebugConfig(client_mode="", replays_directory="", replay_id=""),
        http_options=types.HttpOptions(
            base_url=url,
            api_version=version,
            httpx_client=http,
            # It is never used. Without it the SDK would make one, by the environment's proxies and certificates.
            httpx_async_client=httpx2.AsyncClient(transport=httpx2.AsyncBaseTransport(), trust_env=False),
        ),
    )


def _split_version(base_url: str) -> tuple[str, str]:
    """A gateway's URL may end with the version that is spoken there, such as /v1beta."""
    url, _, version = base_url.removesuffix("/").rpartition("/")
    return (url, version) if _VERSION.fullmatch(version) and not url.endswith(":/") else (base_url, API_VERSION)
