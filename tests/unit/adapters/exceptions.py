"""Every exception class that a library has, in whichever of its modules it is made."""

import importlib
import pkgutil
import warnings
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType
from typing import TypeVar

E = TypeVar("E", bound=BaseException)


def exceptions_of(package: ModuleType) -> set[type[BaseException]]:
    """Those of modules that are imported when they are used, too."""
    with warnings.catch_warnings(action="ignore"):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=lambda _: None):
            # Some of its modules need what is not installed, and some are programs.
            if not module.name.endswith("__main__"):
                with suppress(Exception):
                    importlib.import_module(module.name)
    own = package.__name__.split(".")[0]
    return {found for found in subclasses(BaseException) if found.__module__.split(".")[0] == own}


def subclasses(of: type[E]) -> Iterator[type[E]]:
    """Of any depth."""
    for direct in of.__subclasses__():
        yield direct
        yield from subclasses(direct)
