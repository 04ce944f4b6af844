"""The runners as their heartbeats show them: for the status pages, and as the source of the announced agents.

Nothing here decides on placement; that is the scheduler's picture.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog

from greenroom.api.store import Store, UnstorableAgent
from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message, Subscription
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import DatabaseUnavailable
from greenroom.common.messages import BotOffer, Heartbeat

_log = structlog.get_logger()

# The scheduler gives a runner up after this long without a heartbeat.
LOST_AFTER_S: Final = 6.0
# For so long a lost runner is still shown, as lost.
_FORGET_AFTER_S: Final = 60.0
_MAX_RUNNERS: Final = 10_000
_ANNOUNCE_EVERY_S: Final = 0.5
_RETRY_S: Final = 2.0
_DEFAULT_POOL: Final = "default"


class Runner(msgspec.Struct, frozen=True, kw_only=True):
    """A runner, as last heard of `age_s` seconds ago."""

    heartbeat: Heartbeat
    age_s: float

    @property
    def lost(self) -> bool:
        """Whether it has been silent for too long."""
        return self.age_s > LOST_AFTER_S


class Fleet:
    """Folds heartbeats, and announces the bots in them as agents."""

    def __init__(self, broker: Broker, store: Store, *, clock: Clock | None = None) -> None:
        """Hear heartbeats on `broker`, write agents to `store`."""
        self._broker = broker
        self._store = store
        self._clock = clock or SystemClock()
        # The newest heartbeat of each runner, and when it was heard.
        self._heard: dict[tuple[str, str], tuple[Heartbeat, float]] = {}
        self._announced: dict[str, tuple[str, BotOffer]] = {}
        self._offers_changed = asyncio.Event()
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Begin to listen."""
        self._subscription = await self._broker.subscribe(subjects.RUNNER_HEARTBEAT.wildcard(), self._on_heartbeat)

    async def stop(self) -> None:
        """Stop listening."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None

    def runners(self) -> list[Runner]:
        """Return the runners that are there or were until a minute ago, by pool and id."""
        now = self._clock.monotonic()
        self._forget(now)
        return [Runner(heartbeat=beat, age_s=now - at) for _, (beat, at) in sorted(self._heard.items())]

    def offers(self) -> dict[str, tuple[str, BotOffer]]:
        """Return the bots that can run now, by name, each with a pool where it can.

        A bot that several pools offer belongs to `default` if that is one of them, else to the first by name, so that
        every api instance says the same. Of several versions the newest says what the bot is; it takes the transports
        of all, and a body that some of them may take isn't refused here.
        """
        found: dict[str, tuple[str, dict[int, BotOffer]]] = {}
        usable = [runner.heartbeat for runner in self.runners() if not runner.lost and not runner.heartbeat.draining]
        for beat in sorted(usable, key=lambda beat: (beat.pool != _DEFAULT_POOL, beat.pool)):
            for offer in beat.bots:
                if offer.error is None:
                    pool, versions = found.setdefault(offer.name, (beat.pool, {}))
                    if pool == beat.pool:
                        versions.setdefault(offer.version, offer)
        return {name: (pool, _as_one(versions)) for name, (pool, versions) in found.items()}

    def missing_secrets(self, pool: str, bot: str) -> tuple[str, ...]:
        """Return the secrets for want of which no runner of a pool can run a bot; nothing while one can.

        Nothing either where no runner has the bot: one may be on its way.
        """
        having = [
            offer
            for runner in self.runners()
            if not runner.lost and not runner.heartbeat.draining and runner.heartbeat.pool == pool
            for offer in runner.heartbeat.bots
            if offer.name == bot and offer.error is None
        ]
        if not all(offer.missing_secrets for offer in having):
            return ()
        return tuple(sorted({name for offer in having for name in offer.missing_secrets}))

    async def run(self) -> None:
        """Announce bots as agents whenever they are new or changed, until cancelled."""
        while True:
            # A pool may also change by a runner's silence, which no heartbeat tells.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOST_AFTER_S):
                    await self._offers_changed.wait()
            self._offers_changed.clear()
            await asyncio.sleep(_ANNOUNCE_EVERY_S if await self._announce() else _RETRY_S)

    async def _announce(self) -> bool:
        offers = self.offers()
        changed = [name for name, offer in offers.items() if self._announced.get(name) != offer]
        if not changed:
            return True
        for name in changed:
            try:
                await self._store.announce_agent(*offers[name])
            except DatabaseUnavailable:
                self._offers_changed.set()
                return False
            except UnstorableAgent:
                _log.warning("agent_not_announced", agent=name)
            else:
                _log.info("agent_announced", agent=name)
            self._announced[name] = offers[name]
        return True

    async def _on_heartbeat(self, message: Message) -> None:
        try:
            beat = messages.decode(message.data, Heartbeat)
        except msgspec.MsgspecError as error:
            _log.warning("heartbeat_malformed", subject=message.subject, error=str(error))
            return
        key = (beat.pool, beat.runner_id)
        known = self._heard.get(key)
        if known is not None and (known[0].started_at, known[0].seq) > (beat.started_at, beat.seq):
            return
        if known is None:
            self._forget(self._clock.monotonic())
            if len(self._heard) >= _MAX_RUNNERS:
                return
        self._heard[key] = (beat, self._clock.monotonic())
        if known is None or known[0].bots != beat.bots or known[0].draining != beat.draining:
            self._offers_changed.set()

    def _forget(self, now: float) -> None:
        for key in [key for key, (_, at) in self._heard.items() if now - at > _FORGET_AFTER_S]:
            del self._heard[key]


def _as_one(versions: Mapping[int, BotOffer]) -> BotOffer:
    newest, *older = (versions[version] for version in sorted(versions, reverse=True))
    if not older:
        return newest
    transports = dict.fromkeys(transport for offer in (newest, *older) for transport in offer.transports)
    agreed = all(offer.body_schema == newest.body_schema for offer in older)
    return msgspec.structs.replace(
        newest, transports=tuple(transports), body_schema=newest.body_schema if agreed else None
    )
