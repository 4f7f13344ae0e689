"""What only watches, the counts and the log, breaks nothing of what it watches: gunicorn as the Procfile starts it."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.local_servers import RedisServer
from tests.integration.web_process import ROOT, WebProcess, environment, procfile_line


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes count; nobody has made it yet."""
    return tmp_path_factory.mktemp("service") / "not" / "there"


@pytest.fixture(scope="module")
def web(redis: RedisServer, counts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    settings = {"LLM_PROVIDER_REDIS_URL": redis.url, "PROMETHEUS_MULTIPROC_DIR": str(counts)}
    process = WebProcess(tmp_path_factory.mktemp("web"), settings | {"LLM_PROVIDER_WEB_PROCESSES": "1"})
    yield process
    process.stop()


def counted(web: WebProcess) -> float:
    """The comparisons that were answered, as the metrics say."""
    answer = web.get("/metrics")
    assert answer.status_code == 200
    assert "llm_provider_requests_open" in answer.text
    lines = [line for line in answer.text.splitlines() if line.startswith("llm_provider_http_requests_total{")]
    return sum(float(line.split()[-1]) for line in lines if "comparisons.compare" in line)


def swept(folder: Path) -> None:
    shutil.rmtree(folder)


def cut(folder: Path) -> None:
    for file in folder.iterdir():
        os.truncate(file, 0)


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize("harm", [swept, cut, emptied])
def test_counts_come_back_whatever_becomes_of_their_files(web: WebProcess, counts: Path, harm: object) -> None:
    """Nothing that a living process has counted is lost; a full disk and a cut file end no process."""
    assert web.post().status_code == 200
    before, children = counted(web), web.children
    assert callable(harm)
    harm(counts)

    assert web.post().status_code == 200
    assert web.get("/healthz").status_code == 200
    assert counted(web) == before + 1
    assert web.children == children


def test_a_broken_file_costs_its_own_series(web: WebProcess, counts: Path) -> None:
    """Beside it everything is told as before."""
    before = counted(web)
    for name, content in {
        "counter_1.db": b"",
        "counter_2.db": b"\xff" * 300,
        "histogram_3.db": b"\x40\0\0\0junk",
    }.items():
        (counts / name).write_bytes(content)

    assert counted(web) == before


def test_where_nothing_can_be_counted_everything_is_answered(web: WebProcess, counts: Path) -> None:
    """Told once, not with every request; when it can be again, all of it is there."""
    before = counted(web)
    shutil.rmtree(counts)
    counts.write_text("no folder")
    try:
        assert [web.post().status_code for _ in range(5)] == [200] * 5
        assert web.get("/metrics").status_code == 200
    finally:
        counts.unlink()

    assert web.post().status_code == 200
    assert counted(web) == before + 6
    assert web.log.read_text().count("request_not_counted") == 1


def test_a_folder_that_cannot_be_one_stops_the_boot(tmp_path: Path) -> None:
    """With a sentence."""
    (tmp_path / "file").write_text("")
    settings = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "file"), "HOST": "127.0.0.1", "PORT": "1"}
    line = ["/bin/sh", "-c", procfile_line("web")]
    process = subprocess.run(line, cwd=ROOT, env=environment(settings), capture_output=True, timeout=60, check=False)

    assert process.returncode != 0
    assert b"PROMETHEUS_MULTIPROC_DIR: " in process.stderr
    assert b"Traceback" not in process.stderr


@pytest.mark.parametrize("reader", ["has gone", "has stopped", "is a full disk"])
def test_a_log_that_nobody_takes_keeps_nobody_waiting(redis: RedisServer, tmp_path: Path, reader: str) -> None:
    """A pipe that nobody reads any more, one that is full, and a disk that is."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    full = os.open("/dev/full", os.O_WRONLY)
    if reader == "has gone":
        os.close(read)
    settings = {"LLM_PROVIDER_REDIS_URL": redis.url, "LLM_PROVIDER_WEB_PROCESSES": "1"}
    process = WebProcess(tmp_path, settings, stderr=full if reader == "is a full disk" else write)
    try:
        assert [process.post(callback_topic="t").status_code for _ in range(40)] == [202] * 40
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.stop()
