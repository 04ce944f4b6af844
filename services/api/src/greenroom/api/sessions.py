"""What can be done with sessions: ask for one, look at it, stop it."""

import asyncio
import hashlib
from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec
import structlog

from greenroom.api.agents import Agents, KnownAgent
from greenroom.api.auth import Caller
from greenroom.api.billing.budgets import SpendingFeed
from greenroom.api.canonical import canonical_number, canonical_room
from greenroom.api.ended_early import SessionEndedEarly
from greenroom.api.idempotency import Answered, Idempotency
from greenroom.api.insisting import Insisting
from greenroom.api.patience import ENDS, Gone, Patience, give_up, patience, unanswered, unless_gone
from greenroom.api.policy import PolicyPublisher
from greenroom.api.problem import Problem, render
from greenroom.api.scheduler_link import SchedulerLink
from greenroom.api.schemas import CreateSession, Queue, SessionView, session_view
from greenroom.api.store import Store
from greenroom.api.transports import Transports
from greenroom.api.transports.base import Asked
from greenroom.api.waiters import Waiters, Watch
from greenroom.common import bodies, telemetry
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import (
    BrokerUnavailable,
    FieldProblem,
    GreenroomError,
    InvalidBody,
    LedgerConflict,
    LedgerCorrupt,
    SchedulerUnavailable,
    SessionNotFound,
    TenantSuspended,
)
from greenroom.common.ids import is_uuid, uuid7
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Ended, Ending, Outcome, Requested, Session, State, Transition
from greenroom.common.reasons import Reason

_log = structlog.get_logger()

_CREATED: Final = 201
_ACCEPTED: Final = 202
_PATH: Final = "/v1/sessions"

