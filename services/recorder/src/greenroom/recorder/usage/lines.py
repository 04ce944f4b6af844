"""From a session's events to what it used: pure, exact, and the same whatever order the events come in.

| unit              | of                    | from                                               |
|-------------------|-----------------------|----------------------------------------------------|
| `session_s`       | `greenroom`, its pool | the ledger: from each `started` to its epoch's end |
| `stt_s`           | provider and model    | `metrics` of kind `stt_usage`: seconds of audio    |
| `llm_in`          | provider and model    | `metrics` of kind `llm_usage`: tokens read anew    |
| `llm_cached`      | the same              | tokens read from the provider's cache              |
| `llm_cache_write` | the same              | tokens written to it                               |
| `llm_out`         | the same              | tokens generated, reasoning included               |
| `tts_chars`       | provider and model    | `metrics` of kind `tts_usage`: characters          |
| `carrier_min`     | the carrier           | minutes begun, by its own duration if it says one  |

An event counts once by its id, however often it comes. Epochs add up: what an attempt used that came to nothing is
paid for all the same. A number that can't be one (negative, not finite, a text) counts as nothing.
"""

import math
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from greenroom.common.messages import EventType

# What a session's own time is of; its model is the pool, since pools are of different hardware.
OWN: Final = "greenroom"
# Types of events that anything is counted from.
TYPES: Final = (
    EventType.METRICS.value,
    EventType.CALL_STATUS.value,
    EventType.CALL_CONNECTED.value,
    "session.started",
    "session.requeued",
    "session.ended",
)

# Kinds of metrics that anything is counted from; there are more of the others.
KINDS: Final = ("stt_usage", "tts_usage", "llm_usage")

_NOTHING: Final = Decimal(0)
_MAX_NAME: Final = 128
# Nothing of one event is more: a number beyond is no measurement.
_MAX_QUANTITY: Final = 10**12
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f]")
# `OpenAILLMService#0`: a processor's name as Pipecat gives it, of which the provider is the beginning.
_PROCESSOR: Final = re.compile(r"(?P<provider>.+?)(?:Realtime|Live|Http|HTTP)*(?:LLM|STT|TTS)?(?:Service)?(?:#\d+)?")
_MILLISECOND: Final = timedelta(milliseconds=1)
_MINUTE: Final = timedelta(minutes=1)


