"""Pinned sessions: which are to be asked for and which to be stopped. Pure: the same facts, the same review.

    policy (pins) ──┐
    ledger ─────────┼─▶ review ─▶ the record, to be kept first ─▶ sessions to ask for
    record ─────────┘        └──▶ sessions to stop, and what is said of it

A slot is open from when a session is asked for until that one is known to have ended; only then the next one's time is
reckoned. So there are never two in a slot, whoever leads: the next generation is begun by writing the record, which one
leader at a time can, and a session that the record tells of and the ledger doesn't is asked for again under the id that
it has, for a minute. When it is missing a minute after the last of those may have been written, and before the ledger
forgets what has ended, it is taken for one that came and went while nobody looked.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from greenroom.common.lifecycle import Outcome, Pinned, Session, State
from greenroom.common.pins import (
    SLOT,
    Pin,
    PinRecord,
    PinSlot,
    PinSlotState,
    PinState,
    Relaunch,
    SlotState,
)
from greenroom.common.reasons import Reason

ASK_AGAIN: Final = timedelta(seconds=60)
# The write of a request is given up after 15 s, and a watch of the ledger isn't behind by the rest of a minute. What
# has ended stays in the ledger for five.
UNSEEN: Final = timedelta(seconds=135)
_RUNNER_STOPPED: Final = frozenset({Reason.DRAIN_DEADLINE})
# The exponent is bounded: a float overflows after a thousand failures.
_MOST_DOUBLINGS: Final = 32
_SHOWN: Final[Mapping[State, SlotState]] = {
    State.REQUESTED: "waiting",
    State.LEASED: "starting",
    State.STARTED: "starting",
    State.READY: "running",
    State.ENDING: "ending",
}


class Asking(NamedTuple):
    """A session to ask for; again, if the record has told of it before."""

    slot: int
    generation: int


class Stopping(NamedTuple):
    """A session to stop in order, and why."""

    session: Session
    text: str


class Said(NamedTuple):
    """What was decided after a session's end."""

    session: Session
    decision: str
    reason: str
    text: str
    inputs: dict[str, Any]


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done about a pin. `record` is to be kept before anything is asked for; None: it isn't needed."""

    record: PinRecord | None
    ask: Sequence[Asking] = ()
    stop: Sequence[Stopping] = ()
    said: Sequence[Said] = ()


class _Found(NamedTuple):
    ask: list[Asking]
    stop: list[Stopping]
    said: list[Said]


def review(now: datetime, pin: Pin | None, record: PinRecord, sessions: Iterable[Session]) -> Review:
    """Return what is to be done about a pin.

    Args:
        now: UTC.
        pin: as it is to be; None: it was deleted.
        record: what is known of its slots.
        sessions: its sessions by the ledger: all that live, and of those that have ended at least the last of each
            slot that is open by the record, if the ledger has that.
    """
    known = _forgiven(record, pin)
    slots = {each.number: each for each in known.slots}
    mine = _by_slot(sessions)
    wanted = range(1, pin.count + 1) if pin is not None else range(0)
    found = _Found([], [], [])
    for number in sorted({*wanted, *slots, *mine}):
        slot, of_slot = slots.get(number, PinSlot(number=number)), mine.get(number, [])
        slots[number] = _review_slot(now, pin, slot, of_slot, found)
    over = pin is None and not any(each.open for each in slots.values())
    kept = replace(known, slots=tuple(slots[number] for number in sorted(slots)))
    stop = [each for each in found.stop if each.session.state not in {State.ENDING, State.ENDED}]
    return Review(record=None if over else kept, ask=found.ask, stop=stop, said=found.said)


