"""The ledger as far as the scheduler depends on it: compare-and-set, and everybody sees each entry at once."""

from collections.abc import Callable

from greenroom.common import lifecycle
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Requested, Session, Transition
from greenroom.devtools.sim.clockwork import Clockwork

type Follower = Callable[[Session | None, Entry], None]


class VirtualLedger:
    """See the module.

    Args:
        clock: virtual time.

    Attributes:
        open: the last entry of each session that hasn't ended, by id.
        histories: all entries of those.
        followers: called with each session as it was and its new entry, in this order.
    """

    def __init__(self, clock: Clockwork) -> None:
        self.open: dict[str, Entry] = {}
        self.histories: dict[str, list[Entry]] = {}
        self.followers: list[Follower] = []
        self._clock = clock
        self._revision = 0

    def create(self, session: Session) -> None:
        """Store a new session."""
        self._store(None, Requested(session=session))

    def advance(self, entry: Entry, transition: Transition) -> Entry | None:
        """Move a session on from an entry; None: it has moved on from there already.

        Raises:
            IllegalTransition: not possible in its state.
            StaleEpoch: the transition belongs to an earlier lease.
        """
        known = self.open.get(entry.session.id)
        if known is None or known.revision != entry.revision:
            return None
        return self._store(known.session, transition)

    def _store(self, before: Session | None, transition: Transition) -> Entry:
        now = self._clock.now()
        after = lifecycle.apply(before, transition, now)
        self._revision += 1
        entry = Entry(session=after, transition=transition, at=now, revision=self._revision)
        history = self.histories.setdefault(after.id, [])
        history.append(entry)
        self.open[after.id] = entry
        for follower in self.followers:
            follower(before, entry)
        if after.ended:
            del self.open[after.id], self.histories[after.id]
        return entry
