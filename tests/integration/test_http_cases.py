"""Whatever is sent, the answer is a documented one: cases drawn with a seed, sent to gunicorn as the Procfile has it.

HTTP_CASES and HTTP_SEED draw more, or others.
"""

import json
import os
import random
import re
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from scripts.local_servers import RedisServer
from tests.integration.http_cases import draw
from tests.integration.web_process import ROOT, WebProcess
from tests.unit.api.test_problems import MEMBERS, SPENT

CASES = int(os.environ.get("HTTP_CASES", "400"))
SEED = int(os.environ.get("HTTP_SEED", "1"))
AT_ONCE = 4
# What a caller sent is repeated up to here.
LARGEST_PROBLEM_BYTES = 20_000

_, _, ERRORS = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").partition("\n## Errors\n")
ERRORS = ERRORS.partition("\n## ")[0]
OURS = {int(status) for cells in re.findall(r"^\| ([\d, ]+) \|", ERRORS, re.MULTILINE) for status in cells.split(", ")}


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebProcess]:
    """A service with a Redis of its own, and nobody else who asks it."""
    redis = RedisServer(tmp_path)
    redis.start()
    process = WebProcess(tmp_path, {"LLM_PROVIDER_REDIS_URL": redis.url})
    yield process
    process.stop()
    redis.stop()


def test_every_answer_is_a_documented_one(web: WebProcess) -> None:
    """None is a defect, none is left out, each error is a problem document, and only a 202 accepts anything."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = Counter(pool.map(lambda number: answered(web, number), range(CASES)))
    sys.stdout.write(f"{CASES} cases of seed {SEED}: {sorted(answers.items())}\n")

    levels = {json.loads(line)["level"] for line in web.log.read_text().splitlines()}
    assert levels <= {"info", "warning"}
    # HEAD and GET of /results never answer 202 here: no worker runs.
    assert accepted(web) == answers[202, "application/json"]
    assert {200, 202, 400, 403, 404, 405, 415} <= {status for status, _ in answers}


def answered(web: WebProcess, number: int) -> tuple[int, str]:
    """Status and type of the answer to one case, which is looked at on the way."""
    raw = draw(random.Random(f"{SEED}-{number}"))
    address = urlsplit(web.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as client:
        try:
            client.sendall(raw)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            # It was answered, and the connection closed, before all was sent.
            pass
        response = HTTPResponse(client, method=raw.partition(b" ")[0].decode())
        response.begin()
        kind, text = response.headers.get_content_type(), response.read()
    told = f"case {SEED}-{number}, {raw[:300]!r}: {response.status} {text[:300]!r}"
    if response.status not in {200, 202}:
        assert response.status in OURS - {500}, told
        assert kind == "application/problem+json", told
        assert raw.startswith(b"HEAD") or is_problem(text, response.status), told
    return response.status, kind


def is_problem(text: bytes, status: int) -> bool:
    """Whether all members are there, and nobody sends us megabytes to get them back."""
    problem = json.loads(text)
    return (
        set(MEMBERS) <= set(problem) <= set(MEMBERS | SPENT)
        and (problem["status"], problem["error"]) == (status, problem["detail"])
        and len(text) <= LARGEST_PROBLEM_BYTES
    )


def accepted(web: WebProcess) -> float:
    """How many requests the ledger has accepted, as the metrics say."""
    families = text_string_to_metric_families(web.get("/metrics").text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "llm_provider_requests_accepted_total"
    )
