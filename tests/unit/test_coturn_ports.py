"""The port of a TURN server that is started: nobody else may be given it before the server has it."""

import errno
import os
import socket

import pytest

from tests.support.coturn import held_port


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_nobody_else_has_it_while_it_is_held(kind: socket.SocketKind) -> None:
    """Over TCP or UDP; a server that reuses addresses may, as coturn does."""
    with held_port() as port, socket.socket(socket.AF_INET, kind) as other:
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            other.bind(("127.0.0.1", port))
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))


def test_several_are_held_at_once() -> None:
    """Servers that begin together don't get the same: they would share it, and each answer for the other."""
    with held_port() as one, held_port() as two, held_port() as three:
        assert len({one, two, three}) == 3
