"""What waits for a session's process: the commands that came before it was there, and its desired settings. Pure.

A session has one mailbox, one message that everybody changes by compare-and-set. The api puts commands into it while
the session isn't ready; its process takes them, one at a time and in order, and writes down what it answers. A
command is written down as taken before it is begun, so it is carried out at most once, whatever is killed: what a
process had taken and not answered is lost with it, and answered so. Only a `configure`, which can't be done twice
because of its version, goes to the next process.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from greenroom.common import messages
from greenroom.common.command_errors import CommandLost, CommandNotDone, TooManyCommands
from greenroom.common.commands import (
    Call,
    Command,
    CommandAnswer,
    CommandDone,
    CommandRefused,
    CommandRequest,
    Configure,
    Dtmf,
    Inject,
    Mute,
    Say,
    Unmute,
    Whisper,
    kind_of,
)
from greenroom.common.desired import Desired

STREAM: Final = "COMMANDS"
# Which commands can wait. Others are for what happens at this moment (`interrupt`, `barge_in`, `snapshot`), or for a
# call that there is (`transfer`); a session that isn't ready is stopped by `POST …/stop`.
CAN_WAIT: Final = (Say, Inject, Whisper, Configure, Mute, Unmute, Call, Dtmf)
NAMES: Final = tuple(str(kind.__struct_config__.tag) for kind in CAN_WAIT)

# In the life of a session: what was answered stays, so that it is never done again.
MAX_POSTED: Final = 64
MAX_POSTED_BYTES: Final = 192 * 1024
# A larger result is told as its size: all of them go into one message, beside what was asked.
MAX_RESULT_BYTES: Final = 2 * 1024
_MAX_DETAIL: Final = 500


class Posted(msgspec.Struct, frozen=True, kw_only=True):
    """A command in the mailbox: it waits, or was taken by a process, or is answered."""

    request: CommandRequest
    # The first epoch whose process may have it: an earlier one's doesn't know yet that it is over.
    epoch: int
    # Which process took it, and of which epoch; none: it waits.
    taken_by: str = ""
    taken_epoch: int = 0
    answer: CommandAnswer | None = None


class Mailbox(msgspec.Struct, frozen=True, kw_only=True):
    """The mailbox of a session: the commands in the order in which they came, and its desired settings."""

    posted: tuple[Posted, ...] = ()
    desired: Desired = Desired()

    def find(self, command_id: str) -> Posted | None:
        """Return a command by its id."""
        return next((each for each in self.posted if each.request.id == command_id), None)

    @property
    def open(self) -> bool:
        """Whether any command isn't answered yet."""
        return any(each.answer is None for each in self.posted)


def needs_somebody(command: Command) -> bool:
    """Tell whether a command is for somebody to hear, and so waits until somebody is there."""
    return isinstance(command, Say | Dtmf) or (isinstance(command, Inject) and command.run)


def post(box: Mailbox, request: CommandRequest, epoch: int) -> Mailbox:
    """Return the mailbox with a command in it, for a process of `epoch` or later; unchanged if it has its id.

    Raises:
        TooManyCommands: it is full.
    """
    if box.find(request.id) is not None:
        return box
    if len(box.posted) >= MAX_POSTED:
        raise TooManyCommands(f"{MAX_POSTED} commands at most may be sent to a session before it is ready.")
    after = msgspec.structs.replace(box, posted=(*box.posted, Posted(request=request, epoch=epoch)))
    if sum(len(messages.encode(each.request)) for each in after.posted) > MAX_POSTED_BYTES:
        raise TooManyCommands(f"What waits for a session has {MAX_POSTED_BYTES} bytes at most.")
    return after


def take(box: Mailbox, process: str, epoch: int, may: Callable[[Command], bool]) -> Mailbox:
    """Return the mailbox after a process has taken the next command.

    What another process has taken, of this epoch or an earlier one, goes down with it.

    Args:
        box: the mailbox.
        process: who takes; no other has this name.
        epoch: of its session's lease.
        may: whether it can carry a command out now; if not, those behind it wait as well.
    """
    posted = [_inherited(each, process, epoch) for each in box.posted]
    for index, each in enumerate(posted):
        if each.answer is not None:
            continue
        if not each.taken_by and each.epoch <= epoch and may(each.request.command):
            posted[index] = msgspec.structs.replace(each, taken_by=process, taken_epoch=epoch)
        break
    return msgspec.structs.replace(box, posted=tuple(posted))


def held(box: Mailbox, process: str) -> CommandRequest | None:
    """Return the command that a process has taken and not answered."""
    return next((each.request for each in box.posted if each.taken_by == process and each.answer is None), None)


def answer(box: Mailbox, answered: CommandAnswer) -> Mailbox:
    """Return the mailbox with an answer; the first one that is written down holds."""
    posted = (
        msgspec.structs.replace(each, answer=_bounded(answered))
        if each.request.id == answered.id and each.answer is None
        else each
        for each in box.posted
    )
    return msgspec.structs.replace(box, posted=tuple(posted))


def close(box: Mailbox) -> Mailbox:
    """Return the mailbox of a session that is over: what wasn't carried out won't be, and what was taken is lost."""
    return msgspec.structs.replace(box, posted=tuple(_closed(each) for each in box.posted))


def keep(box: Mailbox, desired: Desired) -> Mailbox:
    """Return the mailbox with desired settings, unless it has later ones."""
    after = desired if desired.version > box.desired.version else box.desired
    return msgspec.structs.replace(box, desired=after)


def _inherited(each: Posted, process: str, epoch: int) -> Posted:
    if each.answer is not None or each.taken_by in {"", process} or each.taken_epoch > epoch:
        return each
    if isinstance(each.request.command, Configure):
        return msgspec.structs.replace(each, taken_by="", taken_epoch=0)
    return msgspec.structs.replace(each, answer=_lost(each))


def _closed(each: Posted) -> Posted:
    if each.answer is not None:
        return each
    if each.taken_by:
        return msgspec.structs.replace(each, answer=_lost(each))
    detail = f"The session ended before the {kind_of(each.request.command)} could be carried out."
    return msgspec.structs.replace(
        each, answer=CommandRefused(id=each.request.id, code=CommandNotDone.code, detail=detail)
    )


def _lost(each: Posted) -> CommandRefused:
    return CommandRefused(id=each.request.id, code=CommandLost.code, detail="The process that had begun it is gone.")


def _bounded(answered: CommandAnswer) -> CommandAnswer:
    if isinstance(answered, CommandRefused):
        return msgspec.structs.replace(answered, detail=answered.detail[:_MAX_DETAIL])
    size = len(msgspec.json.encode(answered.result))
    return answered if size <= MAX_RESULT_BYTES else CommandDone(id=answered.id, result=_too_large(size))


def _too_large(size: int) -> dict[str, bool | int]:
    return {"truncated": True, "bytes": size}
