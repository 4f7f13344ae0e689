"""The leases this process holds, kept alive from a thread of their own while the provider is waited for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from llm_provider.background import PeriodicThread
from llm_provider.ledger import LedgerProtocol


class LeaseKeeper:
    """Renews all leases of the process in one call, every quarter of a lease."""

    def __init__(self, ledger: LedgerProtocol, lease_seconds: float) -> None:
        self._ledger = ledger
        # By holder: two runs of one request may be here at once, as when a message of it comes twice.
        self._held: dict[str, str] = {}
        self._lock = threading.Lock()
        self._thread = PeriodicThread("lease-keeper", self.renew, lease_seconds / 4)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop()

    def is_idle(self) -> bool:
        """Whether nothing is in flight in this process."""
        with self._lock:
            return not self._held

    @contextmanager
    def hold(self, queue_id: str, holder: str) -> Iterator[None]:
        """Keep one lease alive while the block runs; it may be taken within it."""
        with self._lock:
            self._held[holder] = queue_id
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(holder, None)

    def renew(self) -> bool:
        """Renew once what is held now."""
        with self._lock:
            held = dict(self._held)
        if held:
            self._ledger.renew(held)
        return False
