"""Kafka's jars, fetched once."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from scripts.local_servers.file_lock import locked
from scripts.local_servers.jar_folder import kafka_jars_path
from scripts.local_servers.jar_resolver import resolve_jars


def kafka_jars() -> Path:
    """The folder of Kafka's jars, fetched once; the lock lets two first starts at once share one download."""
    jars = kafka_jars_path()
    if jars.is_dir():
        return jars
    with locked(jars.with_name(f"{jars.name}.lock")):
        if not jars.is_dir():
            _fetch_jars(jars)
    return jars


def _fetch_jars(target: Path) -> None:
    """Fetch beside the target and move into place as the last step: an interruption leaves no half of it."""
    for abandoned in target.parent.glob(f"{target.name}.partial-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, because the resolver of a killed run may still be writing to the abandoned one.
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{target.name}.partial-"))
    complete = partial / "complete"
    complete.mkdir()
    try:
        for jar in resolve_jars(partial):
            jar.rename(complete / jar.name)
        complete.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