def _review_slot(now: datetime, pin: Pin | None, slot: PinSlot, sessions: Sequence[Session], found: _Found) -> PinSlot:
    """Return a slot as it is to be kept, with what is to be done about it added to what was found."""
    is_wanted = pin is not None and slot.number <= pin.count
    relaunch = pin.relaunch if pin is not None else Relaunch()
    slot = _caught_up(slot, sessions, now)
    current = next((each for each in sessions if _generation(each) == slot.generation), None)
    older = (each for each in sessions if each is not current)
    found.stop.extend(Stopping(each, f"slot {slot.number} has a newer session") for each in older)
    if slot.open and current is not None and current.ended:
        slot = closed(slot, relaunch, current, now)
        if is_wanted:
            found.said.append(_said(slot, relaunch, current, now))
    elif slot.open and current is None and _is_missing(slot, now):
        slot = replace(slot, ended_at=now, not_before=now, last="it ended while nobody looked")
    elif slot.open and current is None and is_wanted and now - (slot.begun_at or now) < ASK_AGAIN:
        found.ask.append(Asking(slot.number, slot.generation))
    if not is_wanted and current is not None:
        found.stop.append(Stopping(current, _surplus(pin)))
    elif is_wanted and not slot.open and is_due(slot, relaunch, now):
        slot = replace(slot, generation=slot.generation + 1, begun_at=now, ended_at=None, not_before=None)
        found.ask.append(Asking(slot.number, slot.generation))
    return slot


def _is_missing(slot: PinSlot, now: datetime) -> bool:
    return slot.begun_at is None or now - slot.begun_at >= UNSEEN


def is_due(slot: PinSlot, relaunch: Relaunch, now: datetime) -> bool:
    """Tell whether a slot without a session may get its next one."""
    if slot.gave_up:
        return False
    until = slot.not_before
    # Further ahead than any backoff: the clock was set back.
    return until is None or now >= until or until - now > timedelta(seconds=relaunch.longest_s)


def closed(slot: PinSlot, relaunch: Relaunch, session: Session, now: datetime) -> PinSlot:
    """Return a slot after the end of its session: when the next one may be asked for, if at all."""
    lived_s = _lived_s(session)
    stable = lived_s >= relaunch.stable_s
    last = f"{session.reason or session.outcome} after {lived_s:.0f} s"
    ended = replace(slot, ended_at=now, last=last)
    if not _is_failure(session, stable=stable):
        streak = 0 if stable else slot.streak
        return replace(ended, streak=streak, not_before=now + timedelta(seconds=relaunch.first_s))
    streak = 1 if stable else slot.streak + 1
    window = timedelta(seconds=relaunch.window_s)
    # One that is ahead was noted before the clock was set back.
    failed_at = (*(at for at in slot.failed_at if timedelta() <= now - at < window), now)
    gave_up = bool(relaunch.max_failures) and len(failed_at) >= relaunch.max_failures
    # No more of them decides anything.
    kept = failed_at[-max(relaunch.max_failures, 1) :]
    not_before = now + timedelta(seconds=backoff_s(relaunch, streak))
    return replace(ended, streak=streak, failed_at=kept, gave_up=gave_up, not_before=not_before)


def backoff_s(relaunch: Relaunch, streak: int) -> float:
    """Return how long is waited after so many failures in a row, in seconds."""
    return min(relaunch.first_s * 2.0 ** min(max(streak - 1, 0), _MOST_DOUBLINGS), relaunch.longest_s)


def document(pin: Pin, asking: Asking, session_id: str, now: datetime) -> Session:
    """Return the session that a slot is to have; `session_id` follows from the pin's uid, slot and generation alone."""
    number = str(asking.slot)
    return Session(
        id=session_id,
        tenant=pin.tenant,
        agent=pin.agent,
        agent_version=pin.agent_version,
        bot=pin.bot,
        pool=pin.pool,
        transport=pin.transport,
        transport_info={name: value.replace(SLOT, number) for name, value in pin.transport_info.items()},
        body=pin.body,
        config=pin.config,
        recording=pin.recording,
        metadata=pin.metadata,
        limits=pin.limits,
        on_loss=pin.on_loss,
        requires=pin.requires,
        prefers=pin.prefers,
        priority=pin.priority,
        room=pin.room.replace(SLOT, number) if pin.room is not None else None,
        accounts=pin.accounts,
        pin=Pinned(pin=pin.id, uid=pin.uid, slot=asking.slot, generation=asking.generation),
        # Both are set anew by the ledger.
        requested_at=now,
        queue_deadline_at=now,
    )


