"""The whole chain on real parts, to look at: `make demo`; KEEP=1 keeps it running until Ctrl-C.

Starts a Redis and a Kafka where none is configured, then what the Procfile names, compares essays in the
three ways a client may ask (called back, at once, by polling), and stops all it started.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

if __name__ == "__main__":
    # Until there is something to clean up, Ctrl-C may end us at once, and without a trace.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# Run as a script, Python would look for our modules in scripts/ only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kafka import KafkaConsumer

from scripts.demos.answers import ask, ask_for_callback, in_background
from scripts.demos.comparisons import Comparison, comparisons
from scripts.demos.demo import START_SECONDS, Demo
from scripts.demos.environment import brokers, environment_of
from scripts.demos.errors import DemoError
from scripts.demos.events import collect, subscribe
from scripts.demos.guard import guarded
from scripts.demos.leftovers import tidy
from scripts.demos.verdict import verdict
from scripts.local_servers import REPOSITORY
from scripts.programs import ANSWER_SECONDS, Address, Interrupted, stop


def run(demo: Demo) -> None:
    begin = time.monotonic()
    environment = environment_of(demo)
    demo.stack.callback(tidy, demo, environment)
    demo.stack.callback(stop, demo.programs)
    create_topics(demo, environment)
    api, flower = start_programs(demo, environment)
    consumer = subscribe(demo, environment)
    demo.screen.say(f"The API listens on {api}, flower on {flower}; logs are in {demo.logs.relative_to(REPOSITORY)}.")
    warm_up(demo, api, consumer)
    asked = comparisons(demo.topics)
    compare(demo, api, consumer, asked)
    demo.screen.table(asked)
    demo.screen.say(f"{verdict(asked)} {time.monotonic() - begin:.1f} s.")
    if os.environ.get("KEEP") == "1":
        keep(demo, api, environment)


def create_topics(demo: Demo, environment: Mapping[str, str]) -> None:
    """The release line creates the service's own topics, and those whose names follow: here our callers'."""
    with demo.screen.step("Creating topics"):
        release = demo.start("release", environment, *demo.topics)
        with suppress(subprocess.TimeoutExpired):
            release.process.wait(START_SECONDS)
        if release.process.returncode != 0:
            raise DemoError("The release line of the Procfile failed.", release.log)
        demo.programs.remove(release)


def start_programs(demo: Demo, environment: Mapping[str, str]) -> tuple[Address, Address]:
    api, flower = Address(int(environment["PORT"])), Address(int(environment["FLOWER_PORT"]))
    with demo.screen.step("Starting web, worker and flower"):
        for name in ("web", "worker", "flower"):
            demo.start(name, environment)
        web, worker, monitor = demo.programs
        demo.wait_until(lambda: api.answers("/healthz"), "web", web.log)
        demo.wait_until(lambda: worker.says("ready."), "worker", worker.log)
        demo.wait_until(lambda: flower.answers("/healthcheck"), "flower", monitor.log)
    return api, flower


def warm_up(demo: Demo, api: Address, consumer: KafkaConsumer) -> None:
    """The first event on a topic opens connections; the times shown are those of a service that runs already."""
    with demo.screen.step("Sending a first event to each topic"):
        first = comparisons(demo.topics)[: len(demo.topics)]
        for one in first:
            ask_for_callback(api, one)
        collect(demo, consumer, {one.queue_id: one for one in first}, show=lambda _: None)
        verdict(first)


def compare(demo: Demo, api: Address, consumer: KafkaConsumer, asked: list[Comparison]) -> None:
    """Ask all at the same time; events are awaited here, the other answers each in a thread of its own."""
    callbacks = [one for one in asked if one.how == "callback"]
    demo.screen.say(f"Comparing {len(asked)} pairs of essays, {len(callbacks)} of them answered by an event ...")
    with demo.screen.awaiting(len(asked)) as show:
        others = [in_background(api, one, show) for one in asked if one.how != "callback"]
        for one in callbacks:
            ask(api, one)
        collect(demo, consumer, {one.queue_id: one for one in callbacks if one.queue_id}, show)
        for thread in others:
            thread.join(ANSWER_SECONDS)


def keep(demo: Demo, api: Address, environment: Mapping[str, str]) -> None:
    body = {
        "user_prompt": "Which essay is better?",
        "essay_a": "Sleep is good.",
        "essay_b": "I think so, because ...",
    }
    called_back = json.dumps(body | {"callback_topic": demo.topics[0]})
    kafka = ",".join(brokers(environment))
    demo.screen.say(
        f"""
Still running, until Ctrl-C. An answer at once:
  curl -s {api}/api/v1/comparison -H 'Content-Type: application/json' -d '{json.dumps(body)}'
An answer as an event, and a consumer to see it:
  curl -s {api}/api/v1/comparison -H 'Content-Type: application/json' -d '{called_back}'
  KAFKA_BOOTSTRAP_SERVERS={kafka} {sys.executable} examples/consumer.py {demo.topics[0]}
"""
    )
    with suppress(Interrupted):  # The way this is meant to end.
        while True:
            demo.check()
            time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(guarded(run))
