"""Kafka's jars, fetched with the PyPI package jgo."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from scripts.local_servers.errors import ServerError
from scripts.local_servers.jar_folder import kafka_jars_path
from scripts.local_servers.kafka_release import KAFKA_COORDINATES, KAFKA_VERSION, KAFKA_WAYS_ON

RESOLVE_SECONDS = 600

# jgo runs in a process of its own: its logging and warnings stay there, and it can be stopped half-way. Not
# jgo.build(): that looks for a Java, too, and downloads one of its own where there is none on the PATH.
RESOLVE = """
import sys
import jgo
for jar in jgo.resolve(sys.argv[1]):
    print(jar.resolve())
"""


def resolve_jars(scratch: Path) -> list[Path]:
    """The jars, somewhere below this folder, each a whole one."""
    command = [sys.executable, "-c", RESOLVE, "+".join(KAFKA_COORDINATES)]
    environment = {**os.environ, "M2_REPO": str(scratch / "repository")}
    try:
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=RESOLVE_SECONDS, check=True
        )
    except subprocess.TimeoutExpired as e:
        raise _jars_error(f"no answer within {RESOLVE_SECONDS} s") from e
    except subprocess.CalledProcessError as e:
        raise _jars_error(e.stderr.strip().rpartition("\n")[2]) from e
    jars = [Path(line) for line in answer.stdout.splitlines()]
    if broken := [jar.name for jar in jars if not zipfile.is_zipfile(jar)]:
        raise _jars_error(f"cut short: {', '.join(broken)}")
    return jars


def _jars_error(why: str) -> ServerError:
    return ServerError(
        f"Kafka: the jars of Apache Kafka {KAFKA_VERSION} could not be fetched with jgo: {why}\n"
        f"Is the network there? They are needed once, for {kafka_jars_path()}.\n{KAFKA_WAYS_ON}"
    )
