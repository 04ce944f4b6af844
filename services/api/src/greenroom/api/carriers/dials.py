"""Calls people, once each, when the session that they shall speak with is ready.

A plan is written before the session is requested, and all instances of the api share its consumer. Whoever finds the
session ready notes that it dials (`CallBook.dialling`), and dials: a call that may have been made isn't made again,
since nobody wants to be called twice. What the carrier refuses ends the session, with the carrier's words.

    no session yet      look again; after a minute it will never be
    waiting, starting   look again
    ready               dial
    ending, ended       forget it

A session may wait for hours, so it is looked at more and more seldom. Until the next look it is listened for: once it
is heard that the session is ready, the plan is written once more, and comes at once.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

import msgspec
import structlog

from greenroom.api.carriers.base import Carrier, Dial
from greenroom.api.carriers.callbook import CallBook
from greenroom.api.carriers.links import Links
from greenroom.api.carriers.rest import CarrierRefused, CarrierThrottled, CarrierUnavailable, Rest
from greenroom.api.waiters import Waiters
from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message
from greenroom.common.call_messages import DialPlan
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.consumer import Consumer, Retry, malformed
from greenroom.common.errors import GreenroomError, SessionNotFound
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Ended, Ending, Outcome, Session, State, Transition
from greenroom.common.reasons import Reason

_log = structlog.get_logger()

STREAM: Final = "DIALS"
CONSUMER: Final = "api-dials"
# A session that has waited for some time is looked at when it has waited for twice as long.
_SOON_S: Final = 0.2
# A look takes a millisecond of processor: 500 that wait take 2 % of a core.
_SELDOM_S: Final = 30.0
_LATER_S: Final = 1.0
# A request that was still being answered when its plan was written has become a session by then, or never will.
_GRACE: Final = timedelta(seconds=60)
# Calls that are being made at a time, by one instance.
_AT_ONCE: Final = 8
# What is listened for.
_DECIDED: Final = frozenset({State.READY, State.ENDING, State.ENDED})


class Dials:
    """Plans calls and makes them.

    Args:
        broker: keeps the plans.
        ledger: says which sessions are ready.
        waiters: say it at once.
        book: notes which calls were made.
        links: makes the addresses that carriers ask.
        rest: asks the carriers.
        carriers: by name.
        clock: says how old a plan is.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        ledger: Ledger,
        waiters: Waiters,
        book: CallBook,
        links: Links,
        rest: Rest,
        carriers: Mapping[str, Carrier],
        clock: Clock | None = None,
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._waiters = waiters
        self._book = book
        self._links = links
        self._rest = rest
        self._carriers = carriers
        self._clock = clock or SystemClock()
        self._listening: set[asyncio.Task[None]] = set()

    async def plan(
        self,
        carrier: Carrier,
        session: Session,
        *,
        to: str,
        caller: str,
        ring_timeout_s: int,
        machine_detection: bool,
        origin: str,
    ) -> None:
        """Have somebody called when a session is ready; see `adapter.CallOptions`. Raises `BrokerUnavailable`."""
        plan = DialPlan(
            carrier=carrier.name,
            tenant=session.tenant,
            session_id=session.id,
            to=to,
            caller=caller,
            ring_timeout_s=ring_timeout_s,
            machine_detection=machine_detection,
            origin=origin,
            at=self._clock.now(),
        )
        await self._append(plan, "")

    async def _append(self, plan: DialPlan, occasion: str) -> None:
        subject = subjects.DIAL.format(carrier=plan.carrier)
        # Each time anew: the plan of an earlier try may have been forgotten by now, as one of a session that never was.
        msg_id = f"dial-{plan.session_id}-{plan.at.timestamp():.6f}{occasion}"
        await self._broker.append(subject, messages.encode(plan), msg_id=msg_id)

    async def run(self) -> None:
        """Call whoever is due, until canceled."""
        turn = asyncio.Lock()
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in range(_AT_ONCE):
                    consumer = Consumer(
                        self._broker, STREAM, CONSUMER, decode=_decode, handle=self._handle, max_batch=1, turn=turn
                    )
                    tasks.create_task(consumer.run_once_there(), name=f"dials-{number}")
        finally:
            for listening in self._listening:
                listening.cancel()
            await asyncio.gather(*self._listening, return_exceptions=True)

    async def _handle(self, plans: Sequence[DialPlan]) -> None:
        for plan in plans:
            await self._carry_out(plan)

    async def _carry_out(self, plan: DialPlan) -> None:
        entry = await self._ledger.last(plan.tenant, plan.session_id)
        age = self._clock.now() - plan.at
        match entry.session.state if entry else None:
            case State.READY:
                await self._dial(plan)
            case State.ENDING | State.ENDED:
                return
            case None if age > _GRACE:
                return
            case _:
                again_s = min(max(age.total_seconds(), _SOON_S), _SELDOM_S)
                listening = asyncio.create_task(self._listen(plan, again_s), name="dial when ready")
                self._listening.add(listening)
                listening.add_done_callback(self._listening.discard)
                # It waits alone: the next one may be of a session that is ready.
                raise Retry(again_s, only=[plan])

    async def _listen(self, plan: DialPlan, for_s: float) -> None:
        """Have a plan come at once when its session is ready, if that is within some time."""
        # It comes by itself.
        with contextlib.suppress(GreenroomError):
            async with self._waiters.watch(plan.tenant, plan.session_id, _DECIDED) as watch:
                # Again: it may have become ready before anybody listened.
                entry = await self._ledger.last(plan.tenant, plan.session_id)
                if entry is None or entry.session.state not in _DECIDED:
                    entry = await watch.newer(entry.revision if entry else 0, for_s)
            if entry is not None and entry.session.state is State.READY:
                # Whichever of the two comes later finds the call made; so does that of another instance.
                await self._append(plan, "-ready")

    async def _dial(self, plan: DialPlan) -> None:
        carrier = self._carriers.get(plan.carrier)
        if carrier is None:
            # Another instance may have its settings; if none has, the session ends when nobody comes.
            raise Retry(_LATER_S, only=[plan])
        stream_url = await self._links.stream(carrier, plan.origin, plan.tenant, plan.session_id)
        if not await self._book.dialling(plan.carrier, plan.tenant, plan.session_id, origin=plan.origin):
            return
        status_url, answer_url, machine_url = (
            self._links.webhook(carrier, plan.origin, plan.tenant, plan.session_id, what)
            for what in ("status", "answer", "machine")
        )
        wanted = Dial(
            to=plan.to,
            caller=plan.caller,
            answer_url=answer_url,
            status_url=status_url,
            machine_url=machine_url if plan.machine_detection else None,
            stream_url=stream_url,
            ring_timeout_s=plan.ring_timeout_s,
        )
        try:
            answer = await self._rest.must(plan.carrier, carrier.dial(wanted))
        except CarrierThrottled as error:
            await self._book.not_dialled(plan.session_id)
            raise Retry(error.retry_after_s or _LATER_S) from error
        except (CarrierRefused, CarrierUnavailable) as error:
            _log.warning("dial_failed", carrier=plan.carrier, session_id=plan.session_id, code=error.code)
            await self._end(plan, error.detail)
            return
        call_id = carrier.dialled(answer)
        _log.info("dialled", carrier=plan.carrier, session_id=plan.session_id, call_id=call_id)
        if call_id:
            await self._book.learn(plan.session_id, call_id=call_id)

    async def _end(self, plan: DialPlan, detail: str) -> None:
        try:
            await self._ledger.move(plan.tenant, plan.session_id, lambda session: failed(session, detail))
        except SessionNotFound:
            return


def failed(session: Session, detail: str) -> Transition | None:
    """Return how a session ends whose call the carrier doesn't put through; None: it ends already."""
    match session.state:
        case State.ENDING | State.ENDED:
            return None
        case State.REQUESTED:
            kind = Ended
        case _:
            kind = Ending
    return kind(
        by="api", epoch=session.epoch, outcome=Outcome.FAILED, reason=Reason.CALL_NOT_PUT_THROUGH, detail=detail
    )


def _decode(message: Message) -> DialPlan:
    try:
        return messages.decode(message.data, DialPlan)
    except msgspec.MsgspecError as error:
        raise malformed(error) from error
