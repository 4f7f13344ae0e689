"""What to do when a local server cannot be had."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WaysOn:
    """How to have a server of this kind in another way; part of every message that says it cannot be had."""

    name: str
    variable: str
    container: str
    install: str

    def __str__(self) -> str:
        return (
            f"Ways to go on with {self.name}:\n"
            f"  your own server:     export {self.variable}=...\n"
            f"  a container engine:  {self.container}\n"
            f"  an install:          {self.install}"
        )
