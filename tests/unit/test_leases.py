"""The keeper renews what this process holds, and only that."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from llm_provider.adapters.memory_ledger import MemoryLedger
from llm_provider.leases import LeaseKeeper
from scripts.local_servers import wait_until
from tests.unit.builders import a_timing


@dataclass
class RenewalLedger(MemoryLedger):
    """A ledger that notes what it is asked to renew."""

    renewals: list[dict[str, str]] = field(default_factory=list)

    def renew(self, leases: Mapping[str, str]) -> None:
        super().renew(leases)
        self.renewals.append(dict(leases))


def keeper(lease_seconds: float = 60.0) -> tuple[LeaseKeeper, RenewalLedger]:
    ledger = RenewalLedger(a_timing())
    return LeaseKeeper(ledger, lease_seconds), ledger


def test_all_leases_are_renewed_in_one_call() -> None:
    """However many requests a process works on, a renewal is one round trip."""
    leases, ledger = keeper()
    with leases.hold("a", "holder-a"), leases.hold("b", "holder-b"):
        leases.renew()
    assert ledger.renewals == [{"holder-a": "a", "holder-b": "b"}]


def test_what_is_let_go_is_not_renewed() -> None:
    """Also when the block ends with an exception; with nothing held the ledger is not asked."""
    leases, ledger = keeper()
    with pytest.raises(ZeroDivisionError), leases.hold("a", "holder-a"):
        1 / 0  # noqa: B018 Anything that raises.
    leases.renew()
    assert ledger.renewals == []


def test_two_runs_of_one_request_do_not_take_each_others_place() -> None:
    """A second message of it may come while the first run goes on, and after a stall the second may be the holder."""
    leases, ledger = keeper()
    with leases.hold("a", "first"):
        with leases.hold("a", "second"):
            leases.renew()
        leases.renew()
    assert ledger.renewals == [{"first": "a", "second": "a"}, {"first": "a"}]


def test_a_started_keeper_renews_several_times_a_lease() -> None:
    """One renewal may get lost in an outage without the lease lapsing."""
    leases, ledger = keeper(lease_seconds=1.0)
    with leases.hold("a", "holder-a"):
        started = time.monotonic()
        leases.start()
        assert wait_until(lambda: len(ledger.renewals) >= 3, 10)
        took = time.monotonic() - started
        leases.stop()
    assert took < 1.0


def test_an_outage_does_not_end_the_keeper() -> None:
    """Once Redis is back it goes on."""
    leases, ledger = keeper(lease_seconds=0.02)
    ledger.away = True
    with leases.hold("a", "holder-a"):
        leases.start()
        time.sleep(0.05)
        assert ledger.renewals == []
        ledger.away = False
        assert wait_until(lambda: bool(ledger.renewals), 10)
        leases.stop()
