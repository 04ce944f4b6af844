"""Keeps pinned sessions running: once a second, and whenever something has changed, it has each pin reviewed.

    policy, records ─┐
    ledger ──────────┼─▶ pins.review ─▶ records, by compare-and-set ─▶ sessions asked for, sessions stopped
                     └─▶ what `GET /v1/pins` shows

Every scheduler follows all of it; only the leader reviews and acts. What a review says is kept before it is acted upon,
so that a leader which was replaced without knowing begins nothing: its write of the records is refused.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Final

import structlog
from msgspec.structs import replace
from opentelemetry.context import Context

from greenroom.common import messages, subjects, telemetry
from greenroom.common.broker import Broker, MessageTooLarge, WrongLastSequence
from greenroom.common.clock import Clock
from greenroom.common.errors import GreenroomError, LedgerConflict
from greenroom.common.ids import derived_id
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Ended, Ending, Outcome, Requested, Session, State, Transition
from greenroom.common.pins import Pin, PinRecord, PinRecords, PinsAnswer
from greenroom.common.policy import Policy
from greenroom.common.reasons import Reason
from greenroom.scheduler.decisions import Decisions
from greenroom.scheduler.picture import Picture
from greenroom.scheduler.pins import Asking, Review, Stopping, document, review, state_of

_log = structlog.get_logger()

LOOK_S: Final = 1.0
# Between two looks, however much has changed: each goes through all slots, in some milliseconds where there are many.
_PAUSE_S: Final = 0.02
# Of requests and stops under way, each some milliseconds; what is beyond waits its turn.
_AT_ONCE: Final = 16
_SUBJECT: Final = subjects.POLICY.format(name="pins")


class PinKeeper:
    """See the module.

    Args:
        broker: has the records.
        ledger: where sessions are asked for and stopped.
        picture: knows which pools are this scheduler's.
        decisions: where it is said what was decided.
        clock: time.
    """

    def __init__(self, broker: Broker, ledger: Ledger, picture: Picture, decisions: Decisions, *, clock: Clock) -> None:
        self._broker = broker
        self._ledger = ledger
        self._picture = picture
        self._decisions = decisions
        self._clock = clock
        self._policy = Policy()
        self._records: dict[str, PinRecord] = {}
        # Of the message with them, 0: there is none.
        self._revision = 0
        # Whether that message can't be read.
        self._is_lost = False
        # By pin (its uid) and session: those that live, and of each slot the last that has ended.
        self._entries: dict[str, dict[str, Entry]] = {}
        self._wake = asyncio.Event()
        self._gate = asyncio.Semaphore(_AT_ONCE)

    # ------------------------------------------------------------------------ what it learns

    def learned(self, entry: Entry) -> None:
        """Take in an entry of the ledger."""
        pin = entry.session.pin
        if pin is None:
            return
        mine = self._entries.setdefault(pin.uid, {})
        known = mine.get(entry.session.id)
        if known is None or entry.revision > known.revision:
            mine[entry.session.id] = entry
            self._wake.set()

    def policy_changed(self, policy: Policy) -> None:
        """Take in what operators decided."""
        self._policy = policy
        self._wake.set()

    def records_changed(self, records: PinRecords | None, revision: int) -> None:
        """Take in what a leader has kept, unless something later is known.

        Args:
            records: all of it; None: it can't be read, so what was known before is kept anew.
            revision: of the message.
        """
        if revision > self._revision:
            self._revision = revision
            if records is None:
                self._is_lost = True
            else:
                self._records = {each.uid: each for each in records.records}
                self._is_lost = False
            self._wake.set()

    def tidy(self) -> None:
        """Forget sessions that have ended and whose end is in the record; leaders and stand-bys do so now and then."""
        for uid, mine in list(self._entries.items()):
            record = self._records.get(uid)
            known = {each.uid for each in self._policy.pins}
            kept = {
                each: entry
                for each, entry in mine.items()
                if not (entry.session.ended and (_is_recorded(entry.session, record) if record else uid not in known))
            }
            self._entries[uid] = kept
            if not kept:
                del self._entries[uid]

    def answer(self) -> PinsAnswer:
        """Return how the pins stand."""
        now = self._clock.now()
        states = [state_of(now, pin, self._record(uid, pin), self._sessions(uid)) for uid, pin in self._pins().items()]
        return PinsAnswer(policy_revision=self._policy.revision, pins=tuple(states))

    # ------------------------------------------------------------------------ what it does

    async def run(self) -> None:
        """Review and act until canceled."""
        while True:
            self._wake.clear()
            await self._look()
            self.tidy()
            await self._clock.sleep(_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()

    async def _look(self) -> None:
        pins, now = self._pins(), self._clock.now()
        reviews = {
            uid: review(now, pins.get(uid), self._record(uid, pins.get(uid)), self._sessions(uid))
            for uid in sorted({*pins, *self._deleted()})
        }
        if not reviews or not await self._keep(reviews):
            return
        async with asyncio.TaskGroup() as tasks:
            for uid, found in reviews.items():
                for each in found.said:
                    self._decisions.on_session(
                        each.session, each.decision, reason=each.reason, text=each.text, inputs=each.inputs
                    )
                for stopping in found.stop:
                    tasks.create_task(self._stop(stopping))
                pin = pins.get(uid)
                # What a suspended tenant has running stays; nothing is added.
                if pin is not None and pin.tenant not in self._policy.suspended:
                    for asking in found.ask:
                        tasks.create_task(self._ask(pin, asking))

    async def _keep(self, reviews: Mapping[str, Review]) -> bool:
        """Keep what the reviews say of the slots, and return whether that is what holds now."""
        records = {uid: each for uid, each in self._records.items() if uid not in reviews}
        records |= {uid: found.record for uid, found in reviews.items() if found.record is not None}
        if records == self._records and not self._is_lost:
            return True
        rows = PinRecords(records=tuple(records[uid] for uid in sorted(records)))
        try:
            revision = await self._broker.append(_SUBJECT, messages.encode(rows), expected_last=self._revision)
        except WrongLastSequence:
            # Another one leads, or of another pool: what it has kept is on its way here.
            return False
        except (GreenroomError, MessageTooLarge) as error:
            _log.warning("pins_not_kept", error=type(error).__name__)
            return False
        self._records, self._revision, self._is_lost = records, revision, False
        return True

    async def _ask(self, pin: Pin, asking: Asking) -> None:
        """Ask for a session of a slot; if that was done before, what became of it is learned."""
        wanted = document(pin, asking, session_id(pin, asking), self._clock.now())
        async with self._gate:
            with telemetry.span("session.pin", parent=Context(), attributes={"greenroom.pin": pin.id}):
                session = replace(wanted, traceparent=telemetry.current_traceparent())
                try:
                    entry = await self._ledger.create(Requested(by="scheduler", session=session))
                except LedgerConflict:
                    await self._look_up(session)
                    return
                except GreenroomError as error:
                    _log.warning("pinned_session_not_requested", pin=pin.id, slot=asking.slot, code=error.code)
                    return
        self.learned(entry)
        text = f"pin {pin.id} keeps {pin.count} of {pin.agent} running: slot {asking.slot} had none"
        inputs = {"pin": pin.id, "slot": asking.slot, "generation": asking.generation, "count": pin.count}
        self._decisions.on_session(entry.session, "pin_start", reason="slot-empty", text=text, inputs=inputs)
        _log.info("pinned_session_requested", pin=pin.id, slot=asking.slot, session_id=session.id)

    async def _look_up(self, session: Session) -> None:
        try:
            entry = await self._ledger.last(session.tenant, session.id)
        except GreenroomError as error:
            _log.warning("pinned_session_not_found", session_id=session.id, code=error.code)
            return
        if entry is not None:
            self.learned(entry)

    async def _stop(self, stopping: Stopping) -> None:
        session = stopping.session
        async with self._gate:
            try:
                entry = await self._ledger.move(session.tenant, session.id, _stopped)
            except GreenroomError as error:
                _log.warning("pinned_session_not_stopped", session_id=session.id, code=error.code)
                return
        self.learned(entry)
        inputs = {"pin": session.pin.pin, "slot": session.pin.slot} if session.pin is not None else {}
        self._decisions.on_session(session, "pin_stop", reason=Reason.UNPINNED, text=stopping.text, inputs=inputs)
        _log.info("pinned_session_stopped", session_id=session.id, detail=stopping.text)

    # ------------------------------------------------------------------------ what there is

    def _pins(self) -> dict[str, Pin]:
        return {each.uid: each for each in self._policy.pins if self._picture.concerns(each.pool)}

    def _deleted(self) -> set[str]:
        """Return the pins that aren't in the policy any more and of which something is left to do here."""
        left = {each.uid: each.pool for each in self._records.values()}
        left |= {uid: each.session.pool for uid, mine in self._entries.items() for each in mine.values()}
        known = {each.uid for each in self._policy.pins}
        return {uid for uid, pool in left.items() if uid not in known and self._picture.concerns(pool)}

    def _record(self, uid: str, pin: Pin | None) -> PinRecord:
        known = self._records.get(uid)
        if known is not None:
            return known
        if pin is not None:
            return PinRecord(uid=uid, pool=pin.pool, changed_at=pin.changed_at)
        # Deleted, and its record lost: it is known by its sessions only.
        return PinRecord(uid=uid, pool=next((each.pool for each in self._sessions(uid)), ""))

    def _sessions(self, uid: str) -> Iterable[Session]:
        return [entry.session for entry in self._entries.get(uid, {}).values()]


def session_id(pin: Pin, asking: Asking) -> str:
    """Return the id of a slot's session."""
    return derived_id("pin", pin.uid, str(asking.slot), str(asking.generation))


def _is_recorded(session: Session, record: PinRecord) -> bool:
    """Tell whether the record of a pin knows that a session has ended."""
    pin = session.pin
    slot = next((each for each in record.slots if pin is not None and each.number == pin.slot), None)
    if pin is None or slot is None:
        return False
    return slot.generation > pin.generation or (slot.generation == pin.generation and not slot.open)


def _stopped(session: Session) -> Transition | None:
    """Return how a session is stopped that its pin doesn't ask for any more; None: it ends already."""
    match session.state:
        case State.REQUESTED:
            return Ended(by="scheduler", epoch=session.epoch, outcome=Outcome.CANCELED, reason=Reason.UNPINNED)
        case State.LEASED | State.STARTED | State.READY:
            return Ending(by="scheduler", epoch=session.epoch, reason=Reason.UNPINNED)
        case State.ENDING | State.ENDED:
            return None
