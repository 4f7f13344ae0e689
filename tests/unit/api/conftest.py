"""The service that the tests of the HTTP interface call."""

import pytest

from tests.unit.api.service import Service


@pytest.fixture
def service() -> Service:
    """One web process in memory, with the default settings."""
    return Service()
