"""`make demo` as a newcomer runs it, from outside: it ends well, and nothing of it stays behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
MARK = "DEMO_TEST_RUN"
RUN_SECONDS = 90


class Demo:
    """One run, its output in a file, and every process that inherited its mark."""

    def __init__(self, output: Path) -> None:
        self.mark = uuid4().hex
        self._output = output
        with output.open("wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "scripts/demo.py"],
                cwd=ROOT,
                env={**os.environ, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait(self) -> int:
        return self.process.wait(RUN_SECONDS)

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + RUN_SECONDS
        while text not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)

    def processes(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return bool(process.environ().get(MARK) == self.mark)
        except psutil.Error:
            return False  # It ended meanwhile, or is somebody else's.


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path / "output")
    yield demo
    for process in demo.processes():
        process.kill()
    demo.process.wait(10)


def test_the_demo_shows_every_answer_and_leaves_nothing_behind(demo: Demo) -> None:
    """Twelve events on two topics, four answers at once, two by polling, then silence."""
    exit_code = demo.wait()
    assert exit_code == 0, demo.output
    assert re.search(r"All 18 comparisons answered: 12 as events on 2 topics .* 4 at once, 2 by polling", demo.output)
    assert demo.processes() == []


@pytest.mark.parametrize(
    ("moment", "signum"),
    [("Starting web, worker and flower", signal.SIGTERM), ("Comparing", signal.SIGINT)],
    ids=["SIGTERM while it starts", "Ctrl-C in the middle"],
)
def test_an_interrupted_demo_leaves_nothing_behind(demo: Demo, moment: str, signum: int) -> None:
    """It says nothing but that it stops, and its exit code names the signal."""
    demo.wait_for(moment)
    assert len(demo.processes()) > 1, "the test would not see what is left"
    demo.process.send_signal(signum)
    assert demo.wait() == 128 + signum
    assert demo.processes() == []
    assert "Traceback" not in demo.output
