"""Brings the policy from PostgreSQL to the schedulers: the whole of it, as one message, whenever it was changed.

Any number of instances may do so at once. Each publishes by compare-and-set what PostgreSQL says as of one moment, and
only if that is newer than what is published; so the first is right, and the others find that there is nothing to do.
"""

import asyncio
import contextlib
from typing import Final

import msgspec
import structlog

from greenroom.api.policy_store import PolicyStore, PolicyUnusable
from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message, MessageTooLarge, Subscription, WrongLastSequence
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import BrokerUnavailable, DatabaseUnavailable, GreenroomError, TopologyMissing
from greenroom.common.metrics import Metrics
from greenroom.common.policy import Policy

_log = structlog.get_logger()

STREAM: Final = "POLICY"
SUBJECT: Final = subjects.POLICY.format(name="current")
# A change, also one made by hand in PostgreSQL, is applied within 2 s: one to find it, the rest to publish it.
POLL_S: Final = 1.0
# Between two looks, however many changes are heard of: whoever lost a race may read a replica that is behind.
_PAUSE_S: Final = 0.02
# What is tried again at the next look.
_AWAY: Final = (BrokerUnavailable, DatabaseUnavailable, TopologyMissing)


class PolicyPublisher:
    """Publishes the policy, and knows which one the schedulers have.

    Attributes:
        current: what is published; the empty policy until that is known.
        problem: code of the error that keeps a newer policy from being published; None: nothing does.
    """

    def __init__(self, broker: Broker, store: PolicyStore, metrics: Metrics, *, clock: Clock | None = None) -> None:
        """Bring what `store` has to `broker`."""
        self.current = Policy()
        self.problem: str | None = None
        self._broker = broker
        self._store = store
        self._clock = clock or SystemClock()
        # Whether PostgreSQL was restored from before the last change: the next one is newer again.
        self._behind = False
        self._subscription: Subscription | None = None
        self._published = metrics.counter("api_policy_published", "Policies published to the schedulers")
        self._failures = metrics.counter("api_policy_failures", "Looks at the policy that failed", ["code"])
        self._revision = metrics.gauge("api_policy_revision", "Revision of the policy that is published")

    async def start(self) -> None:
        """Begin to hear of what other instances publish."""
        self._subscription = await self._broker.subscribe(SUBJECT, self._heard)

    async def stop(self) -> None:
        """Stop hearing."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None

    async def run(self) -> None:
        """Look each second and at every change that is heard of, until cancelled."""
        while True:
            # Cleared first: a change during a look is looked at again.
            self._store.changed.clear()
            await self._look()
            await self._clock.sleep(_PAUSE_S)
            waiting = asyncio.create_task(self._store.changed.wait(), name="policy change")
            pause = asyncio.create_task(self._clock.sleep(POLL_S), name="policy pause")
            try:
                await asyncio.wait({waiting, pause}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (waiting, pause):
                    task.cancel()

    async def publish(self) -> bool:
        """Publish what PostgreSQL says if it is newer than what is published, and tell whether that was so.

        Raises:
            BrokerUnavailable, TopologyMissing: it isn't known what is published.
            DatabaseUnavailable: it isn't known what should be.
            PolicyUnusable: what stands in PostgreSQL is no policy.
            MessageTooLarge: it is more than the broker takes.
        """
        last = await self._broker.last(STREAM, SUBJECT)
        published = _policy_in(last)
        self._know(published)
        # At revision 0 nobody has decided anything, and nothing needs to be said.
        known = published.revision if published else 0
        stored = await self._store.revision()
        if stored < known and not self._behind:
            _log.warning("policy_database_behind", stored=stored, published=known)
        self._behind = stored < known
        if stored <= known:
            return False
        policy = await self._store.policy()
        try:
            await self._broker.append(SUBJECT, messages.encode(policy), expected_last=last.stream_seq if last else 0)
        except WrongLastSequence:
            # Another instance was first. If what it published is older than this, the next look finds that.
            return False
        self._know(policy)
        self._published.inc()
        _log.info("policy_published", revision=policy.revision)
        return True

    async def _look(self) -> None:
        try:
            await self.publish()
        except _AWAY as error:
            self._failed(error)
        except (PolicyUnusable, MessageTooLarge) as error:
            if self.problem != error.code:
                _log.error("policy_unusable", code=error.code, detail=error.detail)
            self._failed(error)
        else:
            self.problem = None

    def _failed(self, error: GreenroomError) -> None:
        self._failures.inc(code=error.code)
        self.problem = error.code

    def _know(self, policy: Policy | None) -> None:
        if policy is not None:
            self.current = policy
            self._revision.set(policy.revision)

    async def _heard(self, _message: Message) -> None:
        # Only a hint: a write that the stream refuses is heard too.
        self._store.changed.set()


def _policy_in(message: Message | None) -> Policy | None:
    """Return the policy in a message; what isn't one is written over."""
    if message is None:
        return None
    with contextlib.suppress(msgspec.MsgspecError):
        return messages.decode(message.data, Policy)
    return None
