"""The three ways to ask for a comparison; the answer is noted in it, but for one that comes as an event."""

import http.client
import threading
import time
from collections.abc import Callable

from scripts.demos.comparisons import Comparison, How
from scripts.demos.errors import DemoError
from scripts.demos.screen import Show
from scripts.programs import ANSWER_SECONDS, Address, Answer, ProgramError

POLL_SECONDS = 0.05


def post(api: Address, comparison: Comparison, status: int, **headers: str) -> Answer:
    return api.ask("POST", "/api/v1/comparison", comparison.body(), **headers).expect(status, "the request")


def ask_for_callback(api: Address, comparison: Comparison) -> None:
    comparison.queue_id = str(post(api, comparison, 202).body["queue_id"])
    comparison.problem = "accepted, but its event did not arrive"


def ask_at_once(api: Address, comparison: Comparison) -> None:
    begin = time.monotonic()
    answer = post(api, comparison, 200)
    comparison.answered(answer.body, (time.monotonic() - begin) * 1000)


def ask_and_poll(api: Address, comparison: Comparison) -> None:
    queue_id = str(post(api, comparison, 202, Prefer="respond-async").body["queue_id"])
    begin = time.monotonic()
    while not result_available(api, queue_id):
        if time.monotonic() - begin > ANSWER_SECONDS:
            raise DemoError(f"request {queue_id} was accepted, but its result did not come")
        time.sleep(POLL_SECONDS)
    answer = api.ask("GET", f"/api/v1/results/{queue_id}").expect(200, "the result")
    comparison.answered(answer.body, (time.monotonic() - begin) * 1000)


def result_available(api: Address, queue_id: str) -> bool:
    status = api.ask("GET", f"/api/v1/status/{queue_id}").expect(200, "the question for the status").body
    if status["status"] in ("failed", "expired"):
        raise DemoError(f"{status['status']}: {status.get('error_message')}")
    return bool(status["result_available"])


ASK: dict[How, Callable[[Address, Comparison], None]] = {
    "callback": ask_for_callback,
    "at once": ask_at_once,
    "polled": ask_and_poll,
}


def ask(api: Address, comparison: Comparison) -> None:
    try:
        ASK[comparison.how](api, comparison)
    except ProgramError as error:
        comparison.problem = str(error)
    except (OSError, http.client.HTTPException, LookupError, ValueError) as error:
        comparison.problem = f"{type(error).__name__}: {error}"


def in_background(api: Address, comparison: Comparison, show: Show) -> threading.Thread:
    def ask_and_show() -> None:
        ask(api, comparison)
        show(comparison)

    # A daemon, so that a request without an answer cannot keep us from ending.
    thread = threading.Thread(target=ask_and_show, daemon=True)
    thread.start()
    return thread
