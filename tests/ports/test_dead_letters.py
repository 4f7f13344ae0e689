"""What every ledger does with requests that kill their workers and events that nobody can publish."""

import random
from typing import cast

import pytest
from redis import Redis

from contracts.enums import CallbackStatus, QueueStatus
from llm_provider.errors import RequestPoisoned
from llm_provider.ledger import Action, ClaimState, DeadLettersProtocol, Decision, LedgerProtocol
from llm_provider.queue_models import QueuedRequest
from tests.ports.ledger_suite import SHORT, SOME_PROGRESS, Stage, action_of
from tests.unit.builders import a_verdict_for, an_error_for

REFUSAL = "Kafka knows no such topic."


def letters(ledger: LedgerProtocol) -> DeadLettersProtocol:
    return cast(DeadLettersProtocol, ledger)


def die(stage: Stage, request: QueuedRequest, holder: str) -> ClaimState:
    """One more worker takes the request; its lease then lapses while others go on sweeping."""
    state = stage.ledger.claim(request.queue_id, holder).state
    for _ in range(6):
        stage.wait(SHORT / 4)
        stage.sweep()
    return state


def refuse(stage: Stage, decision: Decision) -> bool:
    return stage.ledger.postpone(decision.request.queue_id, attempted=True, refusal=REFUSAL)


def buried(stage: Stage) -> Decision:
    """An event that was refused for as long as it takes."""
    stage.open(dead_letter_after=0.0)
    decision = stage.decided()
    assert refuse(stage, decision)
    return decision


# --- requests that kill their workers


def test_a_request_whose_workers_die_again_and_again_is_given_up(stage: Stage) -> None:
    """The third lapsed lease is the last: the next claim says so, and nobody calls the provider again."""
    stage.open(lease=SHORT)
    request = stage.accept()
    assert [die(stage, request, holder) for holder in "abc"] == [ClaimState.CLAIMED] * 3
    claim = stage.ledger.claim(request.queue_id, "d")
    assert (claim.state, claim.request, claim.texts) == (ClaimState.POISONED, request, None)


def test_a_lapsed_lease_is_counted_once_however_often_it_is_looked_at(stage: Stage) -> None:
    """A suspect that has to wait for its turn does not die of waiting."""
    stage.open(lease=SHORT, suspect_after=1, poisoned_after=2)
    waiting, running = stage.accept(), stage.accept()
    die(stage, waiting, "a")
    die(stage, running, "a")
    assert stage.ledger.claim(running.queue_id, "b").state is ClaimState.CLAIMED
    for holder in "cdefg":
        assert stage.ledger.claim(waiting.queue_id, holder).state is ClaimState.LEFT
    stage.ledger.commit(running.queue_id, a_verdict_for(running))
    assert stage.ledger.claim(waiting.queue_id, "h").state is ClaimState.CLAIMED


def test_at_first_only_one_suspect_runs(stage: Stage) -> None:
    """So the one that kills its worker is found, and its neighbours of the last time are not blamed for it."""
    stage.open(lease=SHORT, suspect_after=1)
    first, second, innocent = stage.accept(), stage.accept(), stage.accept()
    die(stage, first, "a")
    die(stage, second, "a")
    assert stage.ledger.claim(first.queue_id, "b").state is ClaimState.CLAIMED
    assert stage.ledger.claim(second.queue_id, "b").state is ClaimState.LEFT
    assert stage.ledger.claim(innocent.queue_id, "b").state is ClaimState.CLAIMED


def suspects(stage: Stage, count: int) -> list[str]:
    """So many, after the deaths of two workers on which all of them ran."""
    ids = [stage.accept().queue_id for _ in range(count)]
    for holder in "ab":
        assert start(stage, ids, holder) == ids
        stage.wait(3 * SHORT)
    return ids


def start(stage: Stage, ids: list[str], holder: str) -> list[str]:
    """Whichever of them may run now."""
    return [each for each in ids if stage.ledger.claim(each, holder).state is ClaimState.CLAIMED]


def finish(stage: Stage, queue_id: str) -> None:
    view = stage.ledger.view(queue_id)
    assert view is not None
    stage.ledger.commit(queue_id, a_verdict_for(view.request))


