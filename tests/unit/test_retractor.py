"""What was not accepted is taken back, however long Redis is away."""

from llm_provider.adapters.memory_ledger import MemoryLedger
from llm_provider.retractor import Retractor
from scripts.local_servers import wait_until
from tests.unit.builders import a_request, a_timing, some_texts


def test_it_asks_again_until_redis_has_answered() -> None:
    """Of several, none is left out."""
    ledger = MemoryLedger(a_timing())
    requests = [a_request(), a_request()]
    for request in requests:
        ledger.accept(request, some_texts())
    retractor = Retractor(ledger)
    ledger.away = True
    for request in requests:
        retractor.take_back(request.queue_id)
    assert retractor.work() is False
    ledger.away = False
    # Its own thread does it as well, in its own time.
    assert wait_until(lambda: ledger.figures().waiting == 0, 10)
