"""The short form of `make storm`: real processes, broken on purpose, and nothing lost; then nothing left behind."""

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
MARK = "STORM_TEST_RUN"
RUN_SECONDS = 240  # 43 on two idle cores.
REQUESTS = 264

pytestmark = pytest.mark.timeout(300)

SHORT = ["--requests", str(REQUESTS), "--rate", "12", "--gap", "1", "--prefork-workers", "0", "--latency-ms", "700"]
# By this seed each of them comes once: the worker dies while Kafka is away and Redis refuses to write. What hears of
# commands is cut last, when nothing else would wake a worker that hangs by it.
KINDS = "worker-kill,web-child-kill,web-slow-clients,kafka-kill,redis-kill,redis-cut,redis-cut-pubsub,redis-readonly"
FAULTS = ["--faults", KINDS, "--seed", "13017"]


class StormRun:
    """One run, its output in a file, and every process that inherited its mark."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.mark = uuid4().hex
        self._output = folder / "output"
        with self._output.open("wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "scripts/storm.py", *options],
                cwd=ROOT,
                env={**os.environ, MARK: self.mark, "LLM_PROVIDER_LOCAL_DIR": str(folder / "local")},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

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

    def count(self, row: str) -> int:
        found = re.search(rf"^ *{re.escape(row)} +([\d,]+)", self.output, re.MULTILINE)
        assert found, self.output
        return int(found[1].replace(",", ""))

    def end(self) -> None:
        for process in self.processes():
            process.kill()
        self.process.wait(10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def storm(folder: Path, *options: str) -> Iterator[StormRun]:
    run = StormRun(folder, *options)
    yield run
    run.end()


@pytest.fixture
def short_storm(folder: Path) -> Iterator[StormRun]:
    yield from storm(folder, *SHORT, *FAULTS)


@pytest.fixture
def calm_storm(folder: Path) -> Iterator[StormRun]:
    yield from storm(folder, *SHORT, "--requests", "1000", "--faults", "kafka-freeze")


def test_a_short_storm_loses_nothing_and_leaves_nothing_behind(short_storm: StormRun) -> None:
    """Workers, web, Kafka and Redis are killed, cut or besieged; every accepted request has its event."""
    exit_code = short_storm.process.wait(RUN_SECONDS)
    assert exit_code == 0, short_storm.output
    assert [kind for kind in KINDS.split(",") if f"{kind} " not in short_storm.output] == []
    assert short_storm.count("posts") == REQUESTS
    assert short_storm.count("distinct events") >= short_storm.count("accepted (202)") > 100
    assert short_storm.processes() == []


def test_an_interrupted_storm_leaves_nothing_behind(calm_storm: StormRun) -> None:
    """Ctrl-C while Kafka is frozen: it is thawed, everything stops, and the exit code names the signal."""
    calm_storm.wait_for("kafka-freeze begins")
    assert len(calm_storm.processes()) > 4, "the test would not see what is left"
    calm_storm.process.send_signal(signal.SIGINT)
    assert calm_storm.process.wait(60) == 128 + signal.SIGINT
    assert calm_storm.processes() == []
    assert "Traceback" not in calm_storm.output