@pytest.mark.parametrize(("seed", "has_killer"), [(1, False), (2, True), (3, True), (4, True)])
def test_suspects_start_slowly_until_whichever_kills_is_found(
    on_redis: Stage, redis_client: Redis, key_prefix: str, seed: int, has_killer: bool
) -> None:
    """Twice as many run with each that ends; the killer is given up after four deaths at most, and nobody else is."""
    draw = random.Random(seed)
    on_redis.open(lease=3 * SHORT)
    ids = suspects(on_redis, 24)
    killer = draw.choice(ids) if has_killer else ""
    rounds, deaths, open_ids = 0, 2, list(ids)
    while open_ids:
        draw.shuffle(open_ids)
        rounds, running = rounds + 1, start(on_redis, open_ids, f"holder-{rounds}")
        if killer in running:
            deaths += 1
            on_redis.wait(3 * SHORT)
        for queue_id in running if killer not in running else []:
            finish(on_redis, queue_id)
            open_ids.remove(queue_id)
        if not running:
            # Whoever ended it is the last one.
            assert [on_redis.ledger.claim(each, "z").state for each in open_ids] == [ClaimState.POISONED] * has_killer
            break
    assert (deaths <= 4, rounds <= (16 if has_killer else 6)) == (True, True), (deaths, rounds)
    assert min(redis_client.ttl(key) for key in redis_client.scan_iter(f"{key_prefix}ledger:suspects*")) > 0


@pytest.mark.parametrize("end", ["decided", "suspended", "its worker died", "its record is gone"])
def test_the_place_of_a_suspect_is_free_however_it_ended(
    on_redis: Stage, redis_client: Redis, key_prefix: str, end: str
) -> None:
    """Nobody has to give it back, so that nothing can forget to."""
    ledger = on_redis.open(lease=3 * SHORT, suspect_after=0, poisoned_after=9)
    first, second = on_redis.running("a"), on_redis.accept()
    assert ledger.claim(second.queue_id, "b").state is ClaimState.LEFT
    if end == "decided":
        finish(on_redis, first.queue_id)
    elif end == "suspended":
        ledger.suspend(first.queue_id, "a", wait_seconds=60.0, progress=SOME_PROGRESS)
    elif end == "its worker died":
        on_redis.wait(3 * SHORT)
    else:
        redis_client.delete(f"{key_prefix}request:{first.queue_id}")
    assert ledger.claim(second.queue_id, "c").state is ClaimState.CLAIMED


def test_a_suspect_that_had_to_wait_is_dispatched_again(stage: Stage) -> None:
    """Nothing that waits for its turn is forgotten."""
    stage.open(lease=SHORT, suspect_after=1)
    first, second = stage.accept(), stage.accept()
    die(stage, first, "a")
    die(stage, second, "a")
    stage.ledger.claim(first.queue_id, "b")
    stage.ledger.claim(second.queue_id, "b")
    stage.ledger.commit(first.queue_id, a_verdict_for(first))
    found: list[Action] = []
    for _ in range(30):
        stage.wait(SHORT / 4)
        found += action_of(stage.sweep(), second.queue_id)
        if found:
            break
    assert found == [Action.DISPATCH]


def test_a_suspect_that_finishes_is_no_suspect_any_more(stage: Stage) -> None:
    """Two workers that died for other reasons do not cost a caller its answer."""
    stage.open(lease=SHORT)
    request = stage.accept()
    die(stage, request, "a")
    die(stage, request, "b")
    assert stage.ledger.claim(request.queue_id, "c").state is ClaimState.CLAIMED
    decision = stage.ledger.commit(request.queue_id, a_verdict_for(request))
    assert decision is not None
    assert decision.mine


def test_a_poisoned_request_is_told_and_kept_for_the_operator(stage: Stage) -> None:
    """Its caller gets the error like any other, and its record stays until the dead letter is dropped."""
    ledger = stage.open(record_retention=SHORT, result_expires=SHORT)
    request = stage.accept()
    ledger.note_poisoned(request.queue_id, "It kills.")
    decision = ledger.commit(request.queue_id, an_error_for(request, RequestPoisoned("It kills.")))
    assert decision is not None
    ledger.mark_delivered(decision)
    stage.wait(SHORT * 2)
    letter = letters(ledger).dead_letter(request.queue_id)
    assert letter is not None
    assert (letter.reason, letter.request, letter.outcome) == ("It kills.", request, decision.outcome)
    view = ledger.view(request.queue_id)
    assert view is not None
    assert (view.status, view.callback_status) == (QueueStatus.FAILED, CallbackStatus.PUBLISHED)
    assert letters(ledger).drop(request.queue_id)
    stage.wait(SHORT * 2)
    assert ledger.view(request.queue_id) is None


# --- events that nobody can publish


def test_only_a_refusal_that_lasts_makes_a_dead_letter(stage: Stage) -> None:
    """A topic may be about to be created; until then the event is tried again."""
    stage.open(dead_letter_after=SHORT * 2)
    decision = stage.decided()
    assert not refuse(stage, decision)
    stage.wait(SHORT)
    assert not refuse(stage, decision)
    stage.wait(SHORT * 1.5)
    assert refuse(stage, decision)


def test_a_broker_that_is_away_never_makes_a_dead_letter(stage: Stage) -> None:
    """An outage, however long, is no refusal, and ends the count of one."""
    stage.open(dead_letter_after=SHORT)
    decision = stage.decided()
    refuse(stage, decision)
    stage.wait(SHORT * 1.5)
    assert not stage.ledger.postpone(decision.request.queue_id, attempted=True)
    assert not refuse(stage, decision)


