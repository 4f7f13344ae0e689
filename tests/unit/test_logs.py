"""Log lines: one JSON object each, whoever writes it, and nothing that a library would add of a request."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from llm_provider import logs

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Lines]:
    """What went to standard error so far; the logging of the test run is put back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    root.handlers = handlers
    root.setLevel(level)


def test_our_lines_and_foreign_ones_have_one_form(lines: Lines) -> None:
    """A static event name with fields, the level, the logger and the time in UTC."""
    logs.configure("INFO")
    structlog.get_logger("ours").info("request_accepted", queue_id="q-1")
    logging.getLogger("celery.worker").warning("mingle: %s", "alone")

    ours, foreign = lines()
    assert (ours["event"], ours["queue_id"]) == ("request_accepted", "q-1")
    assert (ours["level"], ours["logger"]) == ("info", "ours")
    assert (foreign["event"], foreign["level"], foreign["logger"]) == ("mingle: alone", "warning", "celery.worker")
    assert ours["timestamp"].endswith("Z")
    assert foreign["timestamp"].endswith("Z")


def test_what_is_bound_to_a_task_is_in_all_its_lines(lines: Lines) -> None:
    """Ids bound at the border are in foreign lines too."""
    logs.configure("INFO")
    with structlog.contextvars.bound_contextvars(queue_id="q-1"):
        structlog.get_logger().info("provider_failed")
        logging.getLogger("kombu").warning("connection lost")

    assert [line["queue_id"] for line in lines()] == ["q-1", "q-1"]


def test_a_level_leaves_out_what_is_below_it(lines: Lines) -> None:
    """At WARNING no information is written."""
    logs.configure("WARNING")
    structlog.get_logger("ours").info("request_accepted")
    structlog.get_logger("ours").warning("dispatch_left_to_sweeper")

    assert [line["event"] for line in lines()] == ["dispatch_left_to_sweeper"]


@pytest.mark.parametrize("name", logs.QUIET_LOGGERS)
def test_talkative_libraries_are_quiet_even_at_debug(lines: Lines, name: str) -> None:
    """At DEBUG and INFO they would write whole records, URLs and headers."""
    logs.configure("DEBUG")
    logging.getLogger(f"{name}.client").info("value=b'essay-4712'")

    assert lines() == []


def test_configuring_again_doubles_nothing(lines: Lines) -> None:
    """gunicorn configures in its main process and the application in its children."""
    logs.configure("INFO")
    logs.configure("INFO")
    structlog.get_logger().info("request_accepted")

    assert len(lines()) == 1


@pytest.mark.usefixtures("lines")
def test_celery_does_not_change_the_configured_level() -> None:
    """Its `--loglevel` cannot be told from its default; the setting alone counts."""
    logs.configure("ERROR")
    logs.on_setup_logging(loglevel=logging.DEBUG, logfile=None)

    assert logging.getLogger().level == logging.ERROR
