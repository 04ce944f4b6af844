"""The runners that there really are, whatever the scheduler believes: slots, warm processes, and what they say."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final

import msgspec

from greenroom.common.lifecycle import Connected, Ended, Ready, Session, State
from greenroom.common.messages import BotDensity, BotOffer, Heartbeat, HeldSession
from greenroom.devtools.sim.clockwork import Clockwork
from greenroom.devtools.sim.scenario import Pool
from greenroom.scheduler.fleet import RunnerKey

# What a runner writes of a session that it runs.
type Unsaid = Ready | Connected | Ended

# A runner speaks each second, whatever happens.
_BEAT_S: Final = 1.0


class Counted(msgspec.Struct, kw_only=True):
    """How many there are of each."""

    runners: int = 0
    slots: int = 0
    busy: int = 0


class VirtualRunner:
    """One runner process.

    Args:
        runner_id: of it.
        pool: that it is in.
        started_at: when it came up.
        instance: what the launcher knows it by; empty: nothing.
        ordinal: its number in the group.
        claim: the launch that it was started for.

    Attributes:
        held: its sessions by id.
        bots: of them.
        standby: warm processes.
        up: whether it is there; once it isn't, it never is again.
        cut: whether it can't be reached and isn't heard.
        draining: whether it takes nothing new.
        unsaid: what it couldn't write while it was cut off.
    """

    __slots__ = (
        "_offers",
        "beaten_at_s",
        "bots",
        "claim",
        "cut",
        "draining",
        "held",
        "id",
        "instance",
        "ordinal",
        "pool",
        "seq",
        "slots",
        "standby",
        "started_at",
        "unsaid",
        "up",
    )

    def __init__(
        self,
        runner_id: str,
        pool: Pool,
        started_at: datetime,
        *,
        instance: str = "",
        ordinal: int | None = None,
        claim: str | None = None,
    ) -> None:
        self.id = runner_id
        self.pool = pool
        self.slots = pool.slots if claim is None else 1
        self.standby = min(pool.standby, self.slots)
        self.started_at = started_at
        self.instance = instance
        self.ordinal = ordinal
        self.claim = claim
        self.held: dict[str, HeldSession] = {}
        self.bots: dict[str, str] = {}
        self.up = True
        self.cut = False
        self.draining = False
        self.unsaid: list[tuple[Session, Unsaid]] = []
        self.seq = 0
        self.beaten_at_s = 0.0
        self._offers = offers(pool)

    @property
    def key(self) -> RunnerKey:
        """What it is addressed by."""
        return self.pool.name, self.id

    def holds(self, session: Session) -> bool:
        """Tell whether it has a session in the session's epoch."""
        held = self.held.get(session.id)
        return held is not None and held.epoch == session.epoch

    def load(self, bots: Iterable[str]) -> Fraction:
        """Return which part of its host sessions of some bots take together; more than 1: they don't fit."""
        fits = self.pool.fits
        if not fits or self.claim is not None:
            return Fraction()
        dearest = min(fits.values())
        return sum((Fraction(1, fits.get(bot, dearest)) for bot in bots), Fraction())

    def has_room(self, session: Session) -> bool:
        """Tell whether it takes one more session."""
        return len(self.held) < self.slots and self.load([*self.bots.values(), session.bot]) <= 1

    def _density(self) -> tuple[BotDensity, ...]:
        free = 1 - self.load(self.bots.values())
        return tuple(
            BotDensity(bot=bot, cores=0.0, memory=0, seen=1, more=int(free * fits))
            for bot, fits in sorted(self.pool.fits.items())
        )

    def heartbeat(self, now: datetime, now_s: float) -> Heartbeat:
        """Return what it says of itself now."""
        self.seq += 1
        self.beaten_at_s = now_s
        return Heartbeat(
            runner_id=self.id,
            pool=self.pool.name,
            at=now,
            seq=self.seq,
            slots=self.slots,
            sessions=tuple(self.held.values()),
            standby=self.standby,
            draining=self.draining,
            bots=self._offers,
            density=self._density(),
            by_cost=bool(self.pool.fits) and self.claim is None,
            labels=self.pool.labels,
            instance=self.instance,
            ordinal=self.ordinal,
            claim=self.claim,
            started_at=self.started_at,
        )


def offers(pool: Pool) -> tuple[BotOffer, ...]:
    """Return what the runners of a pool offer."""
    return tuple(BotOffer(name=name, version=pool.bot_version) for name in pool.bots)


class Runners:
    """All of them, and how many that makes.

    Args:
        clock: virtual time.
        heard: takes each heartbeat.
        silent: takes that a runner was heard at that time for the last time.
        counted: called before anything changes about the number of runners, slots or calls.
    """

    def __init__(
        self,
        clock: Clockwork,
        *,
        heard: Callable[[Heartbeat], None],
        silent: Callable[[RunnerKey, datetime], None],
        counted: Callable[[], None],
    ) -> None:
        self.count = Counted()
        self._clock = clock
        self._heard = heard
        self._silent = silent
        self._counted = counted
        self._runners: dict[RunnerKey, VirtualRunner] = {}

    def get(self, key: RunnerKey) -> VirtualRunner | None:
        """Return a runner if it is up."""
        return self._runners.get(key)

    def of(self, pool: str) -> Iterator[VirtualRunner]:
        """Yield the runners of a pool that are up."""
        return (runner for runner in self._runners.values() if runner.pool.name == pool)

    def came(self, runner: VirtualRunner) -> None:
        """Take in that a runner is up."""
        self._counted()
        self._runners[runner.key] = runner
        self.count.runners += 1
        self.count.slots += runner.slots
        self.beat(runner)

    def went(self, runner: VirtualRunner) -> None:
        """Take in that a runner is gone, with whatever it held."""
        self._counted()
        self._hush(runner)
        runner.up = False
        del self._runners[runner.key]
        self.count.runners -= 1
        self.count.slots -= runner.slots
        self.count.busy -= len(runner.held)
        runner.held.clear()
        runner.bots.clear()

    def cut_off(self, runner: VirtualRunner) -> None:
        """Take in that nothing comes through to a runner, or from it."""
        if runner.up and not runner.cut:
            self._hush(runner)
            runner.cut = True

    def beat(self, runner: VirtualRunner) -> None:
        """Let a runner say what has changed."""
        if runner.up and not runner.cut:
            self._heard(runner.heartbeat(self._clock.now(), self._clock.now_s))

    def hold(self, runner: VirtualRunner, session: Session) -> None:
        """Let a runner have a process for a session."""
        self._counted()
        runner.held[session.id] = HeldSession(
            session_id=session.id,
            tenant=session.tenant,
            epoch=session.epoch,
            phase=State.STARTED,
            since=self._clock.now(),
        )
        runner.bots[session.id] = session.bot
        self.count.busy += 1

    def drop(self, runner: VirtualRunner, session_id: str) -> None:
        """Take in that the process of a session is gone."""
        self._counted()
        del runner.held[session_id], runner.bots[session_id]
        self.count.busy -= 1

    def _hush(self, runner: VirtualRunner) -> None:
        if not runner.cut:
            # The last of those that it said each second since it had news.
            since_s = (self._clock.now_s - runner.beaten_at_s) % _BEAT_S
            self._silent(runner.key, self._clock.now() - timedelta(seconds=since_s))
