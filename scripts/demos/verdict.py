"""How the demo ends: all comparisons were answered, or which were not."""

import statistics
from collections import Counter

from scripts.demos.comparisons import Comparison
from scripts.demos.errors import DemoError


def verdict(asked: list[Comparison]) -> str:
    """One line when all is well; otherwise a DemoError that names what is missing."""
    problems = [f"essays {one.names} ({one.how}): {one.problem}" for one in asked if one.problem]
    if problems:
        raise DemoError(f"{len(problems)} of {len(asked)} comparisons went wrong:\n  " + "\n  ".join(problems))
    events = [one.event_ms for one in asked if one.event_ms is not None]
    topics = {one.topic for one in asked if one.topic}
    ways = Counter(one.how for one in asked)
    return (
        f"All {len(asked)} comparisons answered: {len(events)} as events on {len(topics)} topics "
        f"(median {statistics.median(events):.0f} ms after the answer), "
        f"{ways['at once']} at once, {ways['polled']} by polling."
    )
