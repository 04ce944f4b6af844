"""What becomes of sessions on runners: claimed, ready, talked in, ended. The runner's side of the contract."""

from collections.abc import Callable
from random import Random
from typing import Final, Literal

from greenroom.common.lifecycle import Connected, Ended, OnLoss, Outcome, Ready, Session, Started
from greenroom.common.reasons import Reason
from greenroom.devtools.sim.clockwork import Clockwork
from greenroom.devtools.sim.ledger import VirtualLedger
from greenroom.devtools.sim.runners import Runners, Unsaid, VirtualRunner
from greenroom.devtools.sim.spans import Span

# A runner that was cut off reads in the ledger within this what became of its sessions.
_LOOKS_S: Final = 5.0

# What a runner answers to a start, or what comes back in its place.
type Answer = Literal["accepted", "no-slot", "draining", "no-responder", "request-timeout"]


class Calls:
    """See the module.

    Args:
        clock: virtual time.
        ledger: where runners write.
        runners: that there are.
        chance: draws how long processes take to come up.
        length_of: returns how long the call of a session takes.
        on_empty: called when a runner has no session any more.
    """

    def __init__(
        self,
        clock: Clockwork,
        ledger: VirtualLedger,
        runners: Runners,
        chance: Random,
        *,
        length_of: Callable[[str], float],
        on_empty: Callable[[VirtualRunner], None],
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._runners = runners
        self._chance = chance
        self._length_of = length_of
        self._on_empty = on_empty

    def start(self, runner: VirtualRunner | None, session: Session) -> Answer:
        """Ask a runner to start a session that is leased to it, and return what it answers."""
        if runner is None or not runner.up:
            return "no-responder"
        if runner.cut:
            return "request-timeout"
        if runner.holds(session):
            return "accepted"
        if runner.draining:
            return "draining"
        if not runner.has_room(session):
            return "no-slot"
        self.claim(runner, session)
        return "accepted"

    def claim(self, runner: VirtualRunner, session: Session) -> bool:
        """Let a runner claim a session, and run it if the lease is still the current one; return whether it is."""
        entry = self._ledger.open.get(session.id)
        if entry is None or entry.session.epoch != session.epoch or entry.session.runner_id != runner.id:
            return False
        self._runners.hold(runner, session)
        takes_s = self._take_process(runner)
        # It says so before it writes: who reads the claim finds it reported.
        self._runners.beat(runner)
        self._ledger.advance(entry, Started(runner_id=runner.id, epoch=session.epoch))
        self._clock.after(takes_s, self._ready, runner, session)
        return True

    def _take_process(self, runner: VirtualRunner) -> float:
        """Return how long it takes until the process for a session is ready."""
        pool = runner.pool
        if not runner.standby:
            return self._draw(pool.fork_start)
        runner.standby -= 1
        self._clock.after(self._draw(pool.refill), self._refill, runner)
        return self._draw(pool.warm_start)

    def _refill(self, runner: VirtualRunner) -> None:
        if runner.up and runner.standby < min(runner.pool.standby, runner.slots - len(runner.held)):
            runner.standby += 1
            self._runners.beat(runner)

    def _ready(self, runner: VirtualRunner, session: Session) -> None:
        if not runner.holds(session):
            return
        if runner.pool.start_failures and self._chance.random() < runner.pool.start_failures:
            self._end(runner, session, Outcome.FAILED, Reason.BOT_FAILED)
            return
        self._write(runner, session, Ready(epoch=session.epoch))
        if session.on_loss is OnLoss.BEFORE_MEDIA:
            self._write(runner, session, Connected(epoch=session.epoch))
        self._clock.after(self._length_of(session.id), self._hang_up, runner, session)

    def _hang_up(self, runner: VirtualRunner, session: Session) -> None:
        if runner.holds(session):
            self._end(runner, session, Outcome.COMPLETED, "goodbye")

    def _end(self, runner: VirtualRunner, session: Session, outcome: Outcome, reason: str) -> None:
        self._runners.drop(runner, session.id)
        self._write(runner, session, Ended(by="runner", epoch=session.epoch, outcome=outcome, reason=reason))
        self._freed(runner)

    def _freed(self, runner: VirtualRunner) -> None:
        pool = runner.pool
        if runner.standby < min(pool.standby, runner.slots - len(runner.held)):
            self._clock.after(self._draw(pool.refill), self._refill, runner)
        self._runners.beat(runner)
        if not runner.held and not runner.cut:
            self._on_empty(runner)

    def _write(self, runner: VirtualRunner, session: Session, transition: Unsaid) -> None:
        """Write what a runner has to say of a session if it is still its own; once it can be reached."""
        if runner.cut:
            runner.unsaid.append((session, transition))
            return
        entry = self._ledger.open.get(session.id)
        if entry is not None and entry.session.epoch == session.epoch and entry.session.runner_id == runner.id:
            self._ledger.advance(entry, transition)

    def healed(self, runner: VirtualRunner) -> None:
        """Let a runner that can be reached again write what it couldn't, and then speak."""
        runner.cut = False
        for session, transition in runner.unsaid:
            self._write(runner, session, transition)
        runner.unsaid.clear()
        self._runners.beat(runner)
        self._clock.after(_LOOKS_S, self._look_up, runner)

    def _look_up(self, runner: VirtualRunner) -> None:
        """Let a runner end the sessions that the ledger has taken from it while it was cut off."""
        for held in list(runner.held.values()):
            entry = self._ledger.open.get(held.session_id)
            if entry is None or entry.session.epoch != held.epoch or entry.session.runner_id != runner.id:
                self._runners.drop(runner, held.session_id)
        if runner.up:
            self._freed(runner)

    def _draw(self, span: Span) -> float:
        return span.draw(self._chance)
