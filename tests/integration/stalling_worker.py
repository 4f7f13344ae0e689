"""The Celery app of celery_app.py, whose event loop stands still from when the file STALL names is there."""

import os
import time
from pathlib import Path
from typing import Any

from celery import bootsteps

from llm_provider.bootstrap import build_worker
from llm_provider.config import load_settings


class Stall(bootsteps.StartStopStep):  # type: ignore[misc] # Celery ships no types.
    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, consumer: Any) -> None:
        consumer.timer.call_repeatedly(0.1, stall)


def stall() -> None:
    while Path(os.environ["LLM_PROVIDER_STALL"]).exists():
        time.sleep(0.1)


app = build_worker(load_settings())
app.steps["consumer"].add(Stall)
