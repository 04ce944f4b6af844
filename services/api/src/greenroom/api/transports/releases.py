"""What was made at providers goes when its session is over, whatever became of whoever made it.

Before a provider is asked for anything, a plan is written (stream RELEASES). All instances of the api share its
consumer: a plan whose session still lives comes again after a while; one whose session has ended, or never came to be,
is carried out, again and again until the provider has confirmed it.

A session that has gone to another room needs the one that it was in no longer, and one that has stayed doesn't need the
one that was made for it to go to: those plans are carried out while it lives.

A plan that has to wait does so alone, whatever for: the next one may be of a session that has ended, or of another
provider. What a provider is spared while it is down, or over its rate limit, is a matter of `provider`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final, Protocol

import msgspec
import structlog

from greenroom.api.transports.base import Outlived
from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.consumer import Consumer, Retry, malformed
from greenroom.common.errors import GreenroomError
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Session
from greenroom.common.messages import ReleasePlan
from greenroom.common.secrets import SecretBox

_log = structlog.get_logger()

STREAM: Final = "RELEASES"
CONSUMER: Final = "api-releases"
# How late a room may go after the end of its session. A look at the ledger takes 0.13 ms.
LOOK_AGAIN_S: Final = 10.0
# How late one may go that outlived its session. Daily says who is in a room 15 s late, and answers 20 times a second.
LOOK_FOR_PEOPLE_S: Final = 60.0
# A request that was still being answered when its plan was written has become a session by then, or never will: the
# api gives its writes 15 s.
_GRACE: Final = timedelta(seconds=60)
# Providers that were asked at a time, by one instance.
_AT_ONCE: Final = 4


class Releaser(Protocol):
    """Takes away what was made: a transport, as `base.Adapter` has it, or whoever else makes something."""

    @property
    def movable(self) -> bool:
        """See `base.Adapter.movable`."""
        ...

    async def release(self, tenant: str, session_id: str, info: dict[str, str]) -> None:
        """See `base.Adapter.release`."""
        ...


class Releases:
    """Plans releases and carries them out.

    Args:
        broker: keeps the plans.
        ledger: says which sessions are over.
        secrets: of sessions that are over are taken away, too.
        adapters: who releases, by the name that plans give; what they can't release now is tried again.
        clock: says how old a plan is.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        ledger: Ledger,
        secrets: SecretBox,
        adapters: Mapping[str, Releaser],
        clock: Clock | None = None,
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._secrets = secrets
        self._adapters = adapters
        self._clock = clock or SystemClock()

    async def plan(self, session: Session, info: dict[str, str], *, by: str | None = None) -> None:
        """Have what is about to be made for a session taken away when that is over.

        Args:
            session: for which.
            info: for whoever releases it.
            by: his name; None: the session's transport.

        Raises:
            BrokerUnavailable: it isn't known whether that will happen: make nothing.
        """
        plan = ReleasePlan(
            transport=by or session.transport,
            tenant=session.tenant,
            session_id=session.id,
            info=info,
            at=self._clock.now(),
        )
        subject = subjects.RELEASE.format(transport=plan.transport)
        # Each time anew: what an earlier plan of the session has taken away by now is about to be made again.
        msg_id = f"release-{plan.transport}-{session.id}-{plan.at.timestamp():.6f}"
        await self._broker.append(subject, messages.encode(plan), msg_id=msg_id)

    async def run(self) -> None:
        """Release what is due, until canceled."""
        turn = asyncio.Lock()
        async with asyncio.TaskGroup() as tasks:
            for number in range(_AT_ONCE):
                consumer = Consumer(
                    self._broker, STREAM, CONSUMER, decode=_decode, handle=self._handle, max_batch=1, turn=turn
                )
                tasks.create_task(consumer.run_once_there(), name=f"releases-{number}")

    async def _handle(self, plans: Sequence[ReleasePlan]) -> None:
        for plan in plans:
            await self._carry_out(plan)

    async def _carry_out(self, plan: ReleasePlan) -> None:
        entry = await self._ledger.last(plan.tenant, plan.session_id)
        adapter = self._adapters.get(plan.transport)
        over = self._over(plan, entry)
        if not over and not (entry is not None and self._left(plan, entry.session, adapter)):
            raise Retry(LOOK_AGAIN_S, only=[plan])
        if adapter is None:
            # Another instance may have its settings, or this one after its next start.
            raise Retry(LOOK_AGAIN_S, only=[plan])
        try:
            if (
                over
                and entry is not None
                and isinstance(adapter, Outlived)
                and await adapter.in_use(entry.session, plan.info)
            ):
                await self._secrets.forget(plan.tenant, plan.session_id)
                raise Retry(LOOK_FOR_PEOPLE_S, only=[plan])
            await adapter.release(plan.tenant, plan.session_id, plan.info)
            if over:
                await self._secrets.forget(plan.tenant, plan.session_id)
        except GreenroomError as error:
            _log.warning("release_failed", transport=plan.transport, session_id=plan.session_id, code=error.code)
            raise Retry(error.retry_after_s or LOOK_AGAIN_S, only=[plan]) from error
        _log.info("released", transport=plan.transport, tenant=plan.tenant, session_id=plan.session_id)

    def _over(self, plan: ReleasePlan, entry: Entry | None) -> bool:
        if entry is None:
            return self._clock.now() - plan.at > _GRACE
        return entry.session.ended

    def _left(self, plan: ReleasePlan, session: Session, adapter: Releaser | None) -> bool:
        """Tell whether a live session is neither in the room of a plan, nor on its way there, nor about to be."""
        if adapter is None or not adapter.movable or self._clock.now() - plan.at <= _GRACE:
            return False
        room, going = plan.info.get("room"), session.moving
        here = session.transport_info.get("room")
        there = going.transport_info.get("room") if going is not None else None
        return None not in {room, here} and room not in {here, there}


def _decode(message: Message) -> ReleasePlan:
    try:
        return messages.decode(message.data, ReleasePlan)
    except msgspec.MsgspecError as error:
        raise malformed(error) from error
