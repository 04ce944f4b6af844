"""Pinned sessions: so many of an agent are kept running, whatever becomes of each. Data only.

A pin has slots, numbered from 1, with at most one session each. The sessions of a slot come one after the other, in
generations, and the id of each follows from pin, slot and generation: however many schedulers ask for it, and however
often, it is one session. What a slot has been through is kept beside the policy (`PinRecords`), written
before a session is asked for, since the ledger forgets sessions some time after their end.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from greenroom.common.lifecycle import Limits, OnLoss, Priority
from greenroom.common.recordings import RecordingChoice

type Positive = Annotated[float, msgspec.Meta(gt=0)]
type Count = Annotated[int, msgspec.Meta(ge=0)]
type SlotState = Literal["waiting", "starting", "running", "ending", "backing_off", "given_up"]

# Stands in the room of a pin for the number of the slot.
SLOT = "{slot}"
NEVER = datetime.min.replace(tzinfo=UTC)


class Relaunch(msgspec.Struct, frozen=True, kw_only=True):
    """When a slot gets its next session.

    Attributes:
        first_s, longest_s: how long is waited after an end; doubled with each further failure in a row.
        max_failures: with so many within `window_s` the slot is given up until the pin is changed; 0: never.
        window_s: see there.
        stable_s: a session that has run for so long was well: the next failure is the first again.
    """

    first_s: Positive = 1.0
    longest_s: Positive = 60.0
    max_failures: Count = 10
    window_s: Positive = 600.0
    stable_s: Positive = 60.0


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """So many sessions of an agent, as it was when the pin was made or changed.

    Attributes:
        id: names it.
        uid: tells it from former pins of that name.
        count: how many.
        room: of the sessions; `{slot}` in it stands for the number of the slot.
        transport_info: public facts of the transport that the operator has prepared, e.g. the room's URL.
        relaunch: when a slot gets its next session.
        changed_at: when it was made or changed; a change forgives failures.

    The other fields are those of the sessions.
    """

    id: str
    uid: str
    tenant: str
    agent: str
    bot: str
    count: Count
    agent_version: int = 1
    pool: str = "default"
    transport: str = "websocket"
    transport_info: dict[str, str] = {}
    room: str | None = None
    body: dict[str, Any] = {}
    config: dict[str, Any] = {}
    recording: RecordingChoice = RecordingChoice()
    metadata: dict[str, str] = {}
    limits: Limits = Limits()
    on_loss: OnLoss = OnLoss.BEFORE_MEDIA
    requires: dict[str, str] = {}
    prefers: dict[str, str] = {}
    priority: Priority = Priority.NORMAL
    accounts: tuple[str, ...] = ()
    relaunch: Relaunch = Relaunch()
    changed_at: datetime = NEVER


class PinSlot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a slot has been through; times are the leading scheduler's.

    Attributes:
        number: from 1.
        generation: of the last session that was asked for; 0: none was.
        begun_at: when that was.
        ended_at: when that session was found to have ended; None: it hasn't.
        failed_at: failures that count for giving up.
        streak: failures in a row.
        not_before: when the next session may be asked for.
        gave_up: whether none is.
        last: how the last session ended, for people.
    """

    number: int
    generation: int = 0
    begun_at: datetime | None = None
    ended_at: datetime | None = None
    failed_at: tuple[datetime, ...] = ()
    streak: int = 0
    not_before: datetime | None = None
    gave_up: bool = False
    last: str = ""

    @property
    def open(self) -> bool:
        """Whether a session was asked for that isn't known to have ended."""
        return self.generation > 0 and self.ended_at is None


class PinRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The slots of a pin; those beyond its count stay, so that no id is used twice. `changed_at` is the pin's."""

    uid: str
    pool: str
    changed_at: datetime = NEVER
    slots: tuple[PinSlot, ...] = ()


class PinRecords(msgspec.Struct, frozen=True, kw_only=True):
    """What the leading schedulers know of all pins, for the leaders to come."""

    records: tuple[PinRecord, ...] = ()


class PinsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Asks the leading scheduler how the pins stand."""


class PinSlotState(msgspec.Struct, frozen=True, kw_only=True):
    """How a slot stands; `text` is for people, `next_at` when the next session is asked for, if that is known."""

    slot: int
    state: SlotState
    text: str = ""
    session_id: str | None = None
    generation: int = 0
    # Failures in a row.
    failures: int = 0
    next_at: datetime | None = None


class PinState(msgspec.Struct, frozen=True, kw_only=True):
    """How a pin stands."""

    id: str
    uid: str
    running: int
    slots: tuple[PinSlotState, ...] = ()


class PinsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The pins of the policy that is applied."""

    policy_revision: int
    pins: tuple[PinState, ...]
