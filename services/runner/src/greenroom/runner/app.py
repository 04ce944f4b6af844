"""The shell of the runner: what it is told, what it tells, and the one timer that all deadlines hang on."""

import asyncio
import contextlib
import functools
import math
from typing import Final

import msgspec
import structlog
from opentelemetry.trace import SpanContext

from greenroom.common import subjects
from greenroom.common.broker import Broker, Message
from greenroom.common.clock import Clock
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Session
from greenroom.common.messages import (
    BotOffer,
    Done,
    Heartbeat,
    StartAnswer,
    StartRefused,
    StartSession,
    decode,
    encode,
)
from greenroom.common.telemetry import span_context_of
from greenroom.runner import orders
from greenroom.runner.bot_versions import fitting
from greenroom.runner.closing_time import ClosingTime
from greenroom.runner.control import Assign, ToSession
from greenroom.runner.guard import Guard
from greenroom.runner.handover import first_of
from greenroom.runner.heartbeats import Heartbeats
from greenroom.runner.instruments import Instruments
from greenroom.runner.isolation.callout import Issuer
from greenroom.runner.isolation.secrets import Secrets
from greenroom.runner.load import HostLoad
from greenroom.runner.orders import Order, Orders
from greenroom.runner.processes import SessionProcess
from greenroom.runner.reports import Reports
from greenroom.runner.running import Parts, RunningSession
from greenroom.runner.settings import RunnerSettings, default_slots
from greenroom.runner.sizing import Sizing
from greenroom.runner.slots import Key, Slots, Step
from greenroom.runner.standby import StandbyPool
from greenroom.runner.supervisor import NoProcess, Supervisor

_log = structlog.get_logger()

# How often the processes of sessions are looked at.
_LOOK_AT_PROCESSES_S: Final = 1.0
# Ledger messages of a session's own subject come at once; this is for those that were missed in an outage.
_LOOK_S: Final = 5.0


