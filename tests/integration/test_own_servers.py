"""The tests on servers of one's own, named by environment variables as for the service."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from scripts.local_servers import RedisServer

ROOT = Path(__file__).resolve().parents[2]
A_TEST_ON_REDIS = "tests/integration/test_celery_queue.py::test_the_queue_is_empty_until_a_message_waits"


@pytest.mark.parametrize("processes", [0, 1], ids=["alone", "side by side"])
def test_the_redis_that_is_named_is_the_one_that_is_used(breakable_redis: RedisServer, processes: int) -> None:
    """Also by the processes that run tests side by side, which are started after the environment was cleaned."""
    with closing(Redis.from_url(breakable_redis.url)) as redis:
        before = redis.info("stats")["total_connections_received"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", str(processes), A_TEST_ON_REDIS],
            cwd=ROOT,
            env=os.environ | {"LLM_PROVIDER_REDIS_URL": breakable_redis.url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert redis.info("stats")["total_connections_received"] > before
