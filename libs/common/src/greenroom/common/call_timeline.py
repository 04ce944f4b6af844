"""What happened in a session and how long it took: stages, turns and moments. Pure: events in, a timeline out.

A *stage* is the time a session spent in one state of its lifecycle. A *turn* is what the caller said and what the bot
answered; a greeting is a turn in which the caller says nothing. A *moment* is everything else that somebody would look
for: tools, nodes, errors, interruptions, commands, gaps of the recording.

Milliseconds count from the beginning of the call, as in the transcript and in the recording.
"""

import bisect
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, cast

import msgspec

from greenroom.common.lifecycle import Session, State
from greenroom.common.messages import Event, EventType
from greenroom.common.transcript import BUDGET_BYTES, Speech, Utterance, milliseconds, unix_ms

type MomentKind = Literal["tool", "node", "error", "interruption", "command", "dtmf", "gap", "event"]

_KINDS: Final[dict[str, MomentKind]] = {
    EventType.TOOL_CALLED: "tool",
    EventType.NODE_ENTERED: "node",
    EventType.ERROR: "error",
    EventType.COMMAND: "command",
    EventType.BOT_HTTP: "command",
    EventType.DTMF: "dtmf",
}
# Told elsewhere (speech, latencies, the node that was entered), or of no use to whoever looks at a call.
_LEFT_OUT: Final = frozenset(
    {
        EventType.USER_SPOKE,
        EventType.AGENT_SPOKE,
        EventType.METRICS,
        EventType.NODE_TRANSITION,
        EventType.SCHEDULER_DECISION,
    }
)
_LATENCIES: Final = ("user_bot_latency", "first_speech")
# A latency is published as the bot begins to speak; both moments are taken by different clocks' readings.
_SAME_MOMENT_MS: Final = 500
_MOMENT_BYTES: Final = 300
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """The time a session spent in a state; `until` and `duration_ms` are None while it is there."""

    state: str
    attempt: int
    epoch: int
    since: datetime
    until: datetime | None = None
    duration_ms: int | None = None


class LatencyPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a latency: what was waited for, and for whom."""

    part: str
    owner: str
    ms: float


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """How long the bot took, as its pipeline measured it, from the caller's last word to the bot's first audio.

    `kind` is `user_bot_latency`, or `first_speech` for a greeting, which counts from the connection.
    """

    kind: str
    ms: float
    parts: tuple[LatencyPart, ...]


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What one side said in a turn, from its first word to its last."""

    text: str
    start_ms: int
    end_ms: int
    interrupted: bool


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One exchange. `response_ms` is what lies between both sides in the recording; less than 0 where they overlap."""

    number: int
    start_ms: int
    end_ms: int
    epoch: int
    node: str | None
    user: Side | None
    bot: Side | None
    response_ms: int | None
    latency: Latency | None


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened; `at_ms` is None before the call, `turn` before the first turn. `data` is the event's."""

    kind: MomentKind
    type: str
    at: datetime
    at_ms: int | None
    turn: int | None
    epoch: int
    source: str
    data: dict[str, Any]


