"""Redis's clock jumps, as when a failover finds a machine whose clock is behind, or ahead: what it costs the ledger."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from redis import Redis

from llm_provider.adapters.redis_ledger import RedisLedger
from llm_provider.admission import BreakerPolicy, BreakerState
from llm_provider.ledger import Action, ClaimState, Due
from llm_provider.queue_models import QueuedRequest
from tests.ports.admission_stage import redis_stage as admission_stage
from tests.ports.ledger_suite import SHORT, Stage

HOUR = 3600


def move_clock(stage: Stage, seconds: int) -> None:
    """From here on Redis tells the stage's ledger another time. Nobody can set the clock of a real one."""
    scripts = stage.ledger._scripts  # type: ignore[attr-defined] # noqa: SLF001 Where TIME is asked.
    moved = f"(function() local t = redis.call('TIME') return {{t[1] + ({seconds}), t[2]}} end)()"
    for name, script in list(scripts.items()):
        scripts[name] = script.registered_client.register_script(script.script.replace("redis.call('TIME')", moved))


def decided(stage: Stage) -> QueuedRequest:
    return stage.decided().request


@pytest.mark.parametrize(
    ("make", "action"),
    [
        (decided, Action.DELIVER),
        (lambda stage: stage.suspended(wait_seconds=SHORT), Action.DISPATCH),
        (lambda stage: stage.accept(deadline_seconds=SHORT), Action.EXPIRE),
        (Stage.running, Action.DISPATCH),
    ],
    ids=["a delivery", "the end of a wait", "a deadline", "a lapsed lease"],
)
def test_what_is_due_does_not_wait_for_a_clock_that_went_back(
    on_redis: Stage, make: Callable[[Stage], QueuedRequest], action: Action
) -> None:
    """It comes when it would have come, and not an hour later."""
    on_redis.open(lease=4 * SHORT, delivery_window=SHORT)
    request = make(on_redis)
    assert on_redis.sweep() == []
    move_clock(on_redis, -HOUR)
    assert on_redis.sweep_until_due() == [Due(request.queue_id, action)]


@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
def test_whoever_lives_keeps_its_lease_over_a_jump_and_the_dead_lose_theirs(on_redis: Stage, seconds: int) -> None:
    """Leases by the old clock and by the new one seem to have lapsed; nobody judges them before they can be renewed."""
    ledger = on_redis.open(lease=4 * SHORT)
    held = {"before": on_redis.running("before", deadline_seconds=10 * HOUR).queue_id}
    dead = on_redis.running("dead", deadline_seconds=10 * HOUR)
    assert on_redis.sweep() == []
    move_clock(on_redis, seconds)
    # No sweep has noticed yet.
    held["meanwhile"] = on_redis.running("meanwhile", deadline_seconds=10 * HOUR).queue_id
    assert ledger.claim(held["before"], "other").state is ClaimState.LEFT
    for _ in range(20):
        if due := on_redis.sweep():
            break
        assert [ledger.claim(queue_id, "other").state for queue_id in held.values()] == [ClaimState.LEFT] * 2
        ledger.renew(held)
        on_redis.wait(SHORT)
    assert due == [Due(dead.queue_id, Action.DISPATCH)]


def test_people_are_told_times_of_their_own_clock(on_redis: Stage, redis_client: Redis, key_prefix: str) -> None:
    """However far the ledger's clock has come to be ahead; a jump of less than a second is none."""
    ledger = on_redis.open()
    on_redis.sweep()
    move_clock(on_redis, -HOUR)
    on_redis.sweep()
    assert int(redis_client.get(f"{key_prefix}ledger:clock") or 0) == pytest.approx(1000 * HOUR, abs=5000)
    view = on_redis.open().view(on_redis.accept(deadline_seconds=100.0).queue_id)
    assert isinstance(ledger, RedisLedger)
    assert view is not None
    assert view.expires_at is not None
    assert 90 < (view.expires_at - datetime.now(UTC)).total_seconds() <= 100


def test_admission_goes_by_the_ledgers_clock(redis_client: Redis, key_prefix: str) -> None:
    """An open circuit does not stay open for the length of a jump either."""
    process = admission_stage(redis_client, key_prefix).process(
        policy=BreakerPolicy(failures=3, open_seconds=HOUR, successes=1)
    )
    process.break_circuit()
    before = process.view.state
    redis_client.set(f"{key_prefix}ledger:clock", 1000 * HOUR)
    assert (before, process.view.state) == (BreakerState.OPEN, BreakerState.HALF_OPEN)