class Runner:
    """See the module.

    Args:
        settings: of the runner.
        broker: connected.
        ledger: on it.
        supervisor: makes processes; its `on_change` is taken over.
        clock: time.
        instruments: what is counted and measured.
        secrets: of the bots; None: there are none.
        issuer: of logins for sessions; None: they use the runner's.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        *,
        broker: Broker,
        ledger: Ledger,
        supervisor: Supervisor,
        clock: Clock,
        instruments: Instruments,
        secrets: Secrets | None = None,
        issuer: Issuer | None = None,
    ) -> None:
        self._orders = Orders()
        self._settings = settings
        self._broker = broker
        self._clock = clock
        self._instruments = instruments
        self._supervisor = supervisor
        self._secrets = secrets or Secrets({})
        self._issuer = issuer
        self._slots = Slots(settings.runner_id, settings.most_slots)
        self._sizing = Sizing(None if settings.slots == "auto" else settings.slots, default=default_slots())
        self._reports = Reports(broker, clock, folder=settings.reports_folder, runner_id=settings.runner_id)
        self._pool = StandbyPool(
            self._fork,
            self._standby_wanted,
            clock=clock,
            on_change=self._changed,
            most=self._standby_target,
            max_age_s=settings.standby_max_age_s,
        )
        self._parts = Parts(
            broker=broker,
            ledger=ledger,
            slots=self._slots,
            pool=self._pool,
            fork=self._fork,
            clock=clock,
            instruments=instruments,
            changed=self._changed,
            assign=self._assign,
            inherit=self._reports.inherit,
        )
        self._sessions: dict[Key, RunningSession] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._load = HostLoad(settings.thresholds, clock=clock, on_change=self._changed)
        self._guard = Guard(
            settings.watchdog_bounds,
            slots=self._slots,
            reports=self._reports,
            clock=clock,
            sessions=self._sessions.values,
            changed=self._changed,
            on_usage=self._sizing.note,
        )
        self._heartbeats = Heartbeats(settings, broker=broker, clock=clock, in_a_hurry=lambda: self._pool.in_a_hurry)
        self._timer = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._closing = ClosingTime(self._slots, self._empty, clock=clock, changed=self._changed)
        self._claim = settings.claimed
        supervisor.on_change = self._changed

    async def run(self) -> None:
        """Serve until canceled. Sessions that are left then end with their control sockets."""
        tokens = {"pool": self._settings.pool, "runner_id": self._settings.runner_id}
        serve, command = self._broker.serve, subjects.RUNNER_CMD
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._supervisor.run(), name="supervisor")
            tasks.create_task(self._pool.run(), name="standby")
            tasks.create_task(self._load.run(), name="load")
            tasks.create_task(self._secrets.follow(self._clock, self._changed), name="secrets")
            tasks.create_task(self._keep_time(), name="timer")
            tasks.create_task(self._reconcile(), name="reconcile")
            tasks.create_task(self._reports.run(), name="reports")
            tasks.create_task(self._guard.run(), name="guard")
            served = [
                await serve(command.format(name=name, **tokens), functools.partial(self._on_order, kind))
                for name, kind in orders.KINDS.items()
            ]
            if self._claim is None:
                served.append(await serve(command.format(name="start", **tokens), self._on_start))
            try:
                await self._heartbeats.send(self.heartbeat)
            finally:
                self._pool.close()
                for subscription in served:
                    await subscription.unsubscribe()

    # ------------------------------------------------------------------------ what it is told

    async def _on_start(self, message: Message) -> bytes:
        try:
            start = decode(message.data, StartSession)
        except msgspec.MsgspecError as error:
            return encode(self._refused(StartRefused(code="malformed", detail=str(error))))
        return encode(self.start(start, cause=span_context_of(message.headers)))

    def start(self, start: StartSession, *, cause: SpanContext | None = None) -> StartAnswer:
        """Decide on a start and, if it is taken, begin to carry it out; the answer doesn't wait for that.

        Args:
            start: the command.
            cause: the span that sent it.
        """
        decision = self._slots.offer(
            start.session,
            now=self._clock.monotonic(),
            at=self._clock.now(),
            bot=self._bot_of(start.session, self.offers),
            draining=self.draining,
            capacity=self._capacity(),
            # A runner that was launched for a session runs it: there is nobody else to do so.
            overload=self._load.overload if self._claim is None else None,
        )
        if isinstance(decision.answer, StartRefused):
            self._refused(decision.answer, session_id=start.session.id)
        if decision.held is not None and self._tasks is not None:
            before = self._sessions.get(decision.held.after) if decision.held.after else None
            session = RunningSession(
                start,
                decision.held,
                self._parts,
                predecessor=before.gone if before else None,
                cause=cause,
            )
            self._sessions[decision.held.key] = session
            self._empty.clear()
            self._instruments.starts.inc()
            self._tasks.create_task(self._see_through(decision.held.key, session), name=f"session {start.session.id}")
        self._changed()
        return decision.answer

    async def until_claimed(self, key: Key) -> bool:
        """Wait until the claim of a session that was started is in the ledger; return False if it won't be."""
        session = self._sessions.get(key)
        if session is None:
            return False
        await first_of(session.claimed.wait(), session.gone.wait())
        return session.claimed.is_set()

    async def until_empty(self) -> None:
        """Wait until no session is left here, and all that is to be said of them is published."""
        await self._empty.wait()
        await self._reports.flush(math.inf)

    async def _see_through(self, key: Key, session: RunningSession) -> None:
        try:
            await session.run()
        finally:
            del self._sessions[key]
            if not self._sessions:
                self._empty.set()

    def _refused(self, refusal: StartRefused, **ids: str) -> StartRefused:
        self._instruments.refusals.inc(code=refusal.code)
        _log.info("start_refused", code=refusal.code, detail=refusal.detail, **ids)
        return refusal

    async def _on_order(self, kind: type[Order], message: Message) -> bytes:
        order = orders.read(kind, message.data)
        return encode(order if isinstance(order, Done) else self.order(order))

    def order(self, order: Order) -> Done:
        """Follow an order; see `orders`. Sessions that run go on, whatever it is."""
        before = self.draining
        self._orders, done = orders.obey(self._orders, order, self._clock.monotonic())
        _log.info("runner_ordered", order=type(order).__name__.lower(), done=done.done, sessions=len(self._slots))
        self._drains_since(before)
        return msgspec.structs.replace(done, detail=done.detail or f"{len(self._slots)} sessions go on")

    # ------------------------------------------------------------------------ drain

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""
        return self._orders.drains(self._supervisor.offers)

    def begin_drain(self, reason: str) -> None:
        """Take nothing new, from now on until the end. What runs goes on, for as long as it wants to."""
        before = self.draining
        self._orders = orders.stop(self._orders)
        self._pool.close()
        _log.info("runner_stops", reason=reason, sessions=len(self._slots))
        self._drains_since(before)

    def _drains_since(self, before: bool) -> None:  # noqa: FBT001 whether it drained before
        if self.draining and not before:
            _log.info("runner_draining", sessions=len(self._slots))
            self._pool.release()
        self._changed()

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new and return when every session is over and written down, after `timeout_s` at most."""
        self.begin_drain("stopping")
        deadline = self._clock.monotonic() + timeout_s
        await self._closing.drain(timeout_s)
        # What sessions have left to us goes out with us.
        if left := await self._reports.flush(max(deadline - self._clock.monotonic(), 0.0)):
            _log.error("reports_given_up", messages=left)

    def end_all(self) -> None:
        """End all sessions now, in order."""
        self._closing.end_all()

    # ------------------------------------------------------------------------ what is due

    def _changed(self) -> None:
        """Take the steps that are due, and tell of what is new."""
        for due in self._slots.due(now=self._clock.monotonic(), at=self._clock.now()):
            session = self._sessions.get(due.key)
            if session is not None:
                if due.step is Step.TERMINATE:
                    self._guard.stuck(session)
                session.obey(due)
        self._timer.set()
        self._heartbeats.changed()
        self._pool.wake()
        self._instruments.slots.set(self._capacity())
        self._instruments.sessions.set(len(self._slots))
        self._instruments.standby.set(self._pool.ready)
        self._instruments.restarts.set(self._supervisor.restarts)

    async def _keep_time(self) -> None:
        while True:
            self._timer.clear()
            when = self._slots.next_due()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if when is None else max(when - self._clock.monotonic(), 0.0)):
                    await self._timer.wait()
                    continue
            self._changed()

    async def _reconcile(self) -> None:
        """Read what others may have written about our sessions while we were cut off, and see whose loop hangs."""
        was_connected, look_at = True, 0.0
        while True:
            await self._clock.sleep(_LOOK_AT_PROCESSES_S)
            now, connected = self._clock.monotonic(), self._broker.connected
            self._sizing.look(now)
            self._sizing.forget(frozenset(self._sessions))
            for session in self._sessions.values():
                session.check_silence(now)
            if connected and (not was_connected or now >= look_at):
                look_at = now + _LOOK_S
                for session in self._sessions.values():
                    session.look()
            was_connected = connected

    # ------------------------------------------------------------------------ processes

    async def _fork(self, first: ToSession | None = None) -> SessionProcess:
        began = self._clock.monotonic()
        try:
            process = await self._supervisor.fork(first)
        except NoProcess:
            self._instruments.forks.inc(result="failed")
            raise
        self._instruments.forks.inc(result="forked")
        self._instruments.fork.observe(self._clock.monotonic() - began)
        return process

    def _standby_wanted(self) -> int:
        if self.draining or not self._supervisor.available:
            return 0
        return max(min(self._standby_target(), self._capacity() - len(self._slots)), 0)

    def _standby_target(self) -> int:
        own, most = self._settings.standby_target, self._settings.most_slots
        return self._orders.standby_target(own, most=most, now=self._clock.monotonic())

    def _capacity(self) -> int:
        """Return how many sessions can be held now: those there are, where no process for another can be had."""
        source = self._supervisor.available or self._pool.ready > 0
        held = len(self._slots)
        if not source:
            return held
        return self._sizing.slots(held=held, offered=tuple(bot.name for bot in self.offers if bot.error is None))

    # ------------------------------------------------------------------------ what it tells

    def heartbeat(self) -> Heartbeat:
        """Return what there is to tell now."""
        return self._heartbeats.next(
            slots=self._capacity(),
            density=self._sizing.densities(),
            sessions=self._slots.sessions(),
            standby=self._pool.ready,
            draining=self.draining,
            bots=self.offers,
            load=self._load.sample(),
            brake=self._load.brake,
        )

    @property
    def offers(self) -> tuple[BotOffer, ...]:
        """The bots, those that can't run here included; not those that were withdrawn."""
        return tuple(self._secrets.marked(offer) for offer in self._orders.offers(self._supervisor.offers))

    def _bot_of(self, session: Session, offers: tuple[BotOffer, ...]) -> BotOffer | None:
        """Return a session's bot in its version, if that is one of these; what was withdrawn is none that fits, too."""
        versions = {offer.version for offer in self._supervisor.offers if offer.name == session.bot}
        found = session.bot, fitting(versions, session.agent_version)
        return next((offer for offer in offers if (offer.name, offer.version) == found), None)

    def _assign(self, session: Session) -> Assign:
        bot = self._bot_of(session, self._supervisor.offers)
        needed = bot.secrets if bot else ()
        broker = self._issuer.url_for(self._settings.nats_url, session) if self._issuer else ""
        return Assign(session=session, secrets=self._secrets.of(needed), broker=broker)
