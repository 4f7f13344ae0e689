"""The tree at the top of errors.py is what whoever looks for an error reads, so it is checked."""

import re
from collections.abc import Iterator

from llm_provider import errors


def drawn() -> Iterator[tuple[int, str]]:
    """Depth and name of each class in the docstring."""
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└─ ]*)([A-Z]\w+)", line)
        if found:
            yield len(found[1]) // 4, found[2]


def written(error: type[errors.ServiceError] = errors.ServiceError, depth: int = 0) -> Iterator[tuple[int, str]]:
    """The same of the classes, in the order in which the file has them; other tests may have made some of their own."""
    yield depth, error.__name__
    for below in error.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from written(below, depth + 1)


def test_the_drawn_tree_is_the_classes() -> None:
    """Each in its place, none left out, none that is gone."""
    assert list(drawn()) == list(written())
