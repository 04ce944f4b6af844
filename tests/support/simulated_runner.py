"""A runner as the scheduler sees it: heartbeats, answers to `start`, claims in the ledger; no processes."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Self

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message, Subscription
from greenroom.common.clock import Clock
from greenroom.common.errors import GreenroomError
from greenroom.common.ids import uuid7
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import (
    Ended,
    Ending,
    Leased,
    Outcome,
    Ready,
    Requested,
    Requeued,
    Session,
    Started,
    State,
)
from greenroom.common.messages import (
    BotOffer,
    Heartbeat,
    HeldSession,
    StartAccepted,
    StartAnswer,
    StartRefused,
    StartSession,
)
from greenroom.common.telemetry import TRACEPARENT

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

# Returns what to answer to a start request instead of looking for a slot; None: nothing special.
type Whim = Callable[[StartSession], StartAnswer | None]


class Silence(Exception):
    """Raised by a whim: the request was never heard, and there is no answer."""


class SimulatedRunner:
    """Runs sessions by waiting.

    Args:
        broker: its own connection.
        clock: time.
        runner_id: its id.
        slots: how many sessions it takes.
        call_s: how long each lasts; None: until it is stopped.
        start_s: how long each takes from the claim to `ready`.
        version: of the agents of all its bots; `bots` among the fields goes before it.
        whim: see there.
        fields: further fields of its heartbeats, e.g. `labels`.

    Attributes:
        draining: whether it takes nothing new.
        brake: why nothing more should be placed here; it is told, and nothing else comes of it.
        overload: why it refuses starts now.
        left: set when a runner with a claim is gone; `served` tells whether it has run its session.
    """

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        runner_id: str = "r1",
        *,
        slots: int = 4,
        call_s: float | None = None,
        start_s: float = 0.0,
        version: int = 1,
        whim: Whim = lambda _: None,
        **fields: Any,
    ) -> None:
        self.id = runner_id
        self.draining = False
        self.brake: str | None = fields.pop("brake", None)
        self.overload: str | None = None
        self.left = asyncio.Event()
        self.served = False
        # Every session it started, with the epoch, in order; and how many it held at once at most.
        self.started: list[tuple[str, int]] = []
        self.most = 0
        # When it was asked to start something, and in which trace.
        self.asked_at: list[datetime] = []
        self.traceparents: list[str | None] = []
        self.held: dict[str, HeldSession] = {}
        self._broker = broker
        self._ledger = Ledger(broker, clock=clock)
        self._clock = clock
        self._slots = slots
        self._call_s = call_s
        self._start_s = start_s
        self._whim = whim
        bots = (BotOffer(name="echo", version=version),)
        self._fields: dict[str, Any] = {"pool": "default", "bots": bots, "standby": 1} | fields
        self._claim: tuple[str, str, int] | None = None
        self._warm_s = 0.0
        self._began = clock.now()
        self._seq = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscriptions: list[Subscription] = []

    @classmethod
    def cold(
        cls, broker: Broker, clock: Clock, *, tenant: str, session_id: str, epoch: int, warm_s: float = 0.0, **more: Any
    ) -> Self:
        """Return a runner that was launched for one session: it claims that one, if it can, and leaves.

        Args:
            broker: its own connection.
            clock: time.
            tenant: whose session.
            session_id: which.
            epoch: of the lease.
            warm_s: how long it takes from its first heartbeat until it could begin.
            more: as for any runner.
        """
        claim = f"{session_id}-{epoch}"
        runner = cls(broker, clock, f"cold-{claim}", slots=0, standby=0, claim=claim, **more)
        runner._claim, runner._warm_s = (tenant, session_id, epoch), warm_s
        return runner

    @property
    def pool(self) -> str:
        """The pool it is in."""
        return str(self._fields["pool"])

    async def start(self) -> None:
        """Begin to send heartbeats and to take sessions."""
        if self._claim is None:
            command = subjects.RUNNER_CMD.format(pool=self.pool, runner_id=self.id, name="start")
            self._subscriptions.append(await self._broker.subscribe(command, self._asked))
        await self.beat()
        self._spawn(self._beat_on())
        if self._claim is not None:
            self._spawn(self._serve_claim(*self._claim))

    async def kill(self) -> None:
        """Be gone, as after SIGKILL: no goodbye, and no process is left."""
        for task in self._tasks:
            task.cancel()
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self.held.clear()

    def forget(self, session_id: str) -> None:
        """Lose a session without a word."""
        del self.held[session_id]

    async def end(self, session_id: str) -> None:
        """End a session that it holds, in order."""
        held = self.held.pop(session_id)
        ended = Ended(by="runner", epoch=held.epoch, outcome=Outcome.COMPLETED, reason="goodbye")
        await self._ledger.move(held.tenant, session_id, lambda _: ended)
        await self.beat()

    async def beat(self) -> None:
        """Send a heartbeat."""
        self._seq += 1
        heartbeat = Heartbeat(
            runner_id=self.id,
            at=self._clock.now(),
            seq=self._seq,
            slots=self._slots,
            sessions=tuple(self.held.values()),
            draining=self.draining,
            started_at=self._began,
            brake=self.brake,
            **self._fields,
        )
        subject = subjects.RUNNER_HEARTBEAT.format(pool=self.pool, runner_id=self.id)
        await self._broker.publish(subject, messages.encode(heartbeat))

    async def _beat_on(self) -> None:
        while True:
            await self._clock.sleep(1.0)
            if self.left.is_set():
                return
            try:
                await self.beat()
            except GreenroomError:
                continue  # the broker is away: a runner lives on

    async def _asked(self, message: Message) -> None:
        request = messages.decode(message.data, StartSession)
        self.asked_at.append(self._clock.now())
        self.traceparents.append(message.headers.get(TRACEPARENT))
        try:
            answer = self._whim(request) or self._take(request)
        except Silence:
            return
        await self._broker.publish(message.reply, messages.encode(answer))

    def _take(self, request: StartSession) -> StartAnswer:
        session = request.session
        known = self.held.get(session.id)
        if known is not None and known.epoch == session.epoch:
            return StartAccepted(session_id=session.id, epoch=session.epoch)
        if self.draining:
            return StartRefused(code="draining")
        offers = {offer.name: offer.version for offer in self._fields["bots"]}
        if 1 not in (version := {session.agent_version, offers.get(session.bot, 1)}) and len(version) > 1:
            return StartRefused(code="bot-unknown")
        if len(self.held) >= self._slots:
            return StartRefused(code="no-slot")
        if self.overload is not None:
            return StartRefused(code="overloaded", detail=self.overload)
        self._hold(session)
        self._spawn(self._run(session, request.revision))
        return StartAccepted(session_id=session.id, epoch=session.epoch)

    def _hold(self, session: Session) -> None:
        self.held[session.id] = HeldSession(
            session_id=session.id,
            tenant=session.tenant,
            epoch=session.epoch,
            phase=State.STARTED,
            since=self._clock.now(),
        )
        self.most = max(self.most, len(self.held))

    async def _serve_claim(self, tenant: str, session_id: str, epoch: int) -> None:
        await self._clock.sleep(self._warm_s)
        self._slots = 1
        try:
            await self.beat()
            entry = await self._ledger.last(tenant, session_id)
            if entry is not None and self._may_claim(entry.session, epoch):
                await self._claim_it(entry)
        except Silence:
            return  # it is up, and never gets round to it
        except GreenroomError:
            pass  # others were first, or the broker is away
        if not self.held:
            self.left.set()

    async def _claim_it(self, entry: Entry) -> None:
        session = entry.session
        if isinstance(self._whim(StartSession(session=session, revision=entry.revision)), StartRefused):
            back = Requeued(by="runner", epoch=session.epoch, reason="runner-refused", exclude_runner=False)
            await self._ledger.advance(entry, back)
            return
        self._hold(session)
        await self._run(session, entry.revision)
        self.served = bool(self.started)

    def _may_claim(self, session: Session, epoch: int) -> bool:
        return (session.state, session.runner_id, session.epoch) == (State.LEASED, self.id, epoch) and not self.draining

    async def _run(self, session: Session, revision: int) -> None:
        lease = Leased(runner_id=self.id, epoch=session.epoch, expires_at=self._clock.now())
        entry = Entry(session=session, transition=lease, at=self._clock.now(), revision=revision)
        try:
            entry = await self._ledger.advance(entry, Started(runner_id=self.id, epoch=session.epoch))
            self.started.append((session.id, session.epoch))
            if self._start_s:
                await self._clock.sleep(self._start_s)
            entry = await self._ledger.advance(entry, Ready(epoch=session.epoch))
            if self._call_s is None:
                return
            await self._clock.sleep(self._call_s)
            entry = await self._ledger.advance(entry, Ending(by="session", epoch=session.epoch, reason="goodbye"))
            ended = Ended(by="runner", epoch=session.epoch, outcome=Outcome.COMPLETED, reason="goodbye")
            self.held.pop(session.id, None)  # its process is gone before its end is written
            await self._ledger.advance(entry, ended)
        except GreenroomError:
            pass  # the lease is no longer the current one: whoever holds it now runs the session
        self.held.pop(session.id, None)
        await self.beat()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def request_session(ledger: Ledger, **fields: Any) -> Session:
    """Ask for a session of the bot `echo`, and return it."""
    known: dict[str, Any] = {"id": uuid7(), "tenant": "t", "agent": "a", "bot": "echo"} | fields
    # The times are the ledger's: it fills them in.
    session = Session(requested_at=_NEVER, queue_deadline_at=_NEVER, **known)
    return (await ledger.create(Requested(session=session))).session
