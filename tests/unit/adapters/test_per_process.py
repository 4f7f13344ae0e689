"""Something that belongs to one process."""

import os
import threading
import time

import pytest

from llm_provider.adapters.providers.per_process import PerProcess


class Connection:
    """Notes in which process it was made."""

    made = 0

    def __init__(self) -> None:
        time.sleep(0.02)  # Long enough for other threads to arrive meanwhile.
        self.process = os.getpid()
        type(self).made += 1


def test_many_threads_share_what_is_built_once() -> None:
    """However many ask at the same time, one is built."""
    before, seen = Connection.made, list[Connection]()
    shared = PerProcess(Connection)
    threads = [threading.Thread(target=lambda: seen.append(shared.get())) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Connection.made == before + 1
    assert len(set(map(id, seen))) == 1
    assert len(seen) == 50


# Python 3.12 warns of forking beside threads that other tests may have left; the child takes none of their locks.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_builds_its_own() -> None:
    """The parent's connection is not used in the child."""
    shared = PerProcess(Connection)
    assert shared.get().process == os.getpid()
    child = os.fork()
    if child == 0:
        os._exit(0 if shared.get().process == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_is_discarded_is_handed_back_once_and_built_anew() -> None:
    """The one who closes it gets it; who asks later gets a new one."""
    shared = PerProcess(Connection)
    first = shared.get()
    assert shared.discard() is first
    assert shared.discard() is None
    assert shared.get() is not first


def test_nothing_is_built_before_it_is_asked_for() -> None:
    """Neither by constructing nor by discarding."""
    before = Connection.made
    assert PerProcess(Connection).discard() is None
    assert Connection.made == before
