"""What operators decided, as the api publishes it, and what the leading scheduler found about it.

Every scheduler follows both, so that a new leader plans by the same policy as the one before it; the leader alone
writes verdicts, by compare-and-set.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message, WrongLastSequence
from greenroom.common.budgets import Spending
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.pins import PinRecords
from greenroom.common.policy import Policy, RolledBack, Verdicts
from greenroom.common.subjects import InvalidToken

_log = structlog.get_logger()

STREAM: Final = "POLICY"
_CURRENT: Final = subjects.POLICY.format(name="current")
_VERDICTS: Final = subjects.POLICY.format(name="verdicts")
# One for each canary that ever failed, in one message; what is beyond was decided long ago.
MAX_VERDICTS: Final = 1000
_SPENDING: Final = subjects.POLICY.format(name="spending")
_PINS: Final = subjects.POLICY.format(name="pins")
_TRIES: Final = 5


class PolicyFeed:
    """Follows the policy and the verdicts on it.

    Args:
        broker: has both.
        on_policy: called with each policy, the first one before `run` has caught up.
        on_verdicts: the same for the verdicts.
        on_spending: the same for how budgets stand.
        on_pins: the same for what is kept of pins, with the revision of that; None: it can't be read.

    Attributes:
        caught_up: set once everything that was there has been told.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        on_policy: Callable[[Policy], None],
        on_verdicts: Callable[[Verdicts], None],
        on_pins: Callable[[PinRecords | None, int], None],
        on_spending: Callable[[Spending], None] = lambda _spending: None,
    ) -> None:
        self.caught_up = asyncio.Event()
        self._broker = broker
        self._on_policy = on_policy
        self._on_verdicts = on_verdicts
        self._on_pins = on_pins
        self._on_spending = on_spending

    async def run(self) -> None:
        """Follow until canceled.

        Raises:
            BrokerUnavailable: the stream can't be read at the start, or no more.
            TopologyMissing: it isn't there.
        """
        reader = await self._broker.read(STREAM, [subjects.POLICY.wildcard()], last_per_subject=True)
        try:
            if reader.caught_up.is_set():
                self.caught_up.set()
            async for message in reader:
                self._take(message)
                if reader.caught_up.is_set():
                    self.caught_up.set()
        finally:
            await reader.close()
        raise BrokerUnavailable("the policy can't be followed any more")

    def _take(self, message: Message) -> None:
        try:
            if message.subject == _CURRENT:
                policy = messages.decode(message.data, Policy)
                if not policy.revision:
                    raise msgspec.ValidationError("it has no revision")  # any object at all would be one without limits
                _check_names(policy)
                _log.info("policy_applied", revision=policy.revision, limits=len(policy.limits))
                self._on_policy(policy)
            elif message.subject == _VERDICTS:
                self._on_verdicts(messages.decode(message.data, Verdicts))
            elif message.subject == _SPENDING:
                self._on_spending(messages.decode(message.data, Spending))
            elif message.subject == _PINS:
                self._on_pins(messages.decode(message.data, PinRecords), message.stream_seq)
        except (msgspec.MsgspecError, InvalidToken) as error:
            # What was in force stays so: no policy would be no limits.
            _log.error("policy_malformed", subject=message.subject, error=str(error))
            if message.subject == _PINS:
                self._on_pins(None, message.stream_seq)

    async def add_verdict(self, found: RolledBack) -> None:
        """Keep a verdict for the leaders to come; nothing happens if it is kept already.

        Raises:
            BrokerUnavailable: it isn't known to be stored.
            WrongLastSequence: others wrote five times in a row.
        """
        for attempt in range(_TRIES):
            last = await self._broker.last(STREAM, _VERDICTS)
            known = _verdicts_in(last)
            if any(_same(found, each) for each in known.rolled_back):
                return
            rows = (*known.rolled_back, found)[-MAX_VERDICTS:]
            try:
                await self._broker.append(
                    _VERDICTS,
                    messages.encode(Verdicts(rolled_back=rows)),
                    expected_last=last.stream_seq if last else 0,
                )
            except WrongLastSequence:
                if attempt == _TRIES - 1:
                    raise
            else:
                return


def _check_names(policy: Policy) -> None:
    """Raise `InvalidToken` if a pool or a tenant has a name that can't be a part of a subject."""
    for name in (*(pool.name for pool in policy.pools), *(each.pool for each in policy.reservations)):
        subjects.DECISION.format(pool=name)
    for pin in policy.pins:
        subjects.DECISION.format(pool=pin.pool)
        subjects.SESSION_LIFECYCLE.format(tenant=pin.tenant, session_id=pin.id)


def _verdicts_in(message: Message | None) -> Verdicts:
    try:
        return messages.decode(message.data, Verdicts) if message is not None else Verdicts()
    except msgspec.MsgspecError:
        return Verdicts()  # it was logged when it was read


def _same(one: RolledBack, other: RolledBack) -> bool:
    return (one.tenant, one.agent, one.version) == (other.tenant, other.agent, other.version)
