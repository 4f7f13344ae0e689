"""Whether somebody is still there who waits for an answer."""

import socket


def has_hung_up(line: socket.socket | None) -> bool:
    """Whether the client has closed its connection; one that has only ended its sending cannot be told from that."""
    if line is None:
        return False
    try:
        return line.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
