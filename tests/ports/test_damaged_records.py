"""One record that cannot be read costs nobody else a step, and ends: by its caller's error, or by an operator."""

import json
from typing import Any

import pytest
from redis import Redis

from llm_provider.adapters.redis_ledger import RedisLedger
from llm_provider.errors import RecordUnreadable
from llm_provider.ledger import Action, ClaimState
from llm_provider.queue_models import OUTCOME_SCHEMA_VERSION, REQUEST_SCHEMA_VERSION, QueuedRequest
from tests.ports.ledger_suite import SHORT, SOME_PROGRESS, Stage, action_of
from tests.unit.builders import a_verdict_for, an_error_for


class Desk:
    """A ledger on Redis, and whoever scribbles in its records."""

    def __init__(self, stage: Stage, client: Redis, prefix: str) -> None:
        self.stage, self.client, self.prefix = stage, client, prefix
        stage.open(lease=SHORT, redispatch_after=SHORT)
        assert isinstance(stage.ledger, RedisLedger)
        self.ledger = stage.ledger

    def scribble(self, about: QueuedRequest, /, **fields: Any) -> str:
        """Write into its record, None: delete there; and let it be due."""
        key = f"{self.prefix}request:{about.queue_id}"
        for name, value in fields.items():
            self.client.hset(key, name, value) if value is not None else self.client.hdel(key, name)
        self.client.zadd(f"{self.prefix}ledger:open", {about.queue_id: 1})
        return key

    def sweep(self, request: QueuedRequest) -> list[Action]:
        return action_of(self.stage.sweep(), request.queue_id)

    def is_quarantined(self, request: QueuedRequest) -> bool:
        indexes = [self.client.zscore(f"{self.prefix}ledger:{name}", request.queue_id) for name in ("open", "waiting")]
        letter = self.ledger.dead_letter(request.queue_id)
        return indexes == [None, None] and letter is not None and letter.reason.startswith("quarantined: ")


@pytest.fixture
def desk(on_redis: Stage, redis_client: Redis, key_prefix: str) -> Desk:
    return Desk(on_redis, redis_client, key_prefix)


ODD_FIELDS = [{"deadline": "soon"}, {"deadline": "nan"}, {"lease": "x", "state": "running"}, {"state": None}]


@pytest.mark.parametrize("fields", [*ODD_FIELDS, {"due": "-", "state": "suspended"}, {"deadline": b"\xff"}], ids=str)
def test_a_field_that_is_no_time_stops_no_sweep(desk: Desk, fields: dict[str, Any]) -> None:
    """The record leaves the indexes, a sweeper is told to end it, and the others are looked at as ever."""
    damaged, other = desk.stage.accept(), desk.stage.decided().request
    desk.scribble(damaged, **fields)
    desk.scribble(other)
    due = desk.stage.sweep()
    assert action_of(due, damaged.queue_id) == [Action.GIVE_UP]
    assert action_of(due, other.queue_id) == [Action.DELIVER]
    assert desk.is_quarantined(damaged)
    assert desk.ledger.figures().quarantined == 1
    assert desk.sweep(damaged) == []


def test_whose_request_can_be_read_is_told_and_leaves_the_quarantine(desk: Desk) -> None:
    """The error is an outcome like any other: delivered once, and found again should its worker die."""
    damaged = desk.stage.accept()
    desk.scribble(damaged, deadline="soon")
    desk.stage.sweep()
    assert desk.ledger.pending(damaged.queue_id) is not None
    decision = desk.ledger.commit(damaged.queue_id, an_error_for(damaged))
    assert decision is not None
    assert desk.ledger.dead_letter(damaged.queue_id) is None
    desk.scribble(damaged)
    assert desk.sweep(damaged) == [Action.DELIVER]


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"deadline": "soon"}, ClaimState.DAMAGED),
        ({"texts": None}, ClaimState.DAMAGED),
        ({"texts": '{"user_prompt": 1}'}, ClaimState.DAMAGED),
        ({"progress": "no"}, ClaimState.DAMAGED),
        ({"request": None}, ClaimState.LEFT),
        ({"request": "{"}, ClaimState.LEFT),
        ({"request": '{"queue_id": []}'}, ClaimState.LEFT),
    ],
    ids=str,
)
def test_a_claim_of_a_damaged_record_says_so_or_leaves_it(
    desk: Desk, fields: dict[str, Any], state: ClaimState
) -> None:
    """It is nobody's death; without a request nobody knows whom to tell, and an operator finds it."""
    damaged = desk.stage.accept()
    desk.scribble(damaged, **fields)
    assert desk.ledger.claim(damaged.queue_id, "first").state is state
    assert desk.is_quarantined(damaged)


@pytest.mark.parametrize("fields", [{"outcome": "{"}, {"outcome": None}, {"request": "{}"}], ids=str)
def test_an_outcome_that_cannot_be_read_is_not_tried_for_ever(desk: Desk, fields: dict[str, Any]) -> None:
    """It is the operator's."""
    request = desk.stage.decided().request
    desk.scribble(request, **fields)
    assert desk.ledger.decided(request.queue_id) is None
    assert desk.is_quarantined(request)


