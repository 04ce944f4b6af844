"""What the runner and its zygote say to each other, over a `SOCK_SEQPACKET` socket pair.

One packet is one message (msgpack), with at most one file descriptor beside it. The other end closing means that it
is gone: a zygote without a runner exits, a runner without a zygote starts another.
"""

import socket
from typing import Final

import msgspec

from greenroom.common.messages import BotOffer
from greenroom.runner.discovery import BotSpec
from greenroom.runner.settings import RunnerSettings

MAX_PACKET_BYTES: Final = 160 * 1024


class Prepare(msgspec.Struct, frozen=True, kw_only=True, tag="prepare"):
    """The first message: what to import and warm.

    `run` (`module:function`) is what each fork calls. Without `bots` a message follows that has them. `spoiled` names
    bots that broke an earlier zygote, with the reason: they are offered as broken, and left alone.
    """

    settings: RunnerSettings
    run: str
    bots: tuple[BotSpec, ...] | None
    spoiled: dict[str, str] = {}
    rehearse: bool = True


class Bots(msgspec.Struct, frozen=True, kw_only=True, tag="bots"):
    """Which bots to import, once that is known; of use only to a zygote that waits for it."""

    bots: tuple[BotSpec, ...]


class Fork(msgspec.Struct, frozen=True, kw_only=True, tag="fork"):
    """Fork a session process; beside it comes the process's end of its control socket."""

    request: int


type ToZygote = Prepare | Bots | Fork


class Loading(msgspec.Struct, frozen=True, kw_only=True, tag="loading"):
    """What is imported or warmed next; if nothing follows, it was its fault. `bot` is empty for what is not a bot."""

    stage: str
    bot: str = ""


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag="loaded"):
    """A bot was imported and warmed, or failed to be."""

    offer: BotOffer


class Spoiled(msgspec.Struct, frozen=True, kw_only=True, tag="spoiled"):
    """The zygote can't fork any more (threads that can't be joined), and exits. `bot` is empty if it was none's."""

    bot: str
    detail: str


class Warm(msgspec.Struct, frozen=True, kw_only=True, tag="warm"):
    """Ready to fork. Milliseconds by stage."""

    stages_ms: dict[str, float]


class Forked(msgspec.Struct, frozen=True, kw_only=True, tag="forked"):
    """The process is there; beside it comes its pidfd."""

    request: int
    pid: int


class ForkFailed(msgspec.Struct, frozen=True, kw_only=True, tag="fork-failed"):
    """The kernel refused (no memory, no process ids)."""

    request: int
    detail: str


class Exited(msgspec.Struct, frozen=True, kw_only=True, tag="exited"):
    """A process has exited and its group was killed; `code` is negative for a signal."""

    pid: int
    code: int
    max_rss_bytes: int
    cpu_s: float


type FromZygote = Loading | Loaded | Spoiled | Warm | Forked | ForkFailed | Exited


class PeerGone(Exception):
    """The other end has closed."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a connection; neither is inherited by `exec`."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: ToZygote | FromZygote, fd: int | None = None) -> None:
    """Send a message.

    Raises:
        PeerGone: nobody will read it.
        BlockingIOError: the socket doesn't block and its buffer is full.
    """
    packet = msgspec.msgpack.encode(message)
    try:
        socket.send_fds(sock, [packet], [] if fd is None else [fd])
    except (BrokenPipeError, ConnectionResetError) as error:
        raise PeerGone from error


def receive_in_zygote(sock: socket.socket) -> tuple[ToZygote, int | None]:
    """Return the next message of the runner, and the file descriptor that came with it.

    Raises:
        PeerGone: the runner has closed its end.
    """
    packet, fd = _receive(sock)
    return msgspec.msgpack.decode(packet, type=ToZygote), fd


def receive_in_runner(sock: socket.socket) -> tuple[FromZygote, int | None]:
    """Return the next message of the zygote, and the file descriptor that came with it.

    Raises:
        PeerGone: the zygote is gone.
        BlockingIOError: there is none now.
    """
    packet, fd = _receive(sock)
    return msgspec.msgpack.decode(packet, type=FromZygote), fd


def _receive(sock: socket.socket) -> tuple[bytes, int | None]:
    try:
        packet, fds, _flags, _address = socket.recv_fds(sock, MAX_PACKET_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError as error:
        raise PeerGone from error
    if not packet:
        raise PeerGone
    return packet, fds[0] if fds else None
