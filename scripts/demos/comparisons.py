"""The comparisons that the demo asks for: which essays, in which way, and what became of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from examples.consumer import Event
from scripts.local_servers import REPOSITORY

ESSAYS = REPOSITORY / "examples" / "essays"
CALLBACKS, SYNCHRONOUS, POLLED = 12, 4, 2

How = Literal["callback", "at once", "polled"]


@dataclass
class Comparison:
    """One request of the demo, and what became of it."""

    essays: tuple[Path, Path]
    how: How
    topic: str | None = None
    queue_id: str = ""
    winner: str = ""
    confidence: float | None = None
    provider: str = ""
    answer_ms: float | None = None  # From acceptance to answer.
    event_ms: float | None = None  # From the answer to the event's arrival here.
    problem: str = "no answer"  # Empty once all is well.

    @property
    def names(self) -> str:
        return " : ".join(map(number, self.essays))

    def body(self) -> dict[str, object]:
        essay_a, essay_b = (essay.read_text() for essay in self.essays)
        prompt = (ESSAYS / "assignment.md").read_text() + "\nWhich of the two essays is better?"
        return {
            "user_prompt": prompt,
            "essay_a": essay_a,
            "essay_b": essay_b,
            "callback_topic": self.topic,
            "metadata": {"essays": [essay.stem for essay in self.essays]},
        }

    def answered(self, answer: Mapping[str, Any], answer_ms: float) -> None:
        """Note a verdict: it stands under the same names in an event and in an answer on HTTP."""
        self.winner = number(self.essays[("Essay A", "Essay B").index(answer["winner"])])
        self.confidence, self.provider, self.answer_ms = answer["confidence"], answer["provider"], answer_ms
        self.problem = ""

    def arrived(self, topic: str, event: Event) -> None:
        now, result = datetime.now(UTC), event.data
        if result.error_detail:
            self.problem = f"failed with {result.error_detail.error_code}: {result.error_detail.message}"
        elif topic != self.topic:
            self.problem = f"came on {topic} instead of {self.topic}"
        else:
            self.event_ms = (now - result.completed_at).total_seconds() * 1000
            asked_for = (result.completed_at - result.requested_at).total_seconds() * 1000
            self.answered(result.model_dump(mode="json"), asked_for)

    def line(self) -> str:
        if self.problem:
            return f"{self.how:9} essays {self.names}  {self.problem}"
        return f"{self.how:9} essays {self.names}  {self.winner} wins, confidence {self.confidence:.1f}"


def number(essay: Path) -> str:
    return essay.stem.removeprefix("essay-")


def comparisons(topics: list[str]) -> list[Comparison]:
    """Different pairs of essays, drawn evenly, in changing order."""
    counts: dict[How, int] = {"callback": CALLBACKS, "at once": SYNCHRONOUS, "polled": POLLED}
    ways = [how for how, count in counts.items() for _ in range(count)]
    pairs = list(combinations(sorted(ESSAYS.glob("essay-*.md")), 2))
    drawn = pairs[:: len(pairs) // len(ways)]
    return [
        Comparison(
            pair if index % 2 else pair[::-1],
            how,
            topics[index % len(topics)] if how == "callback" else None,
        )
        for index, (pair, how) in enumerate(zip(drawn, ways, strict=False))
    ]
