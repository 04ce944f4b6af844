"""Answers carriers: a call that comes in gets a session with a slot, and is connected; or waits; or is refused.

    webhook      of                     answered with
    answer       a call that came in    connect, once its session has a slot; hold or refuse while it has none
    answer       a call we made         connect: its session is ready, or nobody would have been called
    status       any call               nothing; told as an event, and the end of a call ends its session
    machine      a call we made         nothing; told as an event
    transfer     one to be handed over  put through to whom it was handed over to

One call has one session, whoever of our instances is asked, and however often: its id is given out once (`CallBook`),
and everything from there on is idempotent. A call that is held asks again every few seconds, and its session keeps its
place in the queue meanwhile. An outage of ours is an error of HTTP, so that the carrier takes its fallback; so is an
answer that isn't there while the carrier still waits.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

import structlog

from greenroom.api.agents import Agents
from greenroom.api.auth import Caller
from greenroom.api.carriers import xml
from greenroom.api.carriers.adapter import CarrierAdapter
from greenroom.api.carriers.base import Call, CallNews, Carrier, Document, Webhook
from greenroom.api.carriers.callbook import CallBook
from greenroom.api.carriers.ends import hung_up, line_busy
from greenroom.api.carriers.events import publish
from greenroom.api.carriers.in_time import AnswerTimedOut, Asking, InTime
from greenroom.api.carriers.links import WEBHOOKS, Links
from greenroom.api.carriers.references import dereference
from greenroom.api.carriers.rest import CarrierRefused, CarrierUnavailable
from greenroom.api.phone_numbers import Number, Numbers
from greenroom.api.schemas import CreateSession, LimitsWish
from greenroom.api.sessions import Sessions
from greenroom.api.transports.base import Asked, TransportUnavailable
from greenroom.api.waiters import Waiters
from greenroom.common.broker import Broker
from greenroom.common.call_messages import CallRecord
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import NotFound, SessionNotFound, TenantSuspended
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Session, State, Transition
from greenroom.common.messages import EventType
from greenroom.common.metrics import Metrics

_log = structlog.get_logger()

_PLACED: Final = frozenset({State.LEASED, State.STARTED, State.READY})
_OVER: Final = frozenset({State.ENDING, State.ENDED})
# What a session may wait in the queue after its call was held for as long as it may be.
_SLACK_S: Final = 5.0

# What an answer is called in the metrics, and the answer.
type Answer = tuple[str, Document]


class Calls:
    """All that carriers ask and tell.

    Args:
        adapters: of the carriers that this installation is set up with, by name.
        numbers: says who answers.
        book: which session a call has.
        in_time: answers while the carrier waits.
        links: addresses for carriers.
        sessions: makes sessions.
        agents: say how long their sessions wait.
        ledger: their states.
        waiters: waits for slots.
        broker: takes events.
        answer_s: how long a call may wait for a slot before it is held or refused.
        hold_pause_s: how long one that is held waits before it asks again.
        metrics: counts calls.
        clock: says what is too old.
    """

    def __init__(
        self,
        *,
        adapters: Mapping[str, CarrierAdapter],
        numbers: Numbers,
        book: CallBook,
        in_time: InTime,
        links: Links,
        sessions: Sessions,
        agents: Agents,
        ledger: Ledger,
        waiters: Waiters,
        broker: Broker,
        answer_s: float,
        hold_pause_s: int,
        metrics: Metrics,
        clock: Clock | None = None,
    ) -> None:
        self._adapters = adapters
        self._numbers = numbers
        self._book = book
        self._in_time = in_time
        self._links = links
        self._sessions = sessions
        self._agents = agents
        self._ledger = ledger
        self._waiters = waiters
        self._broker = broker
        self._answer_s = answer_s
        self._hold_pause_s = hold_pause_s
        self._clock = clock or SystemClock()
        self._answered = metrics.counter("calls_answered", "Answers to carriers' calls", ["carrier", "answer"])

    async def verified(self, name: str, webhook: Webhook) -> CarrierAdapter:
        """Return the carrier that a webhook is from.

        Raises:
            TransportUnavailable: this installation isn't set up for it.
            WebhookUnsigned: it isn't from it.
            WebhookReplayed: it is too old, or was seen before with another content.
            BrokerUnavailable: that can't be told now.
        """
        adapter = self._adapter(name)
        await self._verify(adapter, webhook)
        return adapter

    def _adapter(self, name: str) -> CarrierAdapter:
        adapter = self._adapters.get(name)
        if adapter is None:
            raise TransportUnavailable(f"This installation isn't set up for {name[:32]}.")
        return adapter

    async def _verify(self, adapter: CarrierAdapter, webhook: Webhook) -> None:
        nonce = adapter.carrier.verify(webhook, self._clock.now())
        if nonce:
            await self._book.once(adapter.name, nonce, webhook.url, webhook.body)

    # ------------------------------------------------------------------------ answer

    async def answer(self, name: str, webhook: Webhook, reference: str | None, origin: str) -> Document:
        """Answer for a call: one that came in, or (with a reference) one that we made and somebody has picked up.

        Raises:
            TransportUnavailable, WebhookUnsigned, WebhookReplayed: as `verified`.
            WebhookMalformed: it doesn't say which call.
            NotFound: there is no such reference.
            AnswerTimedOut: it took longer than the carrier waits.
            GreenroomError: not now.
        """
        adapter = self._adapter(name)
        asking = Asking(adapter.carrier.answer_within_s)
        answer, document = await self._in_time.answer(
            asking, self._answer(adapter, webhook, reference, origin, asking=asking)
        )
        self._answered.inc(carrier=name, answer=answer)
        return document

    async def _answer(
        self, adapter: CarrierAdapter, webhook: Webhook, reference: str | None, origin: str, *, asking: Asking
    ) -> Answer:
        await self._verify(adapter, webhook)
        if reference is None:
            return await self._answer_incoming(adapter, webhook, origin, asking)
        return await self._answer_dialled(adapter, webhook, reference, origin)

    async def _answer_incoming(self, adapter: CarrierAdapter, webhook: Webhook, origin: str, asking: Asking) -> Answer:
        carrier = adapter.carrier
        call = carrier.call(webhook)
        number = await self._numbers.find(carrier.name, call.called)
        if number is None:
            _log.warning("call_to_unknown_number", carrier=carrier.name, call_id=call.call_id)
            return "unknown-number", carrier.refuse("")
        record = await self._book.of_call(carrier.name, call.call_id) or await self._book.claim(
            carrier.name, call.call_id, number.tenant, uuid7(), origin=origin
        )
        asking.record = record
        if asking.over:
            raise AnswerTimedOut
        try:
            await self._place(adapter, record, number, call, origin)
        except TenantSuspended:
            return "refused", carrier.refuse(number.busy_text)
        session = (await self._wait(record, asking.left_s(self._answer_s))).session
        if session.state in _PLACED:
            stream_url = await self._links.stream(carrier, origin, record.tenant, record.session_id)
            return "connected", carrier.connect(stream_url)
        if session.state is State.REQUESTED and self._may_hold(number, carrier, record):
            again_url = f"{origin}{WEBHOOKS}/{carrier.name}/answer"
            return "held", carrier.hold(number.hold_text, again_url, self._hold_pause_s)
        # Nothing to one that a limit has refused.
        await self._move(record, line_busy)
        return "refused", carrier.refuse(number.busy_text)

    async def _answer_dialled(self, adapter: CarrierAdapter, webhook: Webhook, reference: str, origin: str) -> Answer:
        carrier = adapter.carrier
        record = await self._referred(carrier, reference)
        call_id = carrier.call(webhook).call_id
        await self._book.learn(record.session_id, call_id=call_id)
        entry = await self._ledger.last(record.tenant, record.session_id)
        if entry is None or entry.session.state in _OVER:
            return "late", carrier.refuse("")
        await publish(
            self._broker, entry.session, EventType.CALL_STATUS, {"status": "answered", "call_id": call_id}, self._clock
        )
        stream_url = await self._links.stream(carrier, origin, record.tenant, record.session_id)
        return "connected", carrier.connect(stream_url)

    async def put_through(self, adapter: CarrierAdapter, reference: str) -> Document:
        """Answer for a call that is being handed over, at a carrier that asks to whom.

        Raises:
            NotFound: there is no such reference, or its call isn't being handed over.
            BrokerUnavailable: that can't be told now.
        """
        known = await self._book.of_session((await self._referred(adapter.carrier, reference)).session_id)
        if known is None or not known.transfer_to:
            raise NotFound
        self._answered.inc(carrier=adapter.name, answer="transferred")
        return adapter.carrier.put_through(known.transfer_to)

    async def _place(
        self, adapter: CarrierAdapter, record: CallRecord, number: Number, call: Call, origin: str
    ) -> None:
        name = adapter.name
        # The tenant's own doing: whoever has the number has said what is to be done with calls to it.
        caller = Caller(tenant=record.tenant, key_id=f"{name}:{number.number}", scopes=frozenset(), secret=b"")
        patience_s = number.hold_s if number.at_busy == "hold" else adapter.carrier.answer_within_s
        known = await self._agents.get(record.tenant, number.agent)
        wish = CreateSession(
            agent=number.agent,
            transport=name,
            body=number.body,
            # The carrier waits for an answer, not for a call that is under way: that waits as the agent says.
            limits=LimitsWish(
                queue_timeout_s=patience_s + _SLACK_S, requeue_timeout_s=known.agent.limits.second_wait_s
            ),
            carrier=name,
            number=number.number,
        )
        with adapter.incoming(record.session_id, call):
            await self._sessions.place(Asked(caller=caller, origin=origin), wish, record.session_id)

    async def _wait(self, record: CallRecord, timeout_s: float) -> Entry:
        states = _PLACED | _OVER
        async with self._waiters.watch(record.tenant, record.session_id, states) as watch:
            entry = await self._ledger.last(record.tenant, record.session_id)
            if entry is None:
                raise SessionNotFound
            return await self._waiters.wait(watch, entry, lambda session: session.state in states, timeout_s)

    def _may_hold(self, number: Number, carrier: Carrier, record: CallRecord) -> bool:
        waited = self._clock.now() - record.at
        return number.at_busy == "hold" and carrier.holds and waited < timedelta(seconds=number.hold_s)

    # ------------------------------------------------------------------------ told

    async def status(self, adapter: CarrierAdapter, webhook: Webhook, reference: str | None) -> Document:
        """Note how a call stands; at its end, end its session.

        Raises:
            WebhookMalformed: it doesn't say.
            NotFound: there is no such reference.
            BrokerUnavailable: it isn't noted, and is to be told again.
        """
        news = adapter.carrier.news(webhook)
        record = await self._record(adapter.carrier, news.call, reference)
        if record is None:
            _log.info("status_of_unknown_call", carrier=adapter.name, call_id=news.call.call_id)
            return xml.nothing()
        over = news.status is not None and news.status.final
        await self._book.learn(record.session_id, call_id=news.call.call_id, over=over)
        entry = await self._ledger.last(record.tenant, record.session_id)
        if entry is not None:
            await publish(self._broker, entry.session, EventType.CALL_STATUS, _data(news), self._clock)
        if over:
            await self._move(record, lambda session: hung_up(session, news))
        elif entry is None or entry.session.ended:
            await self._hang_up(adapter, record)
        return xml.nothing()

    async def _hang_up(self, adapter: CarrierAdapter, record: CallRecord) -> None:
        """End a call that goes on without its session: when that ended, nobody knew the call's id yet."""
        try:
            await adapter.release(record.tenant, record.session_id, {})
        except (CarrierRefused, CarrierUnavailable) as error:
            # Its next webhook is the next try; whoever picks up is let go.
            _log.warning("hang_up_failed", carrier=adapter.name, session_id=record.session_id, code=error.code)

    async def machine(self, adapter: CarrierAdapter, webhook: Webhook, reference: str) -> Document:
        """Note who has picked up.

        Raises:
            NotFound: there is no such reference.
            BrokerUnavailable: it isn't noted, and is to be told again.
        """
        record = await self._referred(adapter.carrier, reference)
        found = adapter.carrier.answered_by(webhook)
        entry = await self._ledger.last(record.tenant, record.session_id)
        if found is not None and entry is not None:
            by, told = found
            await publish(
                self._broker, entry.session, EventType.CALL_ANSWERED_BY, {"by": by, "told": told}, self._clock
            )
        return xml.nothing()

    async def _record(self, carrier: Carrier, call: Call, reference: str | None) -> CallRecord | None:
        if reference is not None:
            return await self._referred(carrier, reference)
        return await self._book.of_call(carrier.name, call.call_id)

    async def _referred(self, carrier: Carrier, reference: str) -> CallRecord:
        found = dereference(carrier.secret, reference)
        if found is None:
            raise NotFound
        tenant, session_id = found
        return CallRecord(carrier=carrier.name, tenant=tenant, session_id=session_id, at=self._clock.now())

    async def _move(self, record: CallRecord, decide: Callable[[Session], Transition | None]) -> None:
        try:
            await self._ledger.move(record.tenant, record.session_id, decide)
        except SessionNotFound:
            return


def _data(news: CallNews) -> dict[str, Any]:
    data: dict[str, Any] = {
        "status": news.status.value if news.status is not None else "unknown",
        "told": news.told,
        "call_id": news.call.call_id,
    }
    if news.cause:
        data["cause"] = news.cause
    if news.duration_s is not None:
        data["duration_s"] = news.duration_s
    return data