def test_a_dead_letter_says_why_and_is_left_alone(stage: Stage) -> None:
    """It is not open any more: no sweep takes it, no task claims it, its caller can see it."""
    decision = buried(stage)
    queue_id = decision.request.queue_id
    assert stage.ledger.figures().open == 0
    assert stage.ledger.claim(queue_id, "late").state is ClaimState.LEFT
    assert stage.sweep(queue_is_empty=True) == []
    view = stage.ledger.view(queue_id)
    assert view is not None
    assert view.callback_status is CallbackStatus.DEAD
    (letter,) = letters(stage.ledger).dead_letters(10)
    assert (letter.queue_id, letter.reason, letter.attempts) == (queue_id, REFUSAL, 1)
    assert letter.refused_since is not None
    assert letter.refused_since <= letter.buried


def test_a_replayed_dead_letter_is_delivered_from_the_same_outcome(stage: Stage) -> None:
    """Whatever was to be told is told unchanged, and the list is empty again."""
    decision = buried(stage)
    queue_id = decision.request.queue_id
    assert letters(stage.ledger).reopen(queue_id)
    assert action_of(stage.sweep_until_due(), queue_id) == [Action.DELIVER]
    assert stage.ledger.decided(queue_id) == decision
    assert letters(stage.ledger).dead_letters(10) == []
    view = stage.ledger.view(queue_id)
    assert view is not None
    assert view.callback_status is CallbackStatus.PENDING


def test_a_published_event_can_be_sent_once_more(stage: Stage) -> None:
    """For a consumer that lost it; the record then lives on until it is delivered again."""
    stage.open(record_retention=SHORT)
    decision = stage.delivered(callback_topic="my.topic")
    assert letters(stage.ledger).reopen(decision.request.queue_id)
    stage.wait(SHORT * 2)
    assert stage.ledger.decided(decision.request.queue_id) == decision


def test_what_is_not_finished_cannot_be_sent_again(stage: Stage) -> None:
    """A request that waits, runs or is being delivered is on its way already; an unknown one has nothing to send."""
    stage.open()
    for request in (stage.accept(), stage.running(), stage.decided().request):
        assert not letters(stage.ledger).reopen(request.queue_id)
    assert not letters(stage.ledger).reopen("unknown")


def test_a_dropped_dead_letter_is_forgotten(stage: Stage) -> None:
    """Its record expires like any other; what is no dead letter is not touched."""
    decision = buried(stage)
    assert letters(stage.ledger).drop(decision.request.queue_id)
    assert letters(stage.ledger).dead_letters(10) == []
    assert not letters(stage.ledger).drop(decision.request.queue_id)
    assert not letters(stage.ledger).drop("unknown")


def test_outcomes_can_be_put_off_together(stage: Stage) -> None:
    """Until the wait is over no sweep takes them; what is delivered meanwhile does not come back."""
    ledger = stage.open(delivery_window=SHORT / 4)
    decisions = [stage.decided() for _ in range(3)]
    ledger.mark_delivered(decisions[0])
    ledger.put_off([decision.request.queue_id for decision in decisions], SHORT * 2)
    stage.wait(SHORT)
    assert stage.sweep() == []
    stage.wait(SHORT * 1.5)
    assert {item.queue_id for item in stage.sweep()} == {d.request.queue_id for d in decisions[1:]}


def test_the_totals_stay_true_whatever_an_operator_does(stage: Stage) -> None:
    """Accepted less published, stored and dropped is what is owed: one sent twice counts once, one given up counts."""
    decision = buried(stage)
    assert stage.ledger.figures().dead == 1
    sent = stage.delivered(callback_topic="my.topic")
    assert letters(stage.ledger).reopen(sent.request.queue_id)
    stage.ledger.mark_delivered(sent)
    assert letters(stage.ledger).drop(decision.request.queue_id)
    figures = stage.ledger.figures()
    totals = figures.totals
    assert (totals["accepted"], totals["published"], totals["dropped"], figures.dead) == (2, 1, 1, 0)
    assert letters(stage.ledger).reopen(sent.request.queue_id)
    stage.ledger.mark_delivered(sent)
    assert stage.ledger.figures().totals["published"] == 1


def test_a_dropped_event_that_is_sent_after_all_is_counted_once(stage: Stage) -> None:
    """As given up: what is owed must not become less than nothing."""
    decision = buried(stage)
    assert letters(stage.ledger).drop(decision.request.queue_id)
    assert letters(stage.ledger).reopen(decision.request.queue_id)
    stage.ledger.mark_delivered(decision)
    totals = stage.ledger.figures().totals
    assert (totals["accepted"], totals.get("published", 0), totals["dropped"]) == (1, 0, 1)
