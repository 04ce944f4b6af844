"""What the scheduler sees of one pool at one moment: the input of everything that is decided about its capacity."""

import math
from collections.abc import Sequence

import msgspec

from greenroom.scheduler.fleet import Hold
from greenroom.scheduler.launchers.base import Instance, Retires


class RunnerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A runner that is heard.

    Attributes:
        id: of the runner.
        slots: that it has.
        used: slots taken: what it holds by its heartbeat together with what is leased to it by the ledger.
        room: how many more sessions it takes of the dearest of its bots; None: of each as many as there are slots free.
        held: what it holds by its heartbeat.
        draining: whether it takes nothing new.
        braking: whether its load brake is on: free slots of it are of no use now.
        instance: what the launcher knows it by; empty: started by hand.
        ordinal: its number in a group whose size is set.
        claim: the one lease (`{session_id}-{epoch}`) that it was launched for: it has no slot for others.
        up_s: how long its process had been up at its last heartbeat, by its own clock.
    """

    id: str
    slots: int
    used: int = 0
    room: int | None = None
    held: frozenset[Hold] = frozenset()
    draining: bool = False
    braking: bool = False
    instance: str = ""
    ordinal: int | None = None
    claim: str | None = None
    up_s: float = math.inf

    @property
    def free(self) -> int:
        """Slots that are free and large enough for whatever may come."""
        free = max(self.slots - self.used, 0)
        return free if self.room is None else min(free, self.room)

    @property
    def empty(self) -> bool:
        """Whether it has no session, neither by its own account nor by the ledger's."""
        return not self.used and not self.held


class PoolFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A pool.

    Attributes:
        name: of the pool.
        hearing: whether this scheduler has heard runners without a break for as long as a lost one may be silent. If
            not, it can't tell a runner that is gone from one that it didn't hear.
        runners: those that are heard.
        waiting: sessions that wait for a slot: not those that a limit holds.
        cold_leases: launch ids of the cold leases that no runner has claimed yet.
        launcher: its name.
        retires: which baseline instances it lets go.
        instances: what it has pending, running or stopping in the pool; None: it can't be asked.
        group: how large the baseline group is set to be, where the launcher tells; else its instances are counted.
        launcher_holds: why the launcher itself gets nowhere at the moment, in its words.
    """

    name: str
    hearing: bool = True
    runners: Sequence[RunnerFacts] = ()
    waiting: int = 0
    cold_leases: frozenset[str] = frozenset()
    launcher: str = "none"
    retires: Retires = "none"
    instances: Sequence[Instance] | None = ()
    group: int | None = None
    launcher_holds: str | None = None

    @property
    def up(self) -> Sequence[Instance]:
        """What the launcher has pending or running; nothing when it can't be asked."""
        return [each for each in self.instances or () if each.state != "stopping"]

    @property
    def baseline(self) -> Sequence[Instance]:
        """What of it belongs to the baseline group."""
        return [each for each in self.up if each.launch_id is None]

    @property
    def group_size(self) -> int:
        """How large the baseline group is, never taken for smaller than what is seen of it."""
        return max(self.group or 0, len(self.baseline))

    @property
    def launched(self) -> int:
        """How many runners the launcher has up or was just asked for."""
        shown = {each.launch_id for each in self.up}
        return self.group_size + sum(1 for each in self.up if each.launch_id) + len(self.cold_leases - shown)


def silent(facts: PoolFacts) -> list[Instance]:
    """Return the instances that are pending or running and that no heartbeat comes from."""
    known = {runner.instance for runner in facts.runners if runner.instance}
    claims = {runner.claim for runner in facts.runners if runner.claim}
    return [each for each in facts.up if each.id not in known and each.launch_id not in claims]
