"""How far the durable consumers are: what waits, and up to where everything is dealt with."""

import asyncio
from typing import Final

import msgspec
import nats.errors
import structlog
from nats.js import errors as js_errors

from greenroom.common.consumer import Counts
from greenroom.common.errors import BrokerUnavailable, GreenroomError, TopologyMissing
from greenroom.common.metrics import Metrics
from greenroom.common.nats_broker import NatsBroker

_log = structlog.get_logger()

_API_TIMEOUT_S: Final = 5.0
WATCH_S: Final = 5.0


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer's state, in messages; `settled_to` is a stream sequence."""

    # Not delivered yet.
    waiting: int
    # Delivered, and neither acknowledged nor parked.
    in_hand: int
    # Everything up to here has been acknowledged or parked.
    settled_to: int


async def backlog(broker: NatsBroker, stream: str, consumer: str) -> Backlog:
    """Return how far a durable consumer is.

    Raises:
        BrokerUnavailable: the broker can't be asked now.
        TopologyMissing: there is no such consumer.
    """
    if not broker.connected:
        raise BrokerUnavailable("the connection to NATS is down")
    try:
        info = await broker.client.jetstream(timeout=_API_TIMEOUT_S).consumer_info(stream, consumer)
    except js_errors.NotFoundError as error:
        raise TopologyMissing(f"stream {stream} has no consumer {consumer}: run `greenroom topology apply`") from error
    except (nats.errors.Error, TimeoutError) as error:
        raise BrokerUnavailable(f"{stream} can't be asked now") from error
    return Backlog(
        waiting=info.num_pending or 0,
        in_hand=info.num_ack_pending or 0,
        settled_to=info.ack_floor.stream_seq if info.ack_floor else 0,
    )


class Watch:
    """Shows the state of the consumers as metrics.

    Args:
        broker: whom to ask.
        consumers: by (stream, consumer): the counts of the loop that consumes it here.
        metrics: where to.
    """

    def __init__(self, broker: NatsBroker, consumers: dict[tuple[str, str], Counts], metrics: Metrics) -> None:
        self._broker = broker
        self._consumers = consumers
        self._waiting = metrics.gauge("recorder_waiting_messages", "Messages not delivered yet", ["stream"])
        self._in_hand = metrics.gauge("recorder_messages_in_hand", "Messages delivered and not stored yet", ["stream"])
        self._verdicts = metrics.counter("recorder_messages", "Messages by verdict", ["stream", "verdict"])

    async def run(self) -> None:
        """Show until canceled."""
        while True:
            for (stream, consumer), counts in self._consumers.items():
                self._show_counts(stream, counts)
                try:
                    state = await backlog(self._broker, stream, consumer)
                except GreenroomError as error:
                    _log.debug("backlog_unknown", stream=stream, code=error.code)
                    continue
                self._waiting.set(state.waiting, stream=stream)
                self._in_hand.set(state.in_hand, stream=stream)
            await asyncio.sleep(WATCH_S)

    def _show_counts(self, stream: str, counts: Counts) -> None:
        for verdict in ("handled", "parked", "retried", "failed"):
            shown = self._verdicts.value(stream=stream, verdict=verdict)
            self._verdicts.inc(getattr(counts, verdict) - shown, stream=stream, verdict=verdict)
