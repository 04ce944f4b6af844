"""Ports for services that take a while to come up."""

import errno
import os
import socket

import pytest

from greenroom.devtools import process
from greenroom.devtools.process import free_port


def test_a_port_is_kept_for_whom_it_was_found() -> None:
    """A server that reuses addresses may listen, before and after others have asked; nobody else is given it."""
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        other.bind(("127.0.0.1", port))
    assert port not in {free_port() for _ in range(20)}
    with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)) as client:
        accepted, address = server.accept()
        accepted.close()
        assert address == client.getsockname()


def test_the_preferred_one_is_taken_while_nobody_listens_there() -> None:
    """Else another one; and no more than some are kept."""
    preferred = free_port()
    assert free_port(preferred) == preferred
    with socket.create_server(("127.0.0.1", preferred)):
        assert free_port(preferred) != preferred
    for _ in range(200):
        free_port()
    assert len(process._held) <= 100
