"""Around a run: its logs, its end in good order whatever happens, and the words for what happened."""

import logging
import shutil
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from scripts.demos.demo import Demo
from scripts.demos.errors import DemoError
from scripts.demos.screen import Screen
from scripts.local_servers import REPOSITORY, ServerError
from scripts.programs import Interrupted, Interrupts, ProgramError

LOGS = REPOSITORY / ".local" / "demo"
LOGS_KEPT = 5  # Runs whose logs are kept.


def guarded(run_it: Callable[[Demo], None]) -> int:
    """Run, clean up whatever happens, and say what happened in words; the exit code."""
    # What kafka-python would tell us is told by us, or by the servers' logs.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    screen, interrupts = Screen(), Interrupts()
    name = f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:4]}"
    logs = new_logs(name)
    try:
        with ExitStack() as stack:
            demo = Demo(screen, stack, interrupts, logs, name)
            try:
                interrupts.install()
                run_it(demo)
            finally:
                interrupts.ignore()
                screen.say("Stopping what was started ...")
    except Interrupted as interrupted:
        return interrupted.exit_code
    except (ProgramError, ServerError) as error:
        report(screen, error)
    except Exception as error:
        (logs / "demo.log").write_text(traceback.format_exc())
        report(screen, DemoError(f"{type(error).__name__}: {error} (the trace is in {logs / 'demo.log'})"))
    else:
        return 0
    return 1


def new_logs(name: str) -> Path:
    """A directory for this run; the oldest go, so that demos do not fill the disk."""
    LOGS.mkdir(parents=True, exist_ok=True)
    earlier = sorted((directory for directory in LOGS.iterdir() if directory.is_dir()), reverse=True)
    for directory in earlier[LOGS_KEPT - 1 :]:
        shutil.rmtree(directory, ignore_errors=True)
    (LOGS / name).mkdir()
    return LOGS / name


def report(screen: Screen, error: ProgramError | ServerError) -> None:
    screen.say(f"The demo failed. {error}")
    if isinstance(error, ProgramError) and error.log:
        screen.say(f"The last lines of {error.log.relative_to(REPOSITORY)}:")
        screen.say(error.tail())