# Fields that came after others had been stored with digests of requests: where they say nothing they are left out, so
# that a key which was used before an upgrade still fits its request.
_LATER: Final = (
    "transport_options",
    "requires",
    "prefers",
    "priority",
    "room",
    "carrier",
    "number",
    "accounts",
    "sticky_key",
    "user",
)
_FIRST_LIMITS: Final = (
    "queue_timeout_s",
    "start_timeout_s",
    "max_duration_s",
    "join_timeout_s",
    "end_timeout_s",
)
_PLAIN: Final[dict[str, Any]] = msgspec.to_builtins(CreateSession(agent="-"))


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a request for a session is answered with."""

    status: int
    body: bytes
    session_id: str
    # Of a problem: when to ask again, in seconds.
    retry_after_s: float | None = None
    # Whether it was answered before: nothing was done this time.
    replayed: bool = False

    @property
    def created(self) -> bool:
        """Whether there is a session behind it (rather than a problem)."""
        return self.status in {_CREATED, _ACCEPTED}


class Sessions:
    """The sessions of all tenants, as callers may use them."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: Store,
        agents: Agents,
        transports: Transports,
        idempotency: Idempotency,
        waiters: Waiters,
        scheduler: SchedulerLink,
        policy: PolicyPublisher,
        spending: SpendingFeed,
        clock: Clock | None = None,
    ) -> None:
        """Hold the parts."""
        self._ledger = ledger
        self._store = store
        self._agents = agents
        self._transports = transports
        self._idempotency = idempotency
        self._waiters = waiters
        self._scheduler = scheduler
        self._policy = policy
        self._spending = spending
        self._clock = clock or SystemClock()
        self._insisting = Insisting(self._clock)

    async def close(self) -> None:
        """Leave what isn't ended yet to its time limits."""
        await self._insisting.close()

    async def create(self, asked: Asked, wish: CreateSession, key: str | None, gone: Gone) -> Answer:
        """Ask for a session. Once this returns, it can't be lost.

        Args:
            asked: by whom.
            wish: what for.
            key: the `Idempotency-Key`.
            gone: returns when the caller's connection is closed. Without a key nobody will ever ask for the session
                then, so one that was waited for is stopped.

        Raises:
            TenantSuspended: it gets no new sessions.
            BodyTooLarge: the body has more than a million bytes.
            AgentNotFound, InvalidBody: the agent doesn't exist, doesn't take the transport or the body.
            IdempotencyMismatch: the key belongs to another request.
            SecretMissing: no runner of the pool has what the bot needs.
            TransportUnavailable: this installation isn't set up for the transport.
            GreenroomError: what else its preparation raises, and there is no session then; or what telling the way in
                raises. Without a key the session ends then, with one it stays for whoever repeats the request.
            SessionEndedEarly: it ended before it had come as far as was to be waited for.
            BrokerUnavailable: it isn't known whether the session exists; with a key, trying again is safe.
        """
        if key is None:
            agent = await self._agent(asked.caller, wish)
            view = await self._place(asked, wish, agent, uuid7(), gone)
            return await self._answer_or_end(asked, view)
        return await self._create_once(asked, wish, key)

    async def place(self, asked: Asked, wish: CreateSession, session_id: str) -> None:
        """Ask for the session of a call that is there already, under an id of the caller's choice.

        Nothing happens if the session exists. What becomes of it, a limit's refusal included, the ledger says: whoever
        has a carrier waiting knows how long that can be waited for.

        Raises:
            TenantSuspended: it gets no new sessions.
            AgentNotFound, InvalidBody: the agent doesn't exist, doesn't take the transport or the body.
            GreenroomError: what else its preparation raises.
        """
        if await self._ledger.last(asked.caller.tenant, session_id) is None:
            known = await self._takes(asked.caller, wish)
            session = self._session(asked.caller, wish, known, session_id)
            session, _ = await self._transports.prepare(asked, session, wish.transport_options)
            await self._request(session)

    async def find(self, tenant: str, session_id: str) -> Session:
        """Return a session: from the ledger while that has it, else from PostgreSQL.

        Raises:
            SessionNotFound: the tenant has none with this id.
            BrokerUnavailable, DatabaseUnavailable: that can't be told now.
            LedgerCorrupt: that can't be told from what stands in the ledger, and nothing was stored before.
        """
        if not is_uuid(session_id):
            raise SessionNotFound
        away: BrokerUnavailable | LedgerCorrupt | None = None
        try:
            entry = await self._ledger.last(tenant, session_id)
            if entry is not None:
                return entry.session
        except (BrokerUnavailable, LedgerCorrupt) as error:
            away = error
        stored = await self._store.session(tenant, session_id)
        if stored is None:
            raise away or SessionNotFound(f"There is no session {session_id}.")
        return stored.session

    async def view(self, tenant: str, session_id: str) -> SessionView:
        """Return a session as the caller sees it, with its place in the queue if it waits. Raises as `find`."""
        session = await self.find(tenant, session_id)
        return session_view(session, queue=await self._queue(session))

    async def stop(self, tenant: str, session_id: str, why: str | None) -> SessionView:
        """End a session: at once if it still waits, else in order; nothing happens to one that ends already.

        Raises:
            SessionNotFound: the tenant has none with this id.
            LedgerConflict, BrokerUnavailable: it isn't known whether it will end; trying again is safe.
            LedgerCorrupt: nobody can end it but its runner.
        """
        if not is_uuid(session_id):
            raise SessionNotFound
        try:
            entry = await self._ledger.move(tenant, session_id, lambda session: _stop(session, why))
        except SessionNotFound:
            return session_view(await self.find(tenant, session_id))
        return session_view(entry.session)

    async def _create_once(self, asked: Asked, wish: CreateSession, key: str) -> Answer:
        digest, caller = _digest(wish), asked.caller
        # Before anything is checked: what was answered once is answered again, even if the agent is gone by now.
        answered = await self._idempotency.answered(caller.tenant, key, digest)
        if answered is not None:
            return await self._replay(asked, answered)
        agent = await self._agent(caller, wish)
        begun = await self._idempotency.begin(caller.tenant, key, digest)
        if isinstance(begun, Answered):
            return await self._replay(asked, begun)
        try:
            view = await self._place(asked, wish, agent, begun.session_id, None)
            status, body = _encoded(view)
        except SessionEndedEarly as error:
            view, rendered = None, render(error, _PATH)
            status, body = rendered.status, rendered.body
        first = await self._idempotency.finish(caller.tenant, key, begun, status, body)
        if first is not None:
            return await self._replay(asked, first)
        if view is None:
            return refused(Answer(status=status, body=body, session_id=begun.session_id))
        return await self._answer(asked, view, (status, body))

    async def _agent(self, caller: Caller, wish: CreateSession) -> KnownAgent:
        known = await self._takes(caller, wish)
        self._transports.check(wish.transport, wish.transport_options)
        return known

    async def _takes(self, caller: Caller, wish: CreateSession) -> KnownAgent:
        if caller.tenant in self._policy.current.suspended:
            raise TenantSuspended
        # Before anything is looked up: nothing is begun for a body that nobody takes.
        size = len(bodies.encoded(wish.body))
        known = await self._agents.get(caller.tenant, wish.agent)
        if wish.transport not in known.agent.transports:
            takes = ", ".join(known.agent.transports)
            problem = FieldProblem(pointer="/transport", detail=f"The agent takes {takes}.")
            raise InvalidBody(f"/transport: {problem.detail}", errors=[problem])
        if size > bodies.INLINE_BYTES:
            # A schema looks at each value there is, which can take seconds.
            await asyncio.to_thread(known.check_body, wish.body)
        else:
            known.check_body(wish.body)
        self._agents.check_secrets(wish.pool or known.agent.pool, known.agent.bot)
        return known

    async def _place(
        self, asked: Asked, wish: CreateSession, known: KnownAgent, session_id: str, gone: Gone | None
    ) -> SessionView:
        session = self._session(asked.caller, wish, known, session_id)
        wanted = patience(wish, session, self._policy.current, unpaid=self._spending.refuses(session))
        async with AsyncExitStack() as watching:
            # Before the write: what it sets off may be quicker than we are.
            watch = None
            if wanted.states:
                watching_it = self._waiters.watch(session.tenant, session_id, wanted.states)
                watch = await watching.enter_async_context(watching_it)
            # The way first: a session that nobody can get into must not exist.
            session, transport = await self._transports.prepare(asked, session, wish.transport_options)
            entry = await self._request(session)
            if watch is not None:
                entry = await self._wait(watch, entry, wanted, gone if wanted.bound else None)
        now = entry.session
        if wanted.answers(now):
            return session_view(now, transport=transport)
        if now.state in ENDS:
            raise SessionEndedEarly(now)
        queue = await self._queue(now) or Queue(reason=now.state)
        return session_view(now, transport=transport, queue=queue)

    def _session(self, caller: Caller, wish: CreateSession, known: KnownAgent, session_id: str) -> Session:
        agent = known.agent
        room = wish.room if wish.room is not None else self._transports.room(wish.transport, wish.transport_options)
        return Session(
            id=session_id,
            tenant=caller.tenant,
            agent=agent.name,
            agent_version=agent.version,
            bot=agent.bot,
            pool=wish.pool or agent.pool,
            transport=wish.transport,
            body=wish.body,
            config=agent.config,
            recording=agent.recording,
            metadata=wish.metadata,
            limits=wish.limits.over(agent.limits),
            on_loss=wish.on_loss or agent.on_loss,
            requires=wish.requires,
            prefers=wish.prefers,
            priority=wish.priority,
            room=canonical_room(room) if room is not None else None,
            carrier=wish.carrier,
            number=canonical_number(wish.number) if wish.number is not None else None,
            # Each is counted once, in whatever order they are named.
            accounts=tuple(sorted(set(wish.accounts))),
            sticky_key=wish.sticky_key,
            user=wish.user,
            traceparent=telemetry.current_traceparent(),
            # Both are set anew by the ledger.
            requested_at=self._clock.now(),
            queue_deadline_at=self._clock.now(),
        )

    async def _wait(self, watch: Watch, entry: Entry, wanted: Patience, gone: Gone | None) -> Entry:
        waiting = self._waiters.wait(watch, entry, wanted.over, wanted.timeout_s)
        if gone is None:
            return await waiting
        found = await unless_gone(waiting, gone)
        if found is not None:
            return found
        session = entry.session
        _log.info("caller_gave_up", tenant=session.tenant, session_id=session.id)

        async def end() -> None:
            nonlocal session
            session = (await self._ledger.move(session.tenant, session.id, give_up)).session

        await self._insisting.end(end, session.id)
        # For the trace and the metrics: there is nobody to read it.
        raise SessionEndedEarly(session)

    async def _request(self, session: Session) -> Entry:
        try:
            return await self._ledger.create(Requested(session=session))
        except LedgerConflict:
            # A duplicate of this request, or one that died behind this point, was first.
            entry = await self._ledger.last(session.tenant, session.id)
            if entry is None:
                raise
            return entry

    async def _replay(self, asked: Asked, answered: Answered) -> Answer:
        answer = Answer(
            status=answered.status, body=bytes(answered.answer), session_id=answered.session_id, replayed=True
        )
        if not answer.created:
            return refused(answer)
        view = msgspec.json.decode(answer.body, type=SessionView)
        again = await self._answer(asked, view, (answer.status, answer.body), again=True)
        return msgspec.structs.replace(again, replayed=True)

    async def _answer_or_end(self, asked: Asked, view: SessionView) -> Answer:
        """Return the answer to a request without a key; if there is none, nobody will ever ask for the session."""
        try:
            return await self._answer(asked, view, _encoded(view))
        except GreenroomError as error:
            tenant, failed = asked.caller.tenant, error
            _log.warning("answer_failed", tenant=tenant, session_id=view.id, code=error.code)
            # What is wrong with that isn't what the caller has to hear of, nor a reason for the session to stay.
            await self._insisting.end(
                lambda: self._ledger.move(tenant, view.id, lambda session: unanswered(session, failed)), view.id
            )
            raise

    async def _answer(
        self, asked: Asked, view: SessionView, encoded: tuple[int, bytes], *, again: bool = False
    ) -> Answer:
        """Return the answer as it is sent: with the secrets, which aren't stored."""
        status, body = encoded
        transport = await self._transports.answer(asked, view.id, view.transport, again=again)
        if transport is not view.transport:
            body = msgspec.json.encode(msgspec.structs.replace(view, transport=transport))
        return Answer(status=status, body=body, session_id=view.id)

    async def _queue(self, session: Session) -> Queue | None:
        # With a cold lease it waits too: for its runner to be launched.
        if session.state is not State.REQUESTED and not (session.cold and session.state is State.LEASED):
            return None
        try:
            found = await self._scheduler.position(session.id)
        except SchedulerUnavailable as error:
            return Queue(reason=error.code)
        return Queue(position=found.position or None, of=found.of or None, reason=found.reason)


