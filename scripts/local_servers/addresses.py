"""Addresses, fit to be shown."""

from __future__ import annotations

import re


def without_password(address: str) -> str:
    """An address that may be shown."""
    return re.sub(r"(?<=:)[^:@/]{0,500}(?=@)", "***", address)