class CallTimeline(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in a session. `truncated`: there was too much to show all of it."""

    session_id: str
    trace_id: str | None
    state: str
    outcome: str | None
    reason: str | None
    attempt: int
    # When the call began, which milliseconds count from.
    began_at: datetime | None
    duration_ms: int
    truncated: bool
    stages: tuple[Stage, ...]
    turns: tuple[Turn, ...]
    moments: tuple[Moment, ...]


class Happenings:
    """Gathers what happened, event by event, in memory that is bounded. `speech` is what was said."""

    def __init__(self) -> None:
        self.speech: Final = Speech()
        self.truncated = False
        self._left = BUDGET_BYTES
        self._seen: set[str] = set()
        self._lifecycle: list[Event] = []
        self._latencies: list[Event] = []
        self._others: list[Event] = []

    def add(self, event: Event) -> None:
        """Take what an event says; one that is known by its id changes nothing."""
        self.speech.add(event)
        target = self._target(event)
        if target is None or event.id in self._seen:
            return
        self._left -= len(msgspec.json.encode(event.data)) + _MOMENT_BYTES
        if self._left < 0:
            self.truncated = True
            return
        self._seen.add(event.id)
        target.append(event)

    def _target(self, event: Event) -> list[Event] | None:
        if event.source == "ledger" and event.type.startswith("session."):
            return self._lifecycle
        if event.type == EventType.METRICS and event.data.get("kind") in _LATENCIES:
            return self._latencies
        return self._others if event.type not in _LEFT_OUT else None

    def timeline(self, session: Session) -> CallTimeline:
        """Return the timeline of what was gathered of a session."""
        utterances = self.speech.utterances()
        turns = self._with_latencies(_turns(utterances))
        moments = [*self._moments(turns), *self._interruptions(utterances, turns)]
        moments.sort(key=lambda moment: unix_ms(moment.at) if moment.at_ms is None else self._unix(moment.at_ms))
        began = self.speech.origins.first
        return CallTimeline(
            session_id=session.id,
            trace_id=_trace_id(session.traceparent),
            state=session.state,
            outcome=session.outcome,
            reason=session.reason,
            attempt=session.attempt,
            began_at=None if began is None else _moment_at(began),
            duration_ms=max((utterance.end_ms for utterance in utterances), default=0),
            truncated=self.truncated or self.speech.truncated,
            stages=tuple(_stages(self._lifecycle)),
            turns=tuple(turns),
            moments=tuple(moments),
        )

    def _with_latencies(self, turns: list[Turn]) -> list[Turn]:
        measured: dict[int, Latency] = {}
        for event in sorted(self._latencies, key=_in_order):
            at = self.speech.origins.place(event.at)
            latency = _latency(event)
            if at is None or latency is None:
                continue
            near = [(abs(turn.bot.start_ms - at), turn.number) for turn in turns if turn.bot]
            distance, number = min(near, default=(_SAME_MOMENT_MS + 1, 0))
            if distance <= _SAME_MOMENT_MS:
                measured.setdefault(number, latency)
            elif turns and turns[-1].bot is None and turns[-1].end_ms <= at:
                # The bot still speaks, or was cut before its first word: when it began isn't told yet, or never.
                measured.setdefault(turns[-1].number, latency)
        return [msgspec.structs.replace(turn, latency=measured.get(turn.number)) for turn in turns]

    def _moments(self, turns: list[Turn]) -> Iterable[Moment]:
        for event in sorted(self._others, key=_in_order):
            if event.type == EventType.RECORDING_SAVED:
                yield from self._gaps(event, turns)
            own = milliseconds(event.data.get("at_ms"))
            if own is not None and event.epoch > 0:
                at_ms: int | None = own + self.speech.origins.offset_ms(event.epoch)
            else:
                at_ms = self.speech.origins.place(event.at)
            # A tool is told of when it is done; it belongs to the turn in which it was called.
            took = (milliseconds(event.data.get("duration_ms")) or 0) if event.type == EventType.TOOL_CALLED else 0
            yield Moment(
                kind=_KINDS.get(event.type, "event"),
                type=event.type,
                at=event.at,
                at_ms=at_ms,
                turn=None if at_ms is None else _turn_at(turns, at_ms - took),
                epoch=event.epoch,
                source=event.source,
                data=event.data,
            )

    def _gaps(self, event: Event, turns: list[Turn]) -> Iterable[Moment]:
        for gap in _objects(event.data.get("gaps")):
            begin, end = _seconds_ms(gap.get("from_s")), _seconds_ms(gap.get("to_s"))
            if begin is None or end is None:
                continue
            yield Moment(
                kind="gap",
                type=event.type,
                at=event.at,
                at_ms=begin,
                turn=_turn_at(turns, begin),
                epoch=event.epoch,
                source=event.source,
                data={"track": gap.get("track"), "from_ms": begin, "to_ms": end},
            )

    def _interruptions(self, utterances: list[Utterance], turns: list[Turn]) -> Iterable[Moment]:
        for utterance in utterances:
            if utterance.interrupted:
                yield Moment(
                    kind="interruption",
                    type=EventType.AGENT_SPOKE if utterance.speaker == "bot" else EventType.USER_SPOKE,
                    at=_moment_at(self._unix(utterance.end_ms)),
                    at_ms=utterance.end_ms,
                    turn=_turn_at(turns, utterance.start_ms),
                    epoch=utterance.epoch,
                    source="session",
                    data={"text": utterance.text},
                )

    def _unix(self, at_ms: int) -> int:
        return (self.speech.origins.first or 0) + at_ms


def timeline_of(session: Session, events: Iterable[Event]) -> CallTimeline:
    """Return the timeline of a session's events."""
    happenings = Happenings()
    for event in events:
        happenings.add(event)
    return happenings.timeline(session)


def _stages(lifecycle: list[Event]) -> Iterable[Stage]:
    """Yield the stages in order; transitions that stay in the state (somebody connected) are no new ones."""
    stage: Stage | None = None
    for event in lifecycle:
        state, attempt = event.data.get("state"), event.data.get("attempt")
        if not isinstance(state, str) or not isinstance(attempt, int):
            continue
        if stage is not None:
            if (stage.state, stage.attempt, stage.epoch) == (state, attempt, event.epoch):
                continue
            took = max(unix_ms(event.at) - unix_ms(stage.since), 0)
            yield msgspec.structs.replace(stage, until=event.at, duration_ms=took)
        stage = Stage(state=state, attempt=attempt, epoch=event.epoch, since=event.at)
    if stage is not None:
        over = stage.state == State.ENDED
        yield msgspec.structs.replace(stage, until=stage.since, duration_ms=0) if over else stage


def _turns(utterances: list[Utterance]) -> list[Turn]:
    """Return the turns: what the caller says until the bot answers, and what the bot says until the caller does."""
    exchanges: list[tuple[list[Utterance], list[Utterance]]] = []
    for utterance in utterances:
        same = bool(exchanges) and (exchanges[-1][0] or exchanges[-1][1])[0].epoch == utterance.epoch
        if utterance.speaker == "bot":
            if not same:
                exchanges.append(([], []))
            exchanges[-1][1].append(utterance)
        else:
            if not same or exchanges[-1][1]:
                exchanges.append(([], []))
            exchanges[-1][0].append(utterance)
    return [_turn(number, user, bot) for number, (user, bot) in enumerate(exchanges, start=1)]


def _turn(number: int, said: list[Utterance], answered: list[Utterance]) -> Turn:
    user, bot = _side(said), _side(answered)
    both = [*said, *answered]
    return Turn(
        number=number,
        start_ms=min(utterance.start_ms for utterance in both),
        end_ms=max(utterance.end_ms for utterance in both),
        epoch=both[0].epoch,
        node=both[-1].node,
        user=user,
        bot=bot,
        response_ms=bot.start_ms - user.end_ms if user and bot else None,
        latency=None,
    )


def _side(utterances: list[Utterance]) -> Side | None:
    if not utterances:
        return None
    return Side(
        text=" ".join(text for utterance in utterances if (text := utterance.text.strip())),
        start_ms=utterances[0].start_ms,
        end_ms=max(utterance.end_ms for utterance in utterances),
        interrupted=any(utterance.interrupted for utterance in utterances),
    )


def _turn_at(turns: list[Turn], at_ms: int) -> int | None:
    """Return the number of the turn that was under way."""
    return bisect.bisect_right(turns, at_ms, key=lambda turn: turn.start_ms) or None


def _latency(event: Event) -> Latency | None:
    kind = str(event.data.get("kind"))
    ms = _number(event.data.get(f"{kind}_ms"))
    if ms is None:
        return None
    return Latency(
        kind=kind,
        ms=ms,
        parts=tuple(
            LatencyPart(part=str(part.get("part", "")), owner=str(part.get("owner") or ""), ms=took)
            for part in _objects(event.data.get("parts"))
            if (took := _number(part.get("ms"))) is not None
        ),
    )


def _objects(value: Any) -> list[dict[str, Any]]:
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]


def _number(value: Any) -> float | None:
    return None if milliseconds(value) is None else float(value)


def _seconds_ms(value: object) -> int | None:
    number = _number(value)
    return None if number is None else milliseconds(number * 1000)


def _in_order(event: Event) -> tuple[int, int, str]:
    return (unix_ms(event.at), event.seq, event.id)


def _moment_at(unix: int) -> datetime:
    try:
        return _EPOCH + timedelta(milliseconds=unix)
    except OverflowError:  # somebody's clock says the year 9999
        return datetime.max.replace(tzinfo=UTC)


def _trace_id(traceparent: str | None) -> str | None:
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) > 1 else None