def _digest(wish: CreateSession) -> str:
    """Return what tells one request from another, however its JSON was written."""
    members: dict[str, Any] = msgspec.to_builtins(wish)
    members = {name: value for name, value in members.items() if name not in _LATER or value != _PLAIN[name]}
    members["limits"] = {
        name: value for name, value in members["limits"].items() if name in _FIRST_LIMITS or value is not None
    }
    return hashlib.sha256(msgspec.json.encode(members, order="sorted")).hexdigest()


def refused(answer: Answer) -> Answer:
    """Return a problem with its `Retry-After`, which is stored in its body only."""
    after_s = msgspec.json.decode(answer.body, type=Problem).retry_after_s
    return msgspec.structs.replace(answer, retry_after_s=after_s)


def _encoded(view: SessionView) -> tuple[int, bytes]:
    # Only a wait that ran out tells of the queue.
    return (_CREATED if view.queue is None else _ACCEPTED), msgspec.json.encode(view)


def _stop(session: Session, why: str | None) -> Transition | None:
    match session.state:
        case State.REQUESTED:
            return Ended(
                by="client",
                epoch=session.epoch,
                outcome=Outcome.CANCELED,
                reason=Reason.CLIENT_CANCELED,
                detail=why,
            )
        case State.LEASED | State.STARTED:
            outcome, reason = Outcome.CANCELED, Reason.CLIENT_CANCELED
        case State.READY:
            outcome, reason = Outcome.COMPLETED, Reason.CLIENT_STOP
        case State.ENDING | State.ENDED:
            return None
    return Ending(by="client", epoch=session.epoch, outcome=outcome, reason=reason, detail=why)