def state_of(now: datetime, pin: Pin, record: PinRecord, sessions: Iterable[Session]) -> PinState:
    """Return how a pin stands, as `GET /v1/pins` shows it."""
    slots = {each.number: each for each in record.slots}
    mine = _by_slot(sessions)
    rows = [
        _shown(slots.get(number, PinSlot(number=number)), mine.get(number, []), pin, now)
        for number in range(1, pin.count + 1)
    ]
    running = sum(each.state == "running" for each in rows)
    return PinState(id=pin.id, uid=pin.uid, running=running, slots=tuple(rows))


# ---------------------------------------------------------------------------- the parts


def _forgiven(record: PinRecord, pin: Pin | None) -> PinRecord:
    """Return the record of a pin, without the failures of before it was changed."""
    if pin is None or pin.changed_at == record.changed_at:
        return record
    slots = tuple(replace(each, failed_at=(), streak=0, not_before=None, gave_up=False) for each in record.slots)
    return replace(record, changed_at=pin.changed_at, pool=pin.pool, slots=slots)


def _by_slot(sessions: Iterable[Session]) -> dict[int, list[Session]]:
    mine: dict[int, list[Session]] = defaultdict(list)
    for each in sessions:
        if each.pin is not None:
            mine[each.pin.slot].append(each)
    return mine


def _generation(session: Session) -> int:
    return session.pin.generation if session.pin is not None else 0


def _caught_up(slot: PinSlot, sessions: Sequence[Session], now: datetime) -> PinSlot:
    """Return a slot that knows of the newest of its sessions: the ledger holds, if the record was lost."""
    newest = max(map(_generation, sessions), default=0)
    return replace(slot, generation=newest, begun_at=now, ended_at=None) if newest > slot.generation else slot


def _lived_s(session: Session) -> float:
    began_at = session.ready_at or session.started_at
    if began_at is None or session.ended_at is None:
        return 0.0
    return max((session.ended_at - began_at).total_seconds(), 0.0)


def _is_failure(session: Session, *, stable: bool) -> bool:
    """Tell whether an end speaks against the bot, rather than the runners, capacity, or whoever stopped it."""
    match session.outcome:
        case Outcome.FAILED:
            return session.reason not in _RUNNER_STOPPED
        case Outcome.REJECTED:
            return True
        case Outcome.COMPLETED:
            return not stable and session.ended_by not in {"client", "api", "scheduler"}
        case _:
            return False


def _surplus(pin: Pin | None) -> str:
    return "its pin was deleted" if pin is None else f"pin {pin.id} keeps {pin.count} running now"


def _said(slot: PinSlot, relaunch: Relaunch, session: Session, now: datetime) -> Said:
    inputs = {
        "slot": slot.number,
        "generation": slot.generation,
        "failures": len(slot.failed_at),
        "streak": slot.streak,
        "max_failures": relaunch.max_failures,
        "window_s": relaunch.window_s,
    }
    if slot.gave_up:
        return Said(session, "pin_give_up", "pin-given-up", _gave_up(slot, relaunch), inputs)
    return Said(session, "pin_back_off", session.reason or "ended", _backs_off(slot, now), inputs)


def _gave_up(slot: PinSlot, relaunch: Relaunch) -> str:
    count = len(slot.failed_at)
    return f"given up: {count} failures within {relaunch.window_s:g} s, last: {slot.last}; change the pin to try again"


def _backs_off(slot: PinSlot, now: datetime) -> str:
    left_s = max((slot.not_before - now).total_seconds(), 0.0) if slot.not_before is not None else 0.0
    row = f"{slot.streak} failures in a row, last: " if slot.streak > 1 else ""
    return f"{row}{slot.last}; next in {left_s:.0f} s"


def _shown(slot: PinSlot, sessions: Sequence[Session], pin: Pin, now: datetime) -> PinSlotState:
    current = next((each for each in sessions if _generation(each) == slot.generation and not each.ended), None)
    base = PinSlotState(slot=slot.number, state="waiting", generation=slot.generation, failures=slot.streak)
    if current is not None:
        return replace(base, state=_SHOWN[current.state], session_id=current.id)
    if slot.gave_up:
        return replace(base, state="given_up", text=_gave_up(slot, pin.relaunch))
    if slot.open or slot.not_before is None or now >= slot.not_before:
        return replace(base, text="it is about to be asked for")
    return replace(base, state="backing_off", text=_backs_off(slot, now), next_at=slot.not_before)