def test_a_key_of_another_type_costs_no_other_step(desk: Desk) -> None:
    """Sweep, renewal, waking, the list of dead letters: each passes it over; its view is a problem of its own."""
    odd, other = desk.stage.running("first"), desk.stage.running("second")
    key = desk.scribble(odd)
    desk.client.delete(key)
    desk.client.set(key, "a text")
    desk.ledger.renew({odd.queue_id: "first", other.queue_id: "second"})
    desk.ledger.wake([odd.queue_id, other.queue_id])
    with pytest.raises(RecordUnreadable):
        desk.ledger.view(odd.queue_id)
    desk.stage.sweep()
    assert desk.is_quarantined(odd)
    assert [letter.reason for letter in desk.ledger.dead_letters(9)] == [
        "quarantined: its key, or a field of it, holds another type of value"
    ]
    assert desk.ledger.commit(other.queue_id, a_verdict_for(other))


def test_an_operator_ends_it_or_lets_it_go_on(desk: Desk) -> None:
    """Repaired and replayed, it is dispatched; dropped, it is forgotten and no longer owed."""
    repaired, dropped = desk.stage.accept(), desk.stage.accept()
    for request in (repaired, dropped):
        desk.scribble(request, deadline="soon")
    desk.stage.sweep()
    key = f"{desk.prefix}request:{repaired.queue_id}"
    desk.client.hset(key, "deadline", 9_999_999_999_999)
    assert desk.ledger.reopen(repaired.queue_id)
    assert desk.ledger.drop(dropped.queue_id)
    assert desk.sweep(repaired) == [Action.DISPATCH]
    assert desk.ledger.claim(repaired.queue_id, "first").state is ClaimState.CLAIMED
    assert desk.ledger.view(dropped.queue_id) is None
    assert (desk.ledger.figures().quarantined, desk.ledger.figures().totals["dropped"]) == (0, 1)


def test_a_record_that_has_gone_is_counted_and_a_look_that_is_never_due_is_made(desk: Desk) -> None:
    """What was accepted does not vanish without a word."""
    gone, late = desk.stage.accept(), desk.stage.decided().request
    desk.client.delete(desk.scribble(gone))
    desk.client.zadd(f"{desk.prefix}ledger:open", {late.queue_id: float("inf")})
    due = desk.stage.sweep()
    assert action_of(due, late.queue_id) == [Action.DELIVER]
    assert (desk.ledger.figures().totals["lost"], desk.ledger.figures().open) == (1, 1)


def newer(stored: Any, **fields: Any) -> str:
    return json.dumps(json.loads(stored) | fields)


@pytest.mark.parametrize(
    "fields", [{"schema_version": REQUEST_SCHEMA_VERSION + 1, "queue_id": 7}, {"provider": "a vendor of tomorrow"}]
)
def test_a_newer_versions_request_is_left_to_a_newer_worker(desk: Desk, fields: dict[str, Any]) -> None:
    """Looked at ever more rarely, no death, not decided at its deadline; whoever knows it finds all of it."""
    request = desk.stage.suspended(0.0)
    key = desk.scribble(request)
    stored = desk.client.hget(key, "request")
    desk.client.hset(key, "request", newer(stored, **fields))
    for holder in "abcde":
        assert desk.ledger.claim(request.queue_id, holder).state is ClaimState.LEFT
        desk.scribble(request, due=1)
    assert int(desk.client.hget(key, "passed_over") or 0) >= 8000
    assert desk.sweep(request) == [Action.DISPATCH]
    desk.scribble(request, deadline=desk.client.time()[0] * 1000 - 1000)
    assert desk.sweep(request) == [Action.EXPIRE]
    assert desk.ledger.pending(request.queue_id) is None
    desk.client.hset(key, mapping={"request": str(stored), "deadline": 9_999_999_999_999, "due": 1})
    claim = desk.ledger.claim(request.queue_id, "newer")
    assert (claim.state, claim.request, claim.progress) == (ClaimState.CLAIMED, request, SOME_PROGRESS)
    assert desk.client.hget(key, "lapses") is None


def test_a_newer_versions_outcome_or_state_is_left_too(desk: Desk) -> None:
    """Nothing is published without what that version brought, and a state that is not known is not acted upon."""
    decided, waiting = desk.stage.decided().request, desk.stage.accept()
    key = desk.scribble(decided)
    desk.client.hset(key, "outcome", newer(desk.client.hget(key, "outcome"), schema_version=OUTCOME_SCHEMA_VERSION + 1))
    desk.scribble(waiting, state="pondering")
    assert desk.ledger.decided(decided.queue_id) is None
    assert desk.ledger.claim(waiting.queue_id, "first").state is ClaimState.LEFT
    assert desk.stage.sweep() == []
    assert desk.ledger.figures().open == 2
    with pytest.raises(RecordUnreadable) as told:
        desk.ledger.view(waiting.queue_id)
    assert told.value.is_newer


def test_what_no_newer_worker_takes_for_a_day_is_an_operators(desk: Desk) -> None:
    """A rollout that was taken back leaves nobody waiting unseen."""
    request = desk.stage.accept()
    desk.scribble(request, deadline=1, request='{"schema_version": 99}')
    assert desk.ledger.pending(request.queue_id) is None
    assert desk.is_quarantined(request)
