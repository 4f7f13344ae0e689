"""Whether a caller is still on the line, asked of real sockets."""

import socket

import pytest

from llm_provider.api.callers import has_hung_up


@pytest.mark.parametrize("sent", [b"", b"the next request"])
def test_who_waits_has_not_hung_up(sent: bytes) -> None:
    """Also when it sends its next request already."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        assert not has_hung_up(ours)


@pytest.mark.parametrize("end", [socket.socket.close, lambda line: line.shutdown(socket.SHUT_WR)])
def test_who_closes_has_hung_up(end: object) -> None:
    """Who ends its sending alone looks the same."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert callable(end)
        end(theirs)
        assert has_hung_up(ours)


def test_without_a_line_nobody_has_hung_up() -> None:
    """Another server than ours, or a test's client."""
    assert not has_hung_up(None)
