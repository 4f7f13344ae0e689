"""The schedule of a storm: repeatable, within its time, and never two faults on one part at once."""

from itertools import combinations, pairwise

import pytest

from scripts.storms.schedule import ALL_KINDS, PREFORK_ONLY, SECONDS, SINGLE_ONLY, Crew, FaultKind, Weather, plan

LEASE_SECONDS = 10.0

SEEDS = range(20)
LONG = 600.0


def test_the_same_seed_gives_the_same_schedule() -> None:
    """A storm that broke something can be repeated."""
    assert plan(7, LONG, Weather()) == plan(7, LONG, Weather())


def test_other_seeds_give_other_schedules() -> None:
    """Each seed looks somewhere else."""
    assert len({tuple(plan(seed, LONG, Weather())) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_fault_ends_before_the_last_request(seed: int) -> None:
    """Requests still come when a fault is over, so that its recovery is seen."""
    assert max(fault.until for fault in plan(seed, 120, Weather())) <= 120


@pytest.mark.parametrize("seed", SEEDS)
def test_no_part_is_broken_twice_at_a_time(seed: int) -> None:
    """Nobody thaws what somebody else has killed."""
    for one, other in combinations(plan(seed, LONG, Weather()), 2):
        if one.kind.part == other.kind.part:
            assert one.until < other.at or other.until < one.at


def test_different_parts_are_broken_side_by_side() -> None:
    """A worker also dies while Kafka is away."""
    pairs = combinations(plan(1, LONG, Weather()), 2)
    assert any(one.at < other.at < one.until for one, other in pairs)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_comes_before_any_comes_again(seed: int) -> None:
    """A storm that is long enough leaves no kind out."""
    possible = Weather().possible
    kinds = [fault.kind for fault in plan(seed, LONG, Weather())]
    assert set(kinds[: len(possible)]) == set(possible)


def test_without_overlap_one_thing_is_broken_at_a_time() -> None:
    """So that each recovery can be measured alone."""
    for one, other in pairwise(plan(1, LONG, Weather(gap=20.0, overlap=0.0))):
        assert other.at >= one.until + 10.0


def test_only_the_kinds_asked_for_come() -> None:
    """One row of the failure table can be repeated alone."""
    faults = plan(3, LONG, Weather([FaultKind.KAFKA_FREEZE]))
    assert faults
    assert {fault.kind for fault in faults} == {FaultKind.KAFKA_FREEZE}


def test_without_kinds_nothing_is_planned() -> None:
    """A storm without faults is a calm run."""
    assert plan(3, LONG, Weather([])) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_what_only_prefork_has_is_asked_of_a_prefork_worker(seed: int) -> None:
    """A worker of threads has no child to kill."""
    crew = Crew(threads=2, prefork=1)
    targets = {fault.target for fault in plan(seed, LONG, Weather(crew=crew)) if fault.kind in PREFORK_ONLY}
    assert targets == {2}


def test_without_a_prefork_worker_its_faults_do_not_come() -> None:
    """Nobody is left to aim at."""
    kinds = {fault.kind for fault in plan(1, LONG, Weather(crew=Crew(threads=2, prefork=0)))}
    assert kinds == set(Weather().possible) - PREFORK_ONLY


def test_where_redis_fails_over_no_primary_lives_on_beside_its_successor() -> None:
    """A single Redis comes back; a primary is replaced, by a Sentinel that waits for nobody."""
    assert FaultKind.REDIS_FAILOVER not in Weather().possible
    assert SINGLE_ONLY & set(Weather(ALL_KINDS).possible) == set()


def test_every_worker_is_hit_sooner_or_later() -> None:
    """No worker is spared."""
    faults = plan(5, LONG * 5, Weather([FaultKind.WORKER_KILL]))
    assert {fault.target for fault in faults} == {0, 1, 2}


def test_a_worker_stands_still_for_longer_than_a_lease() -> None:
    """Only then are its requests taken over while it lives."""
    assert SECONDS[FaultKind.WORKER_PAUSE][0] > LEASE_SECONDS


def test_kafka_is_frozen_for_longer_than_the_delivery_timeout() -> None:
    """Only then does a producer give up while its broker still holds the connection."""
    assert SECONDS[FaultKind.KAFKA_FREEZE][0] > 8.0
