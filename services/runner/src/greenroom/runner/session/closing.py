"""The last words of a session process: its last event, and what it tells the runner."""

import time
from typing import Any, Final

import msgspec

from greenroom.common.broker import Broker
from greenroom.common.spool import Spool
from greenroom.runner.control import Finished, Left
from greenroom.runner.isolation.groups import own_usage
from greenroom.runner.session.channel import Channel
from greenroom.runner.session.clock import CallClock
from greenroom.runner.session.emitter import Emitter
from greenroom.runner.session.ending import Verdict, where_raised
from greenroom.runner.session.recording import Recorder
from greenroom.runner.session.transports.base import CLOSE_NORMAL, NotRunnable

CLOSE_FAILED: Final = 1011
# How soon it is seen that the broker has gone.
_LOOK_S: Final = 0.1
_FAILED: Final = frozenset({"failed", "lost"})


def close_code(verdict: Verdict) -> int:
    """Return the code with which the client's connection is closed."""
    return CLOSE_FAILED if verdict.outcome.value in _FAILED else CLOSE_NORMAL


def completed(
    verdict: Verdict, *, emitter: Emitter, spool: Spool, recorder: Recorder, clock: CallClock, media: msgspec.Struct
) -> dict[str, Any]:
    """Return the data of `call_completed`, the last event: how it went, and how much of everything there is."""
    return {
        # Itself included.
        "events": emitter.events + 1,
        "chunks": dict(emitter.chunks),
        "outcome": verdict.outcome.value,
        "reason": verdict.reason,
        "detail": verdict.detail,
        "lost": spool.dropped,
        "suppressed": emitter.suppressed,
        "media": msgspec.to_builtins(media),
        "unrecorded_frames": recorder.dropped,
        "duration_ms": clock.now_ms(),
        "usage": msgspec.to_builtins(own_usage()),
    }


async def publish(spool: Spool, broker: Broker, deadline_s: float) -> None:
    """Wait until everything is published, `deadline_s` at most, and while the broker is there: it may be away long."""
    until = time.monotonic() + deadline_s
    while (left_s := until - time.monotonic()) > 0:
        if not await spool.flush(min(left_s, _LOOK_S)) or not broker.connected:
            return


async def bequeath(spool: Spool, channel: Channel) -> int:
    """Leave to the runner what the broker hasn't taken; return how many messages that is.

    What can't be left either, because the runner is gone, counts as dropped.
    """
    waiting = spool.take()
    for index, item in enumerate(waiting):
        handed = await channel.send(
            Left(
                subject=item.subject,
                data=item.data,
                msg_id=item.msg_id,
                headers=dict(item.headers),
                droppable=item.droppable,
            )
        )
        if not handed:
            spool.dropped += len(waiting) - index
            return index
    return len(waiting)


def finished(verdict: Verdict, emitter: Emitter, *, left: int, lost: int) -> Finished:
    """Return the last word to the runner."""
    return Finished(
        outcome=verdict.outcome,
        reason=verdict.reason,
        detail=verdict.detail,
        events=emitter.events,
        chunks=sum(emitter.chunks.values()),
        left=left,
        lost=lost,
    )


def told(error: BaseException) -> str:
    """Return what may be told of an error: the text of our own, of others only what and where."""
    return str(error) if isinstance(error, NotRunnable) else where_raised(error)
