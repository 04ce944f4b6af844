"""What Nomad's errors mean. They are text/plain and mostly 500, whatever they are about: the text decides.

The table says of each text whether asking again can help. What isn't in it is nothing that passes by itself within
seconds: it is reported, and held off for a minute. Nothing is repeated here.
"""

import enum
import re
from typing import Final

import msgspec

from greenroom.scheduler.launchers.base import LauncherUnavailable, LaunchRefused

# A text that isn't known may be anything.
UNKNOWN_RETRY_AFTER_S: Final = 60.0
_LONGEST_SHOWN: Final = 300

_UNAUTHENTICATED: Final = 401
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500
_GATEWAY: Final = frozenset({502, 503, 504})


class Meaning(enum.Enum):
    """Whether to ask again."""

    # Not before somebody has changed something.
    PERMANENT = "permanent"
    # Later: what is in the way goes by itself.
    WAIT = "wait"
    # Soon: it was no answer, and whether anything was done isn't known.
    UNAVAILABLE = "unavailable"


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """One text: part of what Nomad answers, as its errors get wrapped on their way."""

    pattern: str
    meaning: Meaning
    retry_after_s: float | None = None
    hint: str = ""

    def matches(self, text: str) -> bool:
        """Tell whether a text is this one."""
        return re.search(self.pattern, text) is not None


def _permanent(pattern: str, hint: str) -> Known:
    return Known(pattern=pattern, meaning=Meaning.PERMANENT, hint=hint)


def _wait(pattern: str, retry_after_s: float, hint: str) -> Known:
    return Known(pattern=pattern, meaning=Meaning.WAIT, retry_after_s=retry_after_s, hint=hint)


def _unavailable(pattern: str) -> Known:
    return Known(pattern=pattern, meaning=Meaning.UNAVAILABLE)


_JOB = "the job and the scheduler's version don't fit together"
_POLICY = "the token's policy lacks a capability"
_REGISTER = "register the job, or correct GREENROOM_NOMAD_RUNNER_JOB and GREENROOM_NOMAD_COLD_JOB"
_BOUNDS = "the bounds of the pool and the job's scaling block don't fit together"

TABLE: Final = (
    # Who asks.
    _permanent(r"Permission denied", _POLICY),
    _permanent(r"ACL token not found", "the token isn't one of this cluster"),
    _permanent(r"ACL token is invalid", "the token isn't one"),
    _wait(r"ACL token expired", 5.0, "the token is read again each time; it must be renewed"),
    # Dispatch.
    _wait(r"Job registration, dispatch, and scale are disabled", 30.0, "the operator sheds load"),
    _permanent(r"parameterized job not found", _REGISTER),
    _permanent(r"is not a parameterized job", _REGISTER),
    _permanent(r'Specified job ".*" is stopped', "run the job again"),
    _permanent(r"unpermitted metadata keys", _JOB),
    _permanent(r"did not provide required meta keys", _JOB),
    _permanent(r"Payload is not provided but required", _JOB),
    _permanent(r"Payload provided but forbidden", _JOB),
    _permanent(r"Payload exceeds maximum size", _JOB),
    # Scale.
    _wait(r"job scaling blocked due to active deployment", 5.0, "it is scaled when the deployment is through"),
    _wait(r"job exists with conflicting job modify index", 1.0, "somebody else changed the job"),
    _permanent(r"group count was less than scaling policy minimum", _BOUNDS),
    _permanent(r"group count was greater than scaling policy maximum", _BOUNDS),
    _permanent(r"specified for scaling does not exist in job", "GREENROOM_NOMAD_RUNNER_GROUP names no group of it"),
    _permanent(r"can only be scaled to 1 or 0", "a system job can't be a baseline group"),
    # Anything about a job that isn't there.
    _permanent(r'^job (".*" )?not found$', _REGISTER),
    # A cluster that is electing, starting or stopping.
    _unavailable(r"No cluster leader"),
    _unavailable(r"Not ready to serve consistent reads"),
    _unavailable(r"No path to region"),
    _unavailable(r"leadership lost while committing log"),
    _unavailable(r"leadership transfer in progress"),
    _unavailable(r"node is not the leader"),
    _unavailable(r"timed out enqueuing operation"),
    _unavailable(r"raft is already shutdown"),
    _unavailable(r"no servers$"),
    _unavailable(r"rpc error: .*(EOF|connection re(set|fused)|i/o timeout|broken pipe|failed to get conn)"),
    _permanent(r"Unknown rpc method", "the servers are older than the agent that was asked"),
)


def error_of(status: int, body: str, *, doing: str) -> LaunchRefused | LauncherUnavailable:
    """Return what an answer other than a success is to the scheduler.

    Args:
        status: of the HTTP response.
        body: its text.
        doing: what was asked for ("dispatch runner-cold"), for people.
    """
    text = body.strip()[:_LONGEST_SHOWN] or f"HTTP {status} without a text"
    for known in TABLE:
        if known.matches(text):
            return _error(known, f"Nomad, {doing}: {text}" + (f" ({known.hint})" if known.hint else ""))
    if status == _UNAUTHENTICATED:
        return LaunchRefused(f"Nomad, {doing}: no token was sent, or not as Bearer ({text})")
    if status == _TOO_MANY:
        return LaunchRefused(f"Nomad, {doing}: {text}", permanent=False)
    if status in _GATEWAY:
        return LauncherUnavailable(f"Nomad, {doing}: {text}")
    # A client error says that the question is wrong; any other says nothing that is understood here.
    permanent = status < _SERVER_ERROR
    return LaunchRefused(f"Nomad, {doing}: {text}", permanent=permanent, retry_after_s=UNKNOWN_RETRY_AFTER_S)


def _error(known: Known, detail: str) -> LaunchRefused | LauncherUnavailable:
    match known.meaning:
        case Meaning.PERMANENT:
            return LaunchRefused(detail)
        case Meaning.WAIT:
            return LaunchRefused(detail, permanent=False, retry_after_s=known.retry_after_s)
        case Meaning.UNAVAILABLE:
            return LauncherUnavailable(detail)
