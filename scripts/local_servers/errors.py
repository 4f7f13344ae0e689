"""What can go wrong with a local server.

ServerError
└── PortTakenError
"""

from __future__ import annotations


class ServerError(Exception):
    """A local server cannot be had; the message says why and what to do instead."""


class PortTakenError(ServerError):
    """Another program took the port between its choice and its use."""