class Happened(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a session, as far as usage goes."""

    id: str
    type: str
    at: datetime
    epoch: int = 0
    data: dict[str, Any] = {}


class Line(NamedTuple):
    """What is priced by itself."""

    provider: str
    model: str
    unit: str


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a session used; `at` is its start, which decides on prices and on the day that it counts for."""

    at: datetime
    lines: dict[Line, Decimal]


class Billed(Protocol):
    """What usage depends on of a session's document."""

    @property
    def pool(self) -> str: ...  # noqa: D102
    @property
    def carrier(self) -> str | None: ...  # noqa: D102
    @property
    def requested_at(self) -> datetime: ...  # noqa: D102
    @property
    def ended_at(self) -> datetime | None: ...  # noqa: D102


def usage_of(session: Billed, events: Iterable[Happened]) -> Usage:
    """Return what a session has used, lines of nothing left out.

    Args:
        session: the document, as it is at its end; or as if it ended now.
        events: of the session, in any order, each any number of times; other types are passed over.
    """
    once = {event.id: event for event in events}.values()
    lines: dict[Line, Decimal] = {}

    def add(line: Line, quantity: Decimal) -> None:
        if quantity:
            lines[line] = lines.get(line, _NOTHING) + quantity

    for event in once:
        if event.type == EventType.METRICS:
            for line, quantity in measured(event.data):
                add(line, quantity)
    starts = _first_by_epoch(once, "session.started")
    ends = _first_by_epoch(once, "session.ended", "session.requeued")
    for epoch, began in starts.items():
        # Whatever became of an attempt, the next one begins behind it.
        later = [at for other, at in starts.items() if other > epoch]
        over = [at for at in (ends.get(epoch), session.ended_at, *later) if at is not None and at >= began]
        add(Line(OWN, session.pool, "session_s"), _seconds(min(over, default=began) - began))
    carried = _carried(session, once)
    if carried is not None:
        add(*carried)
    return Usage(
        at=min(starts.values(), default=session.requested_at),
        lines={line: quantity for line, quantity in lines.items() if quantity > 0},
    )


def measured(data: dict[str, Any]) -> list[tuple[Line, Decimal]]:
    """Return what a metric says was used."""
    kind = data.get("kind")
    # Whoever counts a session that has ended reads no others either.
    if kind not in KINDS:
        return []
    provider, model = provider_of(data), _name(data.get("model"))
    match kind:
        case "stt_usage":
            return [(Line(provider, model, "stt_s"), _number(data.get("audio_s")))]
        case "tts_usage":
            return [(Line(provider, model, "tts_chars"), _whole(data.get("characters")))]
        case _:
            return [(Line(provider, model, unit), count) for unit, count in _tokens(data).items()]


def _tokens(data: dict[str, Any]) -> dict[str, Decimal]:
    """Return tokens by unit, none of them in two.

    Some providers report what they read without what came from the cache, others with it. The total has both in it
    either way, and so tells which it is.
    """
    read, out, total = (_whole(data.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
    cached, written = (_whole(data.get(f"cache_{name}_input_tokens")) for name in ("read", "creation"))
    is_net = total == read + out + cached + written
    return {
        "llm_in": read if is_net else max(read - cached - written, _NOTHING),
        "llm_cached": cached,
        "llm_cache_write": written,
        "llm_out": out,
    }


def provider_of(data: dict[str, Any]) -> str:
    """Return whom a metric is of: what it says, else what the processor's name begins with, else `unknown`."""
    said = _name(data.get("provider"))
    if said:
        return said
    match = _PROCESSOR.fullmatch(_name(data.get("processor")))
    return match["provider"].lower() if match else "unknown"


def _carried(session: Billed, events: Iterable[Happened]) -> tuple[Line, Decimal] | None:
    """Return the minutes of a phone call: by the carrier's word, else from the connection to the session's end."""
    said = [event for event in events if event.type == EventType.CALL_STATUS]
    carrier = session.carrier or next((name for event in said if (name := _name(event.data.get("carrier")))), None)
    if carrier is None:
        return None
    told = [seconds for event in said if (seconds := _number(event.data.get("duration_s")))]
    if told:
        took = timedelta(seconds=float(max(told)))
    else:
        connected = [event.at for event in events if event.type == EventType.CALL_CONNECTED]
        if not connected or session.ended_at is None:
            return None
        took = max(session.ended_at - min(connected), timedelta())
    return Line(_name(carrier), "", "carrier_min"), Decimal(-(-took // _MINUTE))


def _first_by_epoch(events: Iterable[Happened], *types: str) -> dict[int, datetime]:
    found: dict[int, datetime] = {}
    for event in events:
        if event.type in types:
            # A session that is put back is in its old epoch still.
            found[event.epoch] = min(event.at, found.get(event.epoch, event.at))
    return found


def _seconds(took: timedelta) -> Decimal:
    return Decimal(took // _MILLISECOND) / 1000


def _number(value: Any) -> Decimal:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value <= _MAX_QUANTITY:
        return _NOTHING
    return round(Decimal(str(value)), 3)


def _whole(value: Any) -> Decimal:
    # As nearly all are: what follows takes ten times as long.
    if type(value) is int and 0 <= value <= _MAX_QUANTITY:
        return Decimal(value)
    return Decimal(int(_number(value)))


def _name(value: Any) -> str:
    return _UNPRINTABLE.sub("", value)[:_MAX_NAME] if isinstance(value, str) else ""
