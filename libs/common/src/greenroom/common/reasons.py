"""Why sessions wait, move and end: the reason codes that Greenroom itself writes into the ledger.

The vocabulary is open (a bot may end its session with a reason of its own, e.g. `goodbye`); these are
the ones whose meaning is fixed. `greenroom error CODE` explains them like errors.
"""

import enum
from typing import Self


class Reason(enum.StrEnum):
    """A reason code; as a string it is the code itself.

    Attributes:
        outcome: with which outcome a session ends for this reason; None where it doesn't end it.
        retryable: whether asking for a new session may go better without anybody changing anything.
        summary: one line for people.
        help: what happened and what to do.
    """

    outcome: str | None
    retryable: bool
    summary: str
    help: str

    def __new__(cls, code: str, outcome: str | None, retryable: bool, summary: str, text: str) -> Self:  # noqa: FBT001
        """Make a member; the code is its value."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.outcome = outcome
        member.retryable = retryable
        member.summary = summary
        member.help = text
        return member

    # ------------------------------------------------------------------------ in order
    COMPLETED = (
        "completed",
        "completed",
        False,
        "The bot ended the session",
        "The bot finished and said no other reason. Nothing to do.",
    )
    CLIENT_STOP = (
        "client-stop",
        "completed",
        False,
        "Stopped by request",
        "Somebody with a key called `POST /v1/sessions/{id}/stop`, or `greenroom sessions stop`.",
    )
    CLIENT_LEFT = (
        "client-left",
        "completed",
        False,
        "The caller hung up",
        "The caller's connection closed and the bot ended the session upon it.",
    )
    TRANSFERRED = (
        "transferred",
        "completed",
        False,
        "The caller was handed over",
        (
            "The command `transfer` was carried out: the carrier, or an operator in the caller's room, has the call "
            "now, and it goes on without the bot."
        ),
    )
    CLIENT_CANCELED = (
        "client-canceled",
        "canceled",
        False,
        "Canceled while waiting",
        "The session was stopped before a runner had it.",
    )
    UNPINNED = (
        "unpinned",
        "completed",
        False,
        "Its pin was lowered or deleted",
        "An operator keeps fewer sessions of the agent running than before; `GET /v1/pins` shows how many.",
    )
    MAX_DURATION_EXCEEDED = (
        "max-duration-exceeded",
        "completed",
        False,
        "The session reached its longest duration",
        (
            "`limits.max_duration_s` ended it. Raise the limit of the agent or the request if calls are meant to "
            "last longer."
        ),
    )
    IDLE_TIMEOUT = (
        "idle-timeout",
        "completed",
        False,
        "Nobody spoke for too long",
        (
            "The pipeline's idle limit ended the session. If somebody did speak, look for missing audio from the "
            "transport."
        ),
    )
    NOBODY_JOINED = (
        "nobody-joined",
        "expired",
        True,
        "Nobody connected",
        (
            "The session was ready, but nobody connected within `limits.join_timeout_s`. Connect right after the "
            "request's answer."
        ),
    )
    DRAIN_DEADLINE = (
        "drain-deadline",
        "failed",
        True,
        "Its runner was stopped",
        (
            "The runner drained and its deadline ran out with the call still up. Raise GREENROOM_DRAIN_TIMEOUT_S "
            "and Nomad's kill_timeout."
        ),
    )
    # ------------------------------------------------------------------------ never ran
    QUEUE_EXPIRED = (
        "queue-expired",
        "expired",
        True,
        "No slot became free in time",
        (
            "The session waited for `limits.queue_timeout_s`. Add runners or slots, or let callers wait longer; "
            "`waiting_reason` of the session said what it waited for."
        ),
    )
    NO_RUNNER_FOR_AGENT = (
        "no-runner-for-agent",
        "rejected",
        True,
        "No runner has this bot",
        (
            "No live runner of the pool announces the agent's bot. Is the bot installed on the runners, and did "
            "its import succeed?"
        ),
    )
    RUNNER_LACKS_SECRET = (
        "runner-lacks-secret",
        None,
        True,
        "No runner has the secrets that the bot needs",
        (
            "The bot names secrets (`SECRETS`) that its runners don't have; the detail names them. Put them into the "
            "directory that GREENROOM_SECRETS_DIR names, or into GREENROOM_SECRET_… variables of the runners."
        ),
    )
    ATTEMPTS_EXHAUSTED = (
        "attempts-exhausted",
        "failed",
        True,
        "Every try failed",
        "The session was tried on as many runners as it may; the history has the reason of each try.",
    )
    # ------------------------------------------------------------------------ went wrong
    BOT_IMPORT_FAILED = (
        "bot-import-failed",
        "failed",
        False,
        "The bot can't be imported",
        ("The entry point of the bot raised on import; the runner's log has the traceback under `bot_import_failed`."),
    )
    TRANSPORT_FAILED = (
        "transport-failed",
        "failed",
        True,
        "The way to the user couldn't be opened",
        (
            "What was prepared for the session is gone or refused it (a room that was deleted, a token that expired), "
            "the runner lacks what the transport needs, or whoever asked couldn't be told the way in (the provider "
            "made no token). `detail` says which. Ask for a new session."
        ),
    )
    BOT_FAILED = (
        "bot-failed",
        "failed",
        False,
        "The bot raised an exception",
        (
            "The bot's own code ended with an exception; the session's `error` event names its type, the log has "
            "the traceback."
        ),
    )
    START_TIMEOUT = (
        "start-timeout",
        "failed",
        True,
        "The pipeline wasn't ready in time",
        (
            "`limits.start_timeout_s` passed between the lease and a running pipeline. Often a model that is "
            "loaded at the start or a provider that doesn't answer."
        ),
    )
    END_TIMEOUT = (
        "end-timeout",
        "failed",
        False,
        "The session had to be killed at its end",
        (
            "It should have ended, but its process went on until `limits.end_timeout_s` and was killed. The bot "
            "blocks its loop or swallows cancellation."
        ),
    )
    PROCESS_KILLED = (
        "process-killed",
        "failed",
        True,
        "The session's process died",
        (
            "The process was killed by a signal or exited by itself; the detail has the signal. Signal 9 most "
            "often is the kernel's out-of-memory killer: see `dmesg` and the memory metrics."
        ),
    )
    NO_FIRST_AUDIO = (
        "no-first-audio",
        "failed",
        True,
        "The bot never spoke",
        (
            "Somebody was connected for `limits.first_audio_timeout_s` and the bot had made no sound. Look for a "
            "provider that doesn't answer in the session's `error` and `metrics` events; a bot that listens first "
            "needs a longer limit, or 0."
        ),
    )
    NO_PROGRESS = (
        "no-progress",
        "failed",
        True,
        "The pipeline stood still",
        (
            "Audio came in for `limits.no_progress_timeout_s`, but nothing came through the pipeline. Some processor "
            "waits for what doesn't come: the `stack_dump` event has where every task was."
        ),
    )
    SILENCE_TIMEOUT = (
        "silence-timeout",
        "completed",
        False,
        "Neither side spoke for too long",
        "`limits.silence_timeout_s` passed without a word of the caller or the bot. Nothing to do.",
    )
    ROOM_EMPTY = (
        "room-empty",
        "completed",
        False,
        "Everybody left and nobody came back",
        "The last participant left, and `limits.rejoin_timeout_s` passed without anybody's coming back. Nothing to do.",
    )
    UNRESPONSIVE = (
        "unresponsive",
        "failed",
        True,
        "The session's process didn't answer",
        (
            "Its event loop was blocked for GREENROOM_UNRESPONSIVE_S, so it was killed. The `stack_dump` event has "
            "what its threads were doing: code that computes or waits without `await` belongs into a thread."
        ),
    )
    OUT_OF_MEMORY = (
        "out-of-memory",
        "failed",
        False,
        "The session used more memory than it may",
        (
            "It went over GREENROOM_MEMORY_KILL_MB and was ended, or over GREENROOM_SESSION_MEMORY_MB, the limit of "
            "its control group, and the kernel killed it; the detail says which. The `memory_high` and `stack_dump` "
            "events say when and where. Raise the limits, or look for what the bot keeps."
        ),
    )
    TOO_MANY_PROCESSES = (
        "too-many-processes",
        "failed",
        False,
        "The session had more processes than it may",
        (
            "It and what it had started came to GREENROOM_SESSION_PROCESSES processes and threads, so all of them were "
            "killed; the detail says how many there were. Raise the limit, or look for what the bot starts and never "
            "waits for."
        ),
    )
    RUNNER_LOST = (
        "runner-lost",
        "lost",
        True,
        "The runner was lost",
        (
            "No heartbeat for 6 s: the host or the runner died, or its network is cut. What the agent's `on_loss` "
            "allows was tried."
        ),
    )
    FENCED = (
        "fenced",
        None,
        False,
        "The lease was taken away",
        (
            "Another runner holds the session now, so this one killed its process. Nothing to do: it prevents a "
            "second voice in the call."
        ),
    )
    # ------------------------------------------------------------------------ back into the queue, or refused
    RUNNER_REFUSED = (
        "runner-refused",
        None,
        True,
        "The runner refused the session",
        ("Its slots were taken, or it drains or brakes; the detail says which. The session goes to the next runner."),
    )
    RUNNER_DRAINING = (
        "runner-draining",
        None,
        True,
        "The runner drains",
        "It takes no new sessions because it is being stopped.",
    )
    RUNNER_OVERLOADED = (
        "runner-overloaded",
        None,
        True,
        "The runner brakes",
        (
            "It has free slots, but its processors are busy or throttled or its memory is all but used, so it takes "
            "nothing new; `GET /v1/runners` has what was measured. Check the density of slots."
        ),
    )
    NO_FREE_SLOT = (
        "no-free-slot",
        None,
        True,
        "All slots are taken",
        "The session waits for one, or the runner it was sent to had none left. Add slots if this lasts.",
    )
    LEASE_EXPIRED = (
        "lease-expired",
        None,
        True,
        "The runner didn't claim the session in time",
        ("The lease ran out without a claim; the session goes to another runner. Look at the first runner's log."),
    )
    LIMIT_REACHED = (
        "limit-reached",
        "rejected",
        True,
        "A limit is reached",
        (
            "As many sessions as the limit allows run already; `detail` names it and `GET /v1/limits` shows it. The "
            "limit refuses rather than queues: ask again after `Retry-After`, or have it changed to `queue`."
        ),
    )
    BUDGET_REACHED = (
        "budget-reached",
        "rejected",
        True,
        "The budget is spent",
        (
            "What the tenant, or the agent, may spend in this day or month is gone; `detail` names the budget and "
            "`GET /v1/budgets` shows it. Sessions that run go on. Ask again after `Retry-After`, when the next period "
            "begins, or have the amount raised: that holds within a minute."
        ),
    )
    ROOM_BUSY = (
        "room-busy",
        "rejected",
        True,
        "The room has a session already",
        "A tenant has at most one active session in a room. Stop that one, or ask for another room.",
    )
    CALLER_GAVE_UP = (
        "caller-gave-up",
        "canceled",
        False,
        "The caller hung up while waiting",
        "The connection of the request that asked for the session, and waited for it, was closed. Nothing to do.",
    )
    CALL_NOT_ANSWERED = (
        "call-not-answered",
        "expired",
        True,
        "Nobody picked up",
        "The carrier rang for as long as it was to, or until the number refused. Call again later.",
    )
    CALL_BUSY = (
        "call-busy",
        "expired",
        True,
        "The number was busy",
        "Who was called was speaking, or refused the call. Call again later.",
    )
    CALL_NOT_PUT_THROUGH = (
        "call-not-put-through",
        "failed",
        False,
        "The carrier couldn't put the call through",
        (
            "The number doesn't exist or can't be reached from this account, or the carrier refused to dial. `detail` "
            "and the `call_status` events have the carrier's own words."
        ),
    )
    LINE_BUSY = (
        "line-busy",
        "rejected",
        True,
        "A phone call found no free slot",
        (
            "No slot was leased before the carrier had to be answered, and the number doesn't hold its callers: they "
            "heard that the line is busy. Add slots, or set the number's `at_busy` to `hold`."
        ),
    )
    LAUNCH_FAILED = (
        "launch-failed",
        None,
        True,
        "No runner could be launched for the session",
        (
            "The launcher refused or couldn't be reached; `GET /v1/pools` shows what it said. The session waits for a "
            "slot or the next launch."
        ),
    )
    LAUNCHING = (
        "launching",
        None,
        True,
        "A runner is being launched",
        "All slots are taken, so a runner comes up for this session. It takes as long as `GET /v1/pools` says.",
    )
    STARTS_LIMIT = (
        "starts-limit",
        None,
        True,
        "The tenant starts sessions faster than it may",
        "The session starts as soon as the rate allows; `GET /v1/limits` shows the limit.",
    )
    TENANT_LIMIT = (
        "tenant-limit",
        None,
        True,
        "The tenant's limit is reached",
        "As many sessions of the tenant run as it may have; the next starts when one ends.",
    )
