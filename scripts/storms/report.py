"""The tables at the end of a storm."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from scripts.storms.account import ACCEPTED, NO_ANSWER, Account, Asked, Broken

SLOW_SECONDS = 2.5  # What no post should take, whatever is broken.


def account_table(account: Account) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("what")
    table.add_column("count", justify="right")
    table.add_column("notes")
    for what, count, note in _rows(account):
        table.add_row(what, f"{count:,}", note)
    return table


def _rows(account: Account) -> Iterator[tuple[str, int, str]]:
    yield from _asked(account)
    yield from _answered(account)
    again = account.repetitions
    yield "provider calls", len(account.calls), ""
    yield "beyond a request's first: the one before was refused (429, 500)", len(again.after_refusals), ""
    kills = f"{len(account.kills)} kills"
    yield "beyond a request's first: in flight on a killed worker", len(again.after_kills), kills
    pauses = f"{len(account.pauses)} pauses"
    yield "beyond a request's first: on a worker that stood still", len(again.after_pauses), pauses
    yield "beyond a request's first: unexplained", len(again.unexplained), ""
    yield "processes that ended by themselves", len(account.deaths), ""
    yield "keys without expiry that are not documented", len(account.undocumented_keys), ""


def _asked(account: Account) -> Iterator[tuple[str, int, str]]:
    statuses = account.statuses
    others = {status: count for status, count in statuses.items() if status not in (ACCEPTED, 503, NO_ANSWER)}
    slow = [one for one in account.asked if one.seconds > SLOW_SECONDS]
    yield "posts", len(account.asked), ""
    yield "accepted (202)", len(account.accepted), ""
    yield "answered 503", statuses[503], ""
    yield "answered otherwise", sum(others.values()), _listed(others)
    yield "without an answer", statuses[NO_ANSWER], "the web process was down, or was killed meanwhile"
    yield f"slower than {SLOW_SECONDS} s", len(slow), _slowest(slow)
    yield "held up by slow clients", len(account.held_up), ""
    yield "looks at /healthz without an answer meanwhile", len(account.silences), ""


def _slowest(slow: Sequence[Asked]) -> str:
    if not slow:
        return ""
    statuses = _listed(Counter(one.status for one in slow))
    return f"the slowest {max(one.seconds for one in slow):.1f} s; by status: {statuses}"


def _answered(account: Account) -> Iterator[tuple[str, int, str]]:
    yield "events", len(account.arrivals), ""
    yield "distinct events", len(account.events), ""
    yield "of requests whose post was answered 503", account.accepted_after(503), ""
    yield "of requests whose post had no answer", account.accepted_after(NO_ANSWER), "accepted before it was lost"
    yield "telling an error", sum(account.errors.values()), _listed(account.errors)
    yield "copies beyond the first", account.duplicates, ""
    yield "lost", len(account.lost), ""
    yield "copies that differ", len(account.differing), ""
    yield "ids that different events share", len(account.ambiguous_ids), ""
    yield "on a wrong topic or key", len(account.misdirected), ""


def _listed(counts: "Counter[str] | Counter[int] | dict[int, int]") -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def fault_table(account: Account, begin: float) -> Table:
    """One row a fault, in the order of their ends."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("fault")
    for title in ("began\nat, s", "lasted,\ns", "recovered\nafter, s", "slowest\npost, s"):
        table.add_column(title, justify="right")
    table.add_column("meanwhile", no_wrap=False)
    for one in account.broken:
        recovery = account.seconds_to_recover(one.ended)
        began, lasted = f"{one.began - begin:.1f}", f"{one.ended - one.began:.1f}"
        slowest = f"{account.slowest_post(one.began, one.ended):.1f}"
        table.add_row(one.name, began, lasted, _seconds(recovery), slowest, _meanwhile(one, account.broken, recovery))
    return table


def _seconds(recovery: float | None) -> str:
    return "never" if recovery is None else f"{recovery:.1f}"


def _meanwhile(one: Broken, broken: Sequence[Broken], recovery: float | None) -> str:
    """The fault's own note, and what else was broken between its beginning and its recovery."""
    end = one.ended + (recovery or 0.0)
    others = [other.name for other in broken if other is not one and other.began < end and other.ended > one.began]
    return "; ".join(filter(None, [one.note, ", ".join(others)]))


def log_table(loud: Counter[tuple[str, str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("level", "logged by the processes above INFO"):
        table.add_column(title)
    table.add_column("times", justify="right")
    for (level, event), count in loud.most_common():
        table.add_row(level, event, f"{count:,}")
    return table
