"""No regular expression of ours takes longer than the text is long, whatever a stranger wrote.

Python's `re` goes back and tries again. It need not where every repeat without a bound is possessive, which keeps what
it took; and where somebody searches, where such a repeat is the last part, so that nothing it took is looked at twice.
Patterns of pydantic's fields are Rust's, which never goes back.
"""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCES = [path for folder in ("llm_provider", "contracts", "scripts") for path in (REPOSITORY / folder).rglob("*.py")]
ANCHORED = {"match", "fullmatch"}
METHODS = ANCHORED | {"search", "sub", "subn", "split", "findall", "finditer"}
# What re itself reads patterns with.
PARSER: Any = import_module("re._parser")
# Of a single character; more times than that count as without a bound.
MOST_TIMES = 500


def faults(pattern: str | bytes, *, is_anchored: bool) -> list[str]:
    """What may make it slow."""
    return list(_faults(PARSER.parse(pattern), is_anchored=is_anchored, is_last=True))


def _faults(parts: Any, *, is_anchored: bool, is_last: bool) -> Iterator[str]:
    for number, (operation, argument) in enumerate(parts):
        ends_it = is_last and number == len(parts) - 1
        if "REPEAT" in str(operation):
            yield from _faults_of_repeat(str(operation), argument, is_anchored=is_anchored, is_last=ends_it)
        else:
            for inner in _parts_within(argument):
                yield from _faults(inner, is_anchored=is_anchored, is_last=ends_it)


def _faults_of_repeat(operation: str, argument: Any, *, is_anchored: bool, is_last: bool) -> Iterator[str]:
    _, most, body = argument
    is_single = len(body) == 1 and str(body[0][0]) in {"LITERAL", "NOT_LITERAL", "IN", "ANY"}
    has_bound = int(most) <= (MOST_TIMES if is_single else 1)
    if not has_bound and operation != "POSSESSIVE_REPEAT" and not (is_last and is_single):
        yield "a repeat that gives back what it took"
    if not has_bound and not is_anchored and not is_last:
        yield "a search in which what a repeat took is looked at again"
    yield from _faults(body, is_anchored=is_anchored, is_last=is_last and has_bound)


def _parts_within(argument: Any) -> Iterator[Any]:
    """Groups, branches and assertions hold parts somewhere in their arguments."""
    if isinstance(argument, PARSER.SubPattern):
        yield argument
    elif isinstance(argument, list | tuple):
        for each in argument:
            yield from _parts_within(each)


def uses(source: str) -> Iterator[tuple[str | bytes, str]]:
    """Each pattern with each method that it is used by; one that is no plain text is an error."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    methods = [(call, ast.unparse(call.func).rpartition(".")) for call in calls]
    for call, (owner, _, method) in methods:
        if owner == "re" and method in METHODS:
            yield ast.literal_eval(call.args[0]), method
        elif owner == "re" and method == "compile":
            pattern = ast.literal_eval(call.args[0])
            yield pattern, "fullmatch"
            if any(name.isupper() and how in METHODS - ANCHORED for _, (name, _, how) in methods):
                # A module that searches with one of its patterns may do so with any.
                yield pattern, "search"


def test_no_pattern_goes_back() -> None:
    """Nor does one search in a way that looks at the same characters again and again."""
    found = [(path, *use) for path in SOURCES for use in uses(path.read_text())]
    slow = [
        (path.name, pattern, fault)
        for path, pattern, method in found
        for fault in faults(pattern, is_anchored=method in ANCHORED)
    ]
    assert slow == []
    assert len(found) > 20


@pytest.mark.parametrize(
    ("pattern", "is_anchored", "is_slow"),
    [
        (r"(?is)\s*```(?:json)?\s*(.*?)\s*```\s*", True, True),
        (r"(a+)+", True, True),
        (r"(a|ab|b){1,400}c", True, True),
        (r"\d++s", False, True),
        (r"x[\dx]++s", False, True),
        (r"(https?://[^/]+.*)/v", True, True),
        (r"\d++(\.\d++)?s", True, False),
        (r"[\w.]++(/[\w.]++)*+", True, False),
        (r"version (\d+)", False, False),
        (r".{400,500}(?!\S)", True, False),
    ],
)
def test_the_rule_tells_slow_patterns_from_others(pattern: str, is_anchored: bool, is_slow: bool) -> None:
    """Among them those that were here."""
    assert bool(faults(pattern, is_anchored=is_anchored)) is is_slow
