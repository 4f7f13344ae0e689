"""Processes that kill themselves at a named point, the first time they reach it.

FAULT_POINT names the point and FAULT_MARKER a file: whoever creates it dies, everybody after that lives on. Run as
`celery -A tests.integration.faulty_worker worker` and `gunicorn ... tests.integration.faulty_web:app`.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from punq import Container

from llm_provider.ledger import LedgerProtocol
from llm_provider.protocols import LLMEventPublisherProtocol, TaskDispatcherProtocol


@dataclass(frozen=True)
class Fault:
    """Death at one method of a part: before it does anything, or after it has done everything."""

    service: type[Any]
    method: str
    after: bool = False


POINTS = {
    "between call and commit": Fault(LedgerProtocol, "commit"),
    "with the commit": Fault(LedgerProtocol, "commit", after=True),
    "between commit and publish": Fault(LLMEventPublisherProtocol, "publish_comparison_result"),
    "between publish and note": Fault(LedgerProtocol, "mark_delivered"),
    "with the note": Fault(LedgerProtocol, "mark_delivered", after=True),
    "between acceptance and dispatch": Fault(TaskDispatcherProtocol, "dispatch"),
    "between dispatch and answer": Fault(TaskDispatcherProtocol, "dispatch", after=True),
}


class MortalPart:
    """Passes everything on to the part it stands for, and dies at one of its methods."""

    def __init__(self, part: object, fault: Fault, die: Callable[[], None]) -> None:
        self._part = part
        self._fault = fault
        self._die = die

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        return self._deadly(found) if name == self._fault.method else found

    def _deadly(self, method: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if not self._fault.after:
                self._die()
            result = method(*args, **kwargs)
            if self._fault.after:
                self._die()
            return result

        return call


def die_once() -> None:
    """End this process as an out-of-memory killer does, unless another one did so before."""
    try:
        Path(os.environ["FAULT_MARKER"]).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def plant(container: Container) -> None:
    """Put a mortal part in the place of the one that the fault concerns; a Customise of the bootstrap."""
    fault = POINTS[os.environ["FAULT_POINT"]]
    part = MortalPart(container.resolve(fault.service), fault, die_once)
    container.register(fault.service, instance=part)
