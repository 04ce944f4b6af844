"""Keeps the pools: once a second it looks at each, and has done what `capacity` and `reconcile` say.

    ledger ──▶ memory ─┐
    fleet, board ──────┼─▶ facts ─▶ capacity.assess ─▶ launcher (size, retire), runner (drain), cold starts (the plan)
    launcher ──────────┘         └▶ reconcile.differences ─▶ one remedy each

Every scheduler folds the ledger into its memory, so that a new leader knows the arrivals and the breakers of the last
minutes; only the leader looks and acts. The launcher may be slow: nothing that places sessions waits for it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final

import structlog

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker
from greenroom.common.clock import Clock
from greenroom.common.errors import BrokerUnavailable, GreenroomError
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Requeued, Session, State
from greenroom.common.messages import Decision, Drain, PoolState, SetStandby
from greenroom.common.reasons import Reason
from greenroom.scheduler import capacity, launch_pauses, pool_memory, standby_wish
from greenroom.scheduler.arrivals import ColdStarts
from greenroom.scheduler.capacity import ColdAllowance, PoolAssessment
from greenroom.scheduler.decisions import Decisions
from greenroom.scheduler.launch_pauses import Pause
from greenroom.scheduler.launchers.base import Instance, Launcher, LauncherUnavailable, LaunchRefused
from greenroom.scheduler.picture import Picture
from greenroom.scheduler.pool_decisions import decisions as changes
from greenroom.scheduler.pool_facts import PoolFacts
from greenroom.scheduler.pool_memory import PoolMemory
from greenroom.scheduler.pool_view import facts_of, launch_id, pools_of
from greenroom.scheduler.reconcile import Finding, Remedy, Standing, differences
from greenroom.scheduler.retirement import Retirement

_log = structlog.get_logger()

LOOK_S: Final = 1.0
# A launcher that takes longer isn't of any use at the moment.
_LAUNCHER_TIMEOUT_S: Final = 10.0
_DRAIN_TIMEOUT_S: Final = 2.0
# Ledger, heartbeats and launcher are compared every so many looks.
_COMPARE_EVERY: Final = 5
# What is older has decayed in the arrivals, and no breaker stays open for as long: a restart needn't learn it anew.
_OLD: Final = timedelta(minutes=15)

# Puts a session back into the queue if it is still in this epoch.
type TakeBack = Callable[[str, Requeued], Awaitable[None]]


class Keeper:
    """See the module.

    Args:
        broker: reaches runners.
        launcher: has them.
        picture: what is known.
        decisions: where it is said what was decided.
        clock: time.
        lost_s: how long a runner may be silent.
    """

    def __init__(
        self,
        broker: Broker,
        launcher: Launcher,
        picture: Picture,
        decisions: Decisions,
        *,
        clock: Clock,
        lost_s: float,
    ) -> None:
        # How many runners may be launched for single sessions now, by pool.
        self.cold: dict[str, ColdAllowance] = {}
        self._broker = broker
        self._launcher = launcher
        self._picture = picture
        self._decisions = decisions
        self._clock = clock
        self._lost_s = lost_s
        self._memories: dict[str, PoolMemory] = {}
        self._standing: dict[str, Standing] = {}
        self._assessed: dict[str, PoolAssessment] = {}
        self._looks = 0
        self._take_back: TakeBack | None = None
        # Since the launcher didn't take a launch.
        self._pauses: dict[str, Pause] = {}
        # How far the watch has read, and what was written from here beyond that.
        self._read = 0
        self._written: set[int] = set()

    # ------------------------------------------------------------------------ what it learns

    def learned(self, entry: Entry, *, first: bool = False) -> None:
        """Take in an entry of the ledger that the watch has read.

        Args:
            entry: of any session.
            first: whether the session wasn't known before.
        """
        self._read = entry.revision
        if entry.revision in self._written:
            self._written.discard(entry.revision)
        else:
            self._fold(entry, first=first)

    def wrote(self, entry: Entry) -> None:
        """Take in an entry that was written from here: the watch brings it again, and it counts once."""
        if entry.revision > self._read:
            self._written.add(entry.revision)
            self._fold(entry)

    def _fold(self, entry: Entry, *, first: bool = False) -> None:
        session, now = entry.session, self._clock.now()
        if self._picture.concerns(session.pool) and now - entry.at < _OLD:
            before = self._memory(session.pool)
            self._memories[session.pool] = pool_memory.learned(before, entry.transition, session, now, first=first)

    def launch_taken(self, pool: str) -> None:
        """Take in that the launcher took a cold start."""
        self._pauses.pop(pool, None)

    def launch_refused(self, session: Session, refused: LaunchRefused) -> None:
        """Take in that the launcher refused the cold start of a session."""
        memory, now = self._memory(session.pool), self._clock.now()
        self._memories[session.pool] = pool_memory.launch_failed(memory, launch_id(session), str(refused), now)
        self._pause(session.pool, str(refused), refused.retry_after_s)

    def launch_unknown(self, session: Session) -> None:
        """Take in that the launcher couldn't be reached for the cold start of a session."""
        self._memories[session.pool] = pool_memory.launch_unknown(self._memory(session.pool), launch_id(session))
        text = f"{self._launcher.name} doesn't answer"
        self._pause(session.pool, text, LauncherUnavailable.default_retry_after_s)

    def _pause(self, pool: str, text: str, after_s: float | None) -> None:
        known = launch_pauses.paused(self._pauses.get(pool), text, self._clock.now(), after_s=after_s)
        self._pauses[pool] = known
        if pool in self.cold:
            # The next plan comes before the next look.
            self.cold[pool] = launch_pauses.none_of(self.cold[pool], known)

    def granted(self, session: Session) -> None:
        """Take in that a cold lease was granted: one of those that were allowed."""
        allowance = self.cold.get(session.pool)
        if allowance is not None:
            self.cold[session.pool] = capacity.spent(allowance, session.bot)

    def tidy(self) -> None:
        """Forget pools that nobody has to do with any more; leaders and stand-bys do so now and then."""
        pools = pools_of(self._picture)
        for known in (self._memories, self._pauses, self._standing, self._assessed, self.cold):
            for pool in known.keys() - pools:
                del known[pool]
        self._written = {revision for revision in self._written if revision > self._read}

    def states(self) -> tuple[PoolState, ...]:
        """Return how the pools stand, as of the last look."""
        return tuple(self._assessed[pool].state for pool in sorted(self._assessed))

    def cold_starts(self, pool: str) -> ColdStarts:
        """Return how long the last launches took in a pool."""
        return self._memory(pool).cold_starts

    def _memory(self, pool: str) -> PoolMemory:
        return self._memories.get(pool) or PoolMemory()

    # ------------------------------------------------------------------------ what it does

    async def run(self, on_change: Callable[[], None], take_back: TakeBack) -> None:
        """Look and act until canceled.

        Args:
            on_change: called when more may be launched than before.
            take_back: see `TakeBack`.
        """
        self._take_back = take_back
        self._assessed.clear()
        self._standing.clear()
        try:
            while True:
                before = sum(each.count for each in self.cold.values())
                await self._look()
                if sum(each.count for each in self.cold.values()) > before:
                    on_change()
                await self._clock.sleep(LOOK_S)
        finally:
            self.cold.clear()

    async def _look(self) -> None:
        self._looks += 1
        async with asyncio.TaskGroup() as tasks:
            for pool in sorted(pools_of(self._picture)):
                tasks.create_task(self._look_at(pool))

    async def _look_at(self, pool: str) -> None:
        # From the answer to the allowance nothing is waited for: a launch that is granted meanwhile would be one more.
        instances, holds = await self._ask(pool)
        now = self._clock.now()
        facts = facts_of(
            self._picture,
            pool,
            now,
            launcher=self._launcher,
            instances=instances,
            holds=holds,
            lost_s=self._lost_s,
        )
        policy = self._picture.board.policy
        memory = self._memories[pool] = pool_memory.observed(self._memory(pool), facts, now)
        assessed = capacity.assess(now, facts, policy.pool(pool), policy.reservations, memory)
        if policy.pool(pool).cold_starts:
            assessed = launch_pauses.bounded(assessed, self._pauses.get(pool), now)
        before, self._assessed[pool] = self._assessed.get(pool), assessed
        if policy.pool(pool).cold_starts:
            self.cold[pool] = assessed.cold
        else:
            # Nobody expects any: then it isn't for want of one that sessions wait.
            self.cold.pop(pool, None)
        for decision in changes(before, assessed, now, policy_revision=policy.revision):
            self._say(pool, decision)
        if assessed.scale is not None:
            await self._scale(pool, assessed.scale, policy.pool(pool).cold_deadline_s)
        for step in assessed.retire:
            await self._retire(pool, step)
        if self._looks % _COMPARE_EVERY == 0:
            await self._compare(pool, facts)
        if self._looks % standby_wish.EVERY_LOOKS == 0:
            await self._wish(pool, standby_wish.wishes(facts.runners, assessed.state.arrivals_per_s))

    async def _wish(self, pool: str, wishes: Mapping[str, int]) -> None:
        """Tell runners how many processes should wait; a word that is lost is said again before the last runs out."""
        for runner_id, target in wishes.items():
            subject = subjects.RUNNER_CMD.format(pool=pool, runner_id=runner_id, name="standby")
            command = messages.encode(SetStandby(target=target, for_s=standby_wish.HOLDS_S))
            with contextlib.suppress(BrokerUnavailable):
                await self._broker.publish(subject, command)

    async def _ask(self, pool: str) -> tuple[Sequence[Instance] | None, str | None]:
        """Return what the launcher has in a pool, None if it can't be asked, and why it gets nowhere, if it doesn't."""
        try:
            async with asyncio.timeout(_LAUNCHER_TIMEOUT_S):
                return await self._launcher.instances(pool), self._launcher.held_back(pool)
        except TimeoutError:
            return None, f"{self._launcher.name} doesn't answer"
        except GreenroomError as error:
            return None, error.detail or error.title

    async def _scale(self, pool: str, count: int, patience_s: float) -> None:
        try:
            async with asyncio.timeout(_LAUNCHER_TIMEOUT_S):
                await self._launcher.set_count(pool, count)
        except (TimeoutError, GreenroomError) as error:
            again_s = _again_s(error, self._picture.board.policy.pool(pool).cooldown_s)
            memory = pool_memory.scale_refused(self._memory(pool), _words(error), self._clock.now(), again_s=again_s)
            self._memories[pool] = memory
            _log.warning("scale_refused", pool=pool, count=count, error=_words(error), again_s=again_s)
        else:
            now = self._clock.now()
            self._memories[pool] = pool_memory.scaled(self._memory(pool), now, patience_s=patience_s)

    async def _retire(self, pool: str, step: Retirement) -> None:
        try:
            async with asyncio.timeout(_LAUNCHER_TIMEOUT_S):
                if step.step == "retire":
                    await self._launcher.retire(step.instance)
                else:
                    await self._drain(pool, step.runner_id)
        except (TimeoutError, GreenroomError) as error:
            # It is idle: it costs a little while it stays, and the next look tries again.
            _log.warning("retirement_failed", pool=pool, runner_id=step.runner_id, step=step.step, error=_words(error))
            return
        note = pool_memory.retired if step.step == "retire" else pool_memory.drained
        self._memories[pool] = note(self._memory(pool), step.runner_id, self._clock.now())

    async def _drain(self, pool: str, runner_id: str) -> None:
        subject = subjects.RUNNER_CMD.format(pool=pool, runner_id=runner_id, name="drain")
        command = messages.encode(Drain(reason="no longer needed"))
        await self._broker.request(subject, command, timeout_s=_DRAIN_TIMEOUT_S)

    # ------------------------------------------------------------------------ what doesn't agree

    async def _compare(self, pool: str, facts: PoolFacts) -> None:
        policy = self._picture.board.policy.pool(pool)
        retiring = self._memory(pool).retiring
        standing = self._standing.get(pool, Standing())
        now = self._clock.now()
        self._standing[pool], due = differences(standing, self._session, facts, policy, now, retiring=retiring)
        for finding in due:
            self._tell(pool, finding)
            try:
                async with asyncio.timeout(_LAUNCHER_TIMEOUT_S):
                    await self._mend(finding)
            except (TimeoutError, GreenroomError) as error:
                _log.warning("remedy_failed", pool=pool, remedy=finding.remedy, error=_words(error))

    async def _mend(self, finding: Finding) -> None:
        match finding.remedy:
            case Remedy.TAKE_BACK if finding.session_id and finding.epoch is not None and self._take_back:
                reason = Reason.LAUNCH_FAILED
                requeued = Requeued(epoch=finding.epoch, reason=reason, exclude_runner=False, tried=False)
                await self._take_back(finding.session_id, requeued)
            case Remedy.CANCEL if finding.launch_id is not None:
                await self._launcher.cancel(finding.launch_id)
            case Remedy.RETIRE if finding.instance is not None:
                await self._launcher.retire(finding.instance)
            case _:
                pass  # it is said, and that is all

    def _session(self, session_id: str) -> Session | None:
        tracked = self._picture.board.sessions.get(session_id)
        return tracked.session if tracked else None

    def _tell(self, pool: str, finding: Finding) -> None:
        inputs = {"difference": finding.difference, "remedy": finding.remedy}
        inputs |= {
            name: value
            for name in ("session_id", "launch_id", "runner_id")
            if (value := getattr(finding, name)) is not None
        }
        now, revision = self._clock.now(), self._picture.board.policy.revision
        self._say(
            pool,
            Decision(
                decision="reconcile",
                at=now,
                reason=finding.difference,
                text=finding.text,
                inputs=inputs,
                policy_revision=revision,
            ),
        )
        session = self._session(finding.session_id) if finding.session_id else None
        if session is not None and session.state is not State.ENDED:
            self._decisions.on_session(
                session, "reconcile", reason=finding.difference, text=finding.text, inputs=inputs
            )

    def _say(self, pool: str, decision: Decision) -> None:
        _log.info("pool_decision", pool=pool, decision=decision.decision, reason=decision.reason, detail=decision.text)
        self._decisions.on_pool(pool, decision)


def _words(error: Exception) -> str:
    if isinstance(error, GreenroomError):
        return error.detail or error.title
    return "no answer in time"


def _again_s(error: Exception, otherwise_s: float) -> float:
    return (error.retry_after_s if isinstance(error, GreenroomError) else None) or otherwise_s
