"""Where Kafka's jars are kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from scripts.local_servers.kafka_release import KAFKA_COORDINATES, KAFKA_VERSION


def cache_directory() -> Path:
    """Where downloads are kept between clones: LLM_PROVIDER_CACHE_DIR, else the user's cache."""
    if own := os.environ.get("LLM_PROVIDER_CACHE_DIR"):
        return Path(own).resolve()
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user_cache).resolve() / "llm-provider"


def kafka_jars_path() -> Path:
    """The folder of the jars; its name changes with their versions, and it exists only when complete."""
    versions = hashlib.sha256(" ".join(KAFKA_COORDINATES).encode()).hexdigest()
    return cache_directory() / "kafka" / f"{KAFKA_VERSION}-{versions[:8]}"
