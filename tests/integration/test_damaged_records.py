"""Records that somebody has damaged, in front of real workers: told, kept for an operator, and quoted by nobody."""

from contextlib import closing
from typing import Any

from redis import Redis

from contracts.errors import ErrorCode
from tests.integration.conftest import Operator
from tests.integration.inbox import Inbox
from tests.integration.processes import SECRET, Installation, Sent, all_ready, eventually

ODD_FIELDS: dict[str, Any] = {
    "time": {"deadline": f"soon {SECRET}"},
    "texts": {"texts": f'{{"essay_a": 1, "essay_b": "{SECRET}"}}'},
    "request": {"request": f'{{"metadata": "{SECRET}"}}'},
}


def test_a_damaged_record_ends_and_the_others_go_on(chain: Installation, inbox: Inbox, operator: Operator) -> None:
    """Whose request can be read is told; the other one is the operator's. No log quotes any of them."""
    chain.expect("record_quarantined")
    web = chain.web()
    web.ready()
    damaged = {what: chain.send(web) for what in ODD_FIELDS}
    with closing(Redis.from_url(chain.settings["REDIS_URL"])) as redis:
        prefix = chain.settings["KEY_PREFIX"]
        for what, sent in damaged.items():
            redis.hset(f"{prefix}request:{sent.queue_id}", mapping=ODD_FIELDS[what])
            redis.zadd(f"{prefix}ledger:open", {sent.queue_id: 1})
    others = [chain.send(web) for _ in range(5)]
    all_ready(chain.worker(), chain.worker())
    inbox.collect([*others, damaged["time"], damaged["texts"]], 30)
    for what in ("time", "texts"):
        error = inbox.the_event_of(damaged[what]).data.error_detail
        assert error is not None
        assert error.error_code is ErrorCode.PROCESSING_ERROR

    lost: Sent = damaged["request"]
    eventually(lambda: lost.queue_id in operator("dead-letters", "list").stdout, 20, "the operator is shown it")
    listed = operator("dead-letters", "list").stdout
    assert listed.count("\n") == 1
    assert "quarantined: its request is damaged" in listed
    assert operator("dead-letters", "show", lost.queue_id).returncode == 0
    answer = web.get(f"/api/v1/status/{lost.queue_id}")
    assert (answer.status_code, answer.json()["error_code"]) == (503, "PROCESSING_ERROR")
    assert SECRET not in answer.text
    assert operator("dead-letters", "drop", lost.queue_id).returncode == 0
    assert web.get(f"/api/v1/status/{lost.queue_id}").status_code == 404
