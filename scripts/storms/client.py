"""The callers: each request is posted once, at its time, and what was answered is written down."""

import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

from scripts.storms.account import ACCEPTED, NO_ANSWER, Asked, Records

HOST = "127.0.0.1"
TOPICS = ("storm.results-a", "storm.results-b", "storm.results-c")
CALLERS = 64
ANSWER_SECONDS = 30.0  # A web process must answer long before; a post that hangs longer has no answer.

_ESSAY = " ".join(f"word{index}" for index in range(300))


def request(number: int) -> Asked:
    """The request of that number; two neighbours share a correlation id, as many comparisons may."""
    return Asked(number, TOPICS[number % len(TOPICS)], str(UUID(int=1 + number // 2)))


def body(asked: Asked) -> bytes:
    """What is posted; the provider knows the request by the prompt, the account by the metadata."""
    overrides = {"provider_override": "openai", "model_override": None, "temperature_override": None}
    return json.dumps(
        {
            "user_prompt": f"id=req{asked.number} Which essay is better?",
            "essay_a": _ESSAY,
            "essay_b": f"{_ESSAY} and more",
            "callback_topic": asked.topic,
            "correlation_id": asked.correlation_id,
            "llm_config_overrides": {**overrides, "system_prompt_override": None, "max_tokens_override": None},
            "metadata": {"number": asked.number},
        }
    ).encode()


class Callers:
    """Posts request after request at a steady rate, however long the answers take."""

    def __init__(self, records: Records, port: int, count: int, rate: float) -> None:
        self._records = records
        self._port = port
        self._count = count
        self._rate = rate
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="callers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Post nothing more; what is posted ends in bounded time."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(ANSWER_SECONDS + 5)

    def _run(self) -> None:
        begin = time.monotonic()
        with ThreadPoolExecutor(CALLERS, "caller") as pool:
            for number in range(self._count):
                if self._stopped.wait(max(0.0, begin + number / self._rate - time.monotonic())):
                    return
                pool.submit(self._post, request(number))

    def _post(self, asked: Asked) -> None:
        if self._stopped.is_set():
            return
        begin = time.monotonic()
        status, queue_id = NO_ANSWER, ""
        # Whatever goes wrong is written down as not answered.
        with suppress(OSError, http.client.HTTPException, ValueError, KeyError):
            status, queue_id = post(self._port, asked)
        now = time.monotonic()
        answered = replace(asked, status=status, queue_id=queue_id, answered_at=now, seconds=now - begin)
        self._records.asked.append(answered)


def post(port: int, asked: Asked) -> tuple[int, str]:
    """The status, and the queue id when the request was accepted."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("POST", "/api/v1/comparison", body(asked), {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        return response.status, str(json.loads(content)["queue_id"]) if response.status == ACCEPTED else ""
    finally:
        connection.close()
