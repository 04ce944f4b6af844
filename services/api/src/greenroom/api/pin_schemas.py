"""What goes in and out where operators pin sessions. Fields are only ever added."""

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from greenroom.api.agents import KnownAgent
from greenroom.api.body import pointer
from greenroom.api.canonical import canonical_room
from greenroom.api.schemas import (
    MAX_ACCOUNTS,
    MAX_LIMIT_S,
    MAX_METADATA,
    Labels,
    LimitsWish,
    LongName,
    MetadataKey,
    MetadataValue,
    Name,
    PoolName,
    Seconds,
)
from greenroom.common.errors import FieldProblem, InvalidBody
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import OnLoss, Priority
from greenroom.common.pins import SLOT, Pin, PinSlotState, PinState, Relaunch

MAX_SLOTS: Final = 100
# All pins travel to the schedulers in one message, which NATS takes up to 1 MiB of.
MAX_PIN_BYTES: Final = 8 * 1024
# Nobody waits behind a pinned session: it may queue for long, and run for as long as any may, with or without callers.
_LIMITS: Final = LimitsWish(queue_timeout_s=600.0, join_timeout_s=MAX_LIMIT_S, max_duration_s=MAX_LIMIT_S)

type TenantName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}(?!\n)$")]
type InfoValue = Annotated[str, Meta(max_length=1024)]


class RelaunchWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a session that has ended is followed by the next."""

    first_s: Annotated[Seconds, Meta(description="After an end; doubled with each further failure in a row")] = 1.0
    longest_s: Annotated[Seconds, Meta(description="The longest that becomes")] = 60.0
    max_failures: Annotated[
        int, Meta(ge=0, le=1000, description="Within `window_s`: then the slot is given up; 0: never")
    ] = 10
    window_s: Seconds = 600.0
    stable_s: Annotated[
        Seconds, Meta(description="Having run for so long it was well; sooner, an end is a failure")
    ] = 60.0

    def relaunch(self) -> Relaunch:
        """Return the policy. Raises `InvalidBody`."""
        if self.first_s > self.longest_s:
            raise _invalid("relaunch", "first_s", "It is longer than `longest_s`.")
        return Relaunch(**{field: getattr(self, field) for field in self.__struct_fields__})


class PinWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """So many sessions of an agent are to be kept running."""

    agent: Annotated[str, Meta(min_length=1, max_length=128)]
    count: Annotated[int, Meta(ge=0, le=MAX_SLOTS, description="How many; 0: none, and those that run are stopped")] = 1
    tenant: Annotated[TenantName | None, Meta(description="Whose sessions; default: the caller's")] = None
    pool: Annotated[PoolName | None, Meta(description="Which runners; default: the agent's")] = None
    transport: Annotated[str, Meta(min_length=1, max_length=32)] = "websocket"
    transport_info: Annotated[
        dict[MetadataKey, InfoValue],
        Meta(max_length=16, description="Public facts of what is prepared, e.g. a room's URL; `{slot}` is replaced"),
    ] = {}
    room: Annotated[LongName | None, Meta(description="`{slot}` in it stands for the number of the session")] = None
    body: Annotated[dict[str, Any], Meta(description="What the bot is given")] = {}
    metadata: Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=MAX_METADATA)] = {}
    limits: LimitsWish = LimitsWish()
    on_loss: OnLoss | None = None
    requires: Labels = {}
    prefers: Labels = {}
    priority: Priority = Priority.NORMAL
    accounts: Annotated[list[Name], Meta(max_length=MAX_ACCOUNTS)] = []
    relaunch: RelaunchWish = RelaunchWish()

    def pin(self, pin_id: str, tenant: str, known: KnownAgent, now: datetime) -> Pin:
        """Return the pin.

        Args:
            pin_id: names it.
            tenant: whose sessions.
            known: the agent.
            now: the time.

        Raises:
            InvalidBody: what it says can't be meant, or the agent doesn't take it.
        """
        agent = known.agent
        if self.transport not in agent.transports:
            raise _invalid("transport", f"The agent takes {', '.join(agent.transports)}.")
        known.check_body(self.body)
        if self.room is not None and self.count > 1 and SLOT not in self.room:
            raise _invalid("room", "A room has one session: put `{slot}` into its name, or keep `count` at 1.")
        pin = Pin(
            id=pin_id,
            uid=uuid7(),
            tenant=tenant,
            agent=agent.name,
            agent_version=agent.version,
            bot=agent.bot,
            count=self.count,
            pool=self.pool or agent.pool,
            transport=self.transport,
            transport_info=self.transport_info,
            room=canonical_room(self.room) if self.room is not None else None,
            body=self.body,
            config=agent.config,
            recording=agent.recording,
            metadata=self.metadata,
            limits=self.limits.over(_LIMITS.over(agent.limits)),
            on_loss=self.on_loss or agent.on_loss,
            requires=self.requires,
            prefers=self.prefers,
            priority=self.priority,
            accounts=tuple(sorted(set(self.accounts))),
            relaunch=self.relaunch.relaunch(),
            changed_at=now,
        )
        encoded = msgspec.json.encode(pin)
        if len(encoded) > MAX_PIN_BYTES:
            size = f"The pin takes more than {MAX_PIN_BYTES // 1024} KiB; pass large things by reference."
            raise _invalid("body", size)
        if b"\\u0000" in encoded:
            raise _invalid("body", "PostgreSQL keeps no NUL characters.")
        return pin


class PinView(msgspec.Struct, frozen=True, kw_only=True):
    """A pin and how it stands; `running` and `slots` are None where no scheduler tells, or it doesn't know it yet."""

    id: str
    tenant: str
    agent: str
    agent_version: int
    count: int
    pool: str
    transport: str
    transport_info: dict[str, str]
    room: str | None
    body: dict[str, Any]
    metadata: dict[str, str]
    priority: Priority
    relaunch: Relaunch
    changed_at: datetime
    running: int | None
    slots: list[PinSlotState] | None


class PinList(msgspec.Struct, frozen=True, kw_only=True):
    """Pins by id; `revision`, `applied_revision` and `problem` as of limits."""

    revision: int
    applied_revision: int | None
    problem: str | None
    pins: list[PinView]


def pin_view(pin: Pin, state: PinState | None) -> PinView:
    """Return a pin as it is shown; the agent's configuration isn't."""
    shown = {field: getattr(pin, field) for field in PinView.__struct_fields__ if field not in {"running", "slots"}}
    return PinView(**shown, running=state.running if state else None, slots=list(state.slots) if state else None)


def _invalid(*place: str) -> InvalidBody:
    *steps, detail = place
    problem = FieldProblem(pointer=pointer(*steps), detail=detail)
    return InvalidBody(f"{problem.pointer}: {problem.detail}", errors=[problem])
