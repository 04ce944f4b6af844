"""One of many does it: leadership by compare-and-set on a subject, renewed each second.

A holder that is silent for 3 s has lost it. For a moment two may think that they lead (one of them cut off);
that is harmless because whatever a leader does is itself a compare-and-set.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message, WrongLastSequence
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.messages import LeaderClaim

_log = structlog.get_logger()

STREAM: Final = "LEADERS"
RENEW_S: Final = 1.0
# Three renewals missed: long enough for a garbage collection or a broker hiccup, short enough to be unnoticed.
SILENCE_S: Final = 3.0
_POLL_S: Final = 0.25


class Leadership:
    """Takes part in the election of the one who leads `name`.

    Args:
        broker: where the claims are.
        name: what is led, for example `scheduler-default`.
        holder: who takes part; unique per process.
        clock: time.
    """

    def __init__(self, broker: Broker, name: str, holder: str, *, clock: Clock | None = None) -> None:
        self.name: Final = name
        self.holder: Final = holder
        self.leader: str | None = None
        self.term = 0
        self.leading = False
        self._broker = broker
        self._clock = clock or SystemClock()
        self._subject = subjects.LEADER.format(name=name)
        self._revision = 0
        # Silence is measured on our own clock, from when we last saw the claim change: no clocks are compared.
        self._seen_revision = -1
        self._seen_at = 0.0

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Stand by until elected, call `lead`, cancel it when leadership is lost, and stand by again.

        Returns when `lead` returns. When canceled, or when `lead` returns or raises, leadership is released, so
        that the next one need not wait.
        """
        while True:
            await self._stand_by()
            _log.info("leadership_taken", name=self.name, term=self.term)
            if await self._lead(lead):
                return

    async def _lead(self, lead: Callable[[], Awaitable[None]]) -> bool:
        """Return whether `lead` came to its own end (rather than leadership being lost)."""
        self.leading = True
        work = asyncio.ensure_future(lead())
        renewal = asyncio.create_task(self._renew())
        try:
            await asyncio.wait({work, renewal}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return True
            renewal.result()
            _log.warning("leadership_lost", name=self.name, term=self.term)
            return False
        finally:
            self.leading = False
            held = not renewal.done()
            for task in (work, renewal):
                task.cancel()
            await asyncio.gather(work, renewal, return_exceptions=True)
            if held:
                await asyncio.shield(self._release())

    async def _stand_by(self) -> None:
        while True:
            try:
                if await self._try_to_take():
                    return
            except BrokerUnavailable:
                # What we didn't hear while cut off says nothing about the holder: its silence starts anew.
                self._seen_revision = -1
            await self._clock.sleep(_POLL_S)

    async def _try_to_take(self) -> bool:
        message = await self._broker.last(STREAM, self._subject)
        claim = _claim_in(message)
        now = self._clock.monotonic()
        if message is not None and message.stream_seq != self._seen_revision:
            self._seen_revision, self._seen_at = message.stream_seq, now
        self.leader = None if claim is None or claim.released else claim.holder
        ours = claim is not None and claim.holder == self.holder
        if self.leader is not None and not ours and now - self._seen_at < SILENCE_S:
            return False
        self.term = (claim.term if claim else 0) + 1
        return await self._write(message.stream_seq if message else 0, released=False)

    async def _renew(self) -> None:
        """Renew until leadership is lost: taken by another, or not renewed for 3 s."""
        renewed_at = self._clock.monotonic()
        while self._clock.monotonic() - renewed_at < SILENCE_S:
            await self._clock.sleep(RENEW_S)
            try:
                if not await self._write(self._revision, released=False):
                    return
                renewed_at = self._clock.monotonic()
            except BrokerUnavailable:
                continue

    async def _release(self) -> None:
        try:
            await self._write(self._revision, released=True)
        except BrokerUnavailable:
            _log.info("leadership_not_released", name=self.name, detail="the broker is away; it runs out in 3 s")

    async def _write(self, expected: int, *, released: bool) -> bool:
        claim = LeaderClaim(holder=self.holder, term=self.term, at=self._clock.now(), released=released)
        try:
            self._revision = await self._broker.append(
                self._subject, messages.encode(claim), expected_last=expected, timeout_s=RENEW_S
            )
        except WrongLastSequence:
            return False
        self.leader = None if released else self.holder
        return True


def _claim_in(message: Message | None) -> LeaderClaim | None:
    if message is None:
        return None
    try:
        return messages.decode(message.data, LeaderClaim)
    except msgspec.MsgspecError:
        return None
