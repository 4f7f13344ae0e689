"""The Celery app of celery_app.py with a provider that kills the whole process at some requests."""

import os
import signal

from punq import Container

from llm_provider.bootstrap import build_worker
from llm_provider.config import load_settings
from llm_provider.internal_models import CallProgress, ComparisonTexts
from llm_provider.provider_caller import ProviderCaller
from llm_provider.queue_models import Outcome, QueuedRequest

POISON = "POISON"


class PoisonableCaller:
    """Passes calls on, but for those whose prompt holds poison: nobody survives them."""

    def __init__(self, caller: ProviderCaller) -> None:
        self._caller = caller

    def compare(
        self, request: QueuedRequest, texts: ComparisonTexts, seconds_left: float, *, progress: CallProgress
    ) -> Outcome:
        if POISON in texts.user_prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._caller.compare(request, texts, seconds_left, progress=progress)

    def wake_next(self) -> None:
        self._caller.wake_next()

    def close(self) -> None:
        self._caller.close()


def plant(container: Container) -> None:
    container.register(ProviderCaller, instance=PoisonableCaller(container.resolve(ProviderCaller)))


app = build_worker(load_settings(), customise=plant)
