"""Who ends sessions, for which reasons, and where that is decided; docs/reasons.md is made from it."""

from typing import Final

import msgspec

from greenroom.common.reasons import Reason

_SESSION: Final = "services/runner/src/greenroom/runner/session"
_RUNNER: Final = "services/runner/src/greenroom/runner"
_SCHEDULER: Final = "services/scheduler/src/greenroom/scheduler"
_API: Final = "services/api/src/greenroom/api"

_OVER_DAILY: Final = "over Daily the `session` hears it"


class End(msgspec.Struct, frozen=True, kw_only=True):
    """One way in which a session ends.

    Attributes:
        by: who decides; as `ended_by` of the session, but for `bot`, whose decisions are its session process's.
        when: what has happened, with the limit or setting that rules it, if there is one.
        where: the file that decides.
    """

    by: str
    when: str
    where: str


def _end(by: str, when: str, where: str) -> End:
    return End(by=by, when=when, where=where)


# Every reason that ends a session.
ENDS: Final[dict[Reason, End]] = {
    Reason.COMPLETED: _end("bot", "it ended its pipeline and gave no other reason", f"{_SESSION}/ending.py"),
    Reason.CLIENT_STOP: _end("client", "`POST /v1/sessions/{id}/stop`", f"{_API}/sessions.py"),
    Reason.CLIENT_LEFT: _end("session", "the caller's connection closed", f"{_SESSION}/live.py"),
    Reason.TRANSFERRED: _end(
        "session", "the carrier, or an operator, took the call, asked to by `transfer`", f"{_SESSION}/live.py"
    ),
    Reason.CLIENT_CANCELED: _end("client", "stopped while it waited", f"{_API}/sessions.py"),
    Reason.MAX_DURATION_EXCEEDED: _end(
        "runner",
        "`limits.max_duration_s` since `ready`; if it doesn't, the scheduler a minute after it should be over",
        f"{_RUNNER}/slots.py",
    ),
    Reason.IDLE_TIMEOUT: _end("bot", "Pipecat's own idle limit, as the bot set it", f"{_SESSION}/ending.py"),
    Reason.NOBODY_JOINED: _end("runner", "nobody connected for `limits.join_timeout_s`", f"{_RUNNER}/slots.py"),
    Reason.DRAIN_DEADLINE: _end(
        "runner", "it is stopped, and GREENROOM_DRAIN_TIMEOUT_S is over", f"{_RUNNER}/closing_time.py"
    ),
    Reason.QUEUE_EXPIRED: _end("scheduler", "no slot for `limits.queue_timeout_s`", f"{_SCHEDULER}/settle.py"),
    Reason.NO_RUNNER_FOR_AGENT: _end("scheduler", "no runner has the bot", f"{_SCHEDULER}/placing.py"),
    Reason.ATTEMPTS_EXHAUSTED: _end("scheduler", "every try failed", f"{_SCHEDULER}/settle.py"),
    Reason.BOT_IMPORT_FAILED: _end("session", "the bot can't be imported", f"{_SESSION}/live.py"),
    Reason.TRANSPORT_FAILED: _end(
        "session",
        "the transport can't be opened; or (decided by `api`) the caller can't be told the way in",
        f"{_SESSION}/live.py",
    ),
    Reason.BOT_FAILED: _end("session", "the bot raised, or a service of it can't go on", f"{_SESSION}/live.py"),
    Reason.START_TIMEOUT: _end("runner", "no pipeline for `limits.start_timeout_s`", f"{_RUNNER}/slots.py"),
    Reason.END_TIMEOUT: _end(
        "runner", "it was ending, and was still there after `limits.end_timeout_s`", f"{_RUNNER}/verdicts.py"
    ),
    Reason.PROCESS_KILLED: _end("runner", "the process died without a last word", f"{_RUNNER}/verdicts.py"),
    Reason.NO_FIRST_AUDIO: _end(
        "session", "no sound of the bot for `limits.first_audio_timeout_s`", f"{_SESSION}/vigil.py"
    ),
    Reason.NO_PROGRESS: _end(
        "session", "audio comes in, nothing moves for `limits.no_progress_timeout_s`", f"{_SESSION}/vigil.py"
    ),
    Reason.SILENCE_TIMEOUT: _end("session", "nobody spoke for `limits.silence_timeout_s`", f"{_SESSION}/vigil.py"),
    Reason.ROOM_EMPTY: _end(
        "session", "all left, nobody came back for `limits.rejoin_timeout_s`", f"{_SESSION}/vigil.py"
    ),
    Reason.UNRESPONSIVE: _end(
        "runner", "the event loop was blocked for GREENROOM_UNRESPONSIVE_S", f"{_RUNNER}/guard.py"
    ),
    Reason.OUT_OF_MEMORY: _end("runner", "memory of its own over GREENROOM_MEMORY_KILL_MB", f"{_RUNNER}/guard.py"),
    Reason.TOO_MANY_PROCESSES: _end(
        "runner", "GREENROOM_SESSION_PROCESSES processes and threads, or more", f"{_RUNNER}/guard.py"
    ),
    Reason.RUNNER_LOST: _end("scheduler", "no heartbeat of the runner for 6 s", f"{_SCHEDULER}/settle.py"),
    Reason.LIMIT_REACHED: _end("scheduler", "a limit that refuses rather than queues", f"{_SCHEDULER}/limits.py"),
    Reason.BUDGET_REACHED: _end("scheduler", "a budget that is spent, and refuses", f"{_SCHEDULER}/budgets.py"),
    Reason.ROOM_BUSY: _end("scheduler", "the room has an active session", f"{_SCHEDULER}/rooms.py"),
    Reason.UNPINNED: _end("scheduler", "the agent's pin was lowered or deleted", f"{_SCHEDULER}/pin_keeper.py"),
    Reason.CALLER_GAVE_UP: _end("api", "the request that waited for it was closed", f"{_API}/patience.py"),
    Reason.CALL_NOT_ANSWERED: _end(
        "api", f"nobody picked up, says the carrier; {_OVER_DAILY}", f"{_API}/carriers/ends.py"
    ),
    Reason.CALL_BUSY: _end(
        "api", f"who was called is busy, says the carrier; {_OVER_DAILY}", f"{_API}/carriers/ends.py"
    ),
    Reason.CALL_NOT_PUT_THROUGH: _end(
        "api", f"the carrier can't reach the number; {_OVER_DAILY}", f"{_API}/carriers/ends.py"
    ),
    Reason.LINE_BUSY: _end("api", "no slot in time for a phone call", f"{_API}/carriers/ends.py"),
}


def page() -> str:
    """Return docs/reasons.md, without its first line."""
    lines = [
        "# Who ends a session, and why",
        "",
        "Each end has a `reason`, an `outcome` and who decided it (`ended_by`). Whoever is first decides; what comes",
        "while a session ends is a consequence. A failure that was decided stays one, however the process then dies.",
        "What to do about each is in [errors.md](errors.md).",
        "",
        "| reason | outcome | who decides | when | where |",
        "|---|---|---|---|---|",
        *(_row(reason, ENDS[reason]) for reason in Reason if reason in ENDS),
        "",
        'A bot may give a reason of its own (`EndFrame(reason="goodbye")`): it ends `completed` with that code.',
    ]
    return "\n".join(lines) + "\n"


def _row(reason: Reason, end: End) -> str:
    return f"| `{reason.value}` | {reason.outcome} | {end.by} | {end.when} | `{end.where}` |"
