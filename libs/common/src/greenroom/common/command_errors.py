"""What can go wrong with a command to a live session. The session process refuses with the code; the api raises it."""

from typing import Any

from greenroom.common.errors import GreenroomError, registered


class SessionNotLive(GreenroomError):
    """The session ends or has ended; or it waits or starts, and the command is none that can wait until it is ready.

    The detail says which. A session that isn't ready is stopped by `POST /v1/sessions/{id}/stop`.
    """

    code = "session-not-live"
    status = 409
    title = "The session isn't running"


class SessionMoves(GreenroomError):
    """The session is on its way to another room already. It is there, or back, within some seconds: ask again then."""

    code = "session-moves"
    status = 409
    title = "The session is on its way to another room"
    retryable = True
    default_retry_after_s = 1.0


class CommandUnsupported(GreenroomError):
    """The bot of this session can't do that: it lacks the part that would, or its runner is older than the command.

    The detail names what is missing, for example a voice for `say` or a model's context for `inject`.
    """

    code = "command-unsupported"
    status = 422
    title = "The bot can't do that"


class CommandNotDone(GreenroomError):
    """The session didn't carry the command out, for the reason in the detail, and won't if it is asked again."""

    code = "command-refused"
    status = 409
    title = "The session refused the command"


class CommandTimedOut(GreenroomError):
    """The session didn't answer in time, so it isn't known whether the command was or will be carried out.

    Send it again with the same id: it is carried out once at most, and its answer comes when there is one.
    """

    code = "command-timed-out"
    status = 504
    title = "The session didn't answer in time"
    retryable = True
    default_retry_after_s = 1.0

    def __init__(self, detail: str = "", *, command_id: str | None = None) -> None:
        """Make the error of a command; its id is told, since whoever let us make it doesn't know it yet."""
        super().__init__(detail)
        self.command_id = command_id

    def problem(self, instance: str | None = None) -> dict[str, Any]:
        """See `GreenroomError.problem`."""
        problem = super().problem(instance)
        return problem if self.command_id is None else {**problem, "command_id": self.command_id}


class CommandIdReused(GreenroomError):
    """The id belongs to another command of this session. Use a new id for a new command."""

    code = "command-id-reused"
    status = 422
    title = "The id belongs to another command"


class CommandLost(GreenroomError):
    """The process that had the command is gone, and nobody knows whether it had carried it out.

    If the session was put on another runner, look at its events and send the command under a new id if need be.
    """

    code = "command-lost"
    status = 409
    title = "Whether it was carried out is lost"


class TooManyCommands(GreenroomError):
    """The session works on as many commands as it may, or has had as many as one may have, or may wait for one."""

    code = "too-many-commands"
    status = 429
    title = "Too many commands"
    retryable = True
    default_retry_after_s = 1.0


class SettingsVersionStale(GreenroomError):
    """A `configure` with this version or a later one was applied before. `snapshot` tells which one is."""

    code = "settings-version-stale"
    status = 409
    title = "The settings' version is stale"


class SettingsLocked(GreenroomError):
    """A `configure` with `lock` holds some of these settings; the detail names them. Nothing was changed.

    Leave them out, or let them go by a `configure` with `"lock": false`, which needs the scope `sessions:lock`.
    """

    code = "settings-locked"
    status = 409
    title = "The settings are held"


class FunctionUnknown(GreenroomError):
    """The bot exposes no function of this name; `snapshot` lists those it does."""

    code = "function-unknown"
    status = 422
    title = "The bot has no such function"


class FunctionArgumentsInvalid(GreenroomError):
    """The arguments don't fit the function; `snapshot` has the schema of what it takes."""

    code = "function-arguments-invalid"
    status = 422
    title = "The arguments don't fit the function"


class FunctionFailed(GreenroomError):
    """The bot's function raised, took too long, or returned what can't be sent. The session goes on; see its log."""

    code = "function-failed"
    status = 502
    title = "The bot's function failed"


class TransferTargetInvalid(GreenroomError):
    """A call is handed over to a phone number with its country's code (`+4930123456`), or to a SIP URI (`sip:…`)."""

    code = "transfer-target-invalid"
    status = 422
    title = "That is no target for a transfer"


class TransferFailed(GreenroomError):
    """The carrier didn't hand the caller over, or nobody knows whether it did; the detail has its own words.

    The call goes on with the bot, if it isn't gone. To try again, send the command under a new id.
    """

    code = "transfer-failed"
    status = 502
    title = "The carrier didn't hand the caller over"


class NoSuchListener(GreenroomError):
    """The listening socket's ticket isn't known, has expired or was used. Ask for another one."""

    code = "listen-ticket-invalid"
    status = 403
    title = "The ticket for listening isn't valid"


# Refusals that say something of the moment, not of the command: the same id may be tried again.
PASSING: frozenset[str] = frozenset({TooManyCommands.code, SessionNotLive.code})


def error_of(code: str, detail: str) -> GreenroomError:
    """Return the error that a session process named."""
    known = next((error for error in registered() if error.code == code), CommandNotDone)
    return known(detail)
