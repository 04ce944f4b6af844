"""One of many does it: leadership by compare-and-set on a subject, renewed each second.

A holder that is silent for 3 s has lost it. For a moment two may think that they lead (one of them cut off);
that is harmless because whatever a leader does is itself a compare-and-set.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message, WrongLastSequence
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import BrokerUnavailable, GreenroomError
from greenroom.common.messages import LeaderClaim

_log = structlog.get_logger()

STREAM: Final = "LEADERS"
RENEW_S: Final = 1.0
# Three renewals missed: long enough for a garbage collection or a broker hiccup, short enough to be unnoticed.
SILENCE_S: Final = 3.0
# How often who stands by looks, and who couldn't renew tries again; one look is a direct read, 0.13 ms.
_POLL_S: Final = 0.1
# Whoever ends doesn't wait longer than this to say so.
_RELEASE_TIMEOUT_S: Final = 2.0


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
        # When the last claim that was stored was sent: it can't have been seen before, so counting from here we have
        # stopped by the time that others take over.
        self._claimed_at = 0.0
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
            # A holder that renews while we are cut off is seen to have done so once we are back; one that was cut off
            # too has stopped by itself.
            with contextlib.suppress(BrokerUnavailable):
                if await self._try_to_take():
                    return
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
        return await self._claim(message.stream_seq if message else 0)

    async def _renew(self) -> None:
        """Renew until leadership is lost: taken by another, or not renewed for 3 s."""
        pause_s = RENEW_S
        while (left_s := self._left_s()) > 0:
            await self._clock.sleep(min(pause_s, left_s))
            try:
                async with asyncio.timeout(min(RENEW_S, self._left_s())):
                    if not await self._claim(self._revision):
                        return
                pause_s = RENEW_S
            except (BrokerUnavailable, TimeoutError):
                pause_s = _POLL_S

    def _left_s(self) -> float:
        return SILENCE_S - (self._clock.monotonic() - self._claimed_at)

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT_S):
                await self._claim(self._revision, released=True)
        except (GreenroomError, TimeoutError) as error:
            _log.info("leadership_not_released", name=self.name, detail=f"it runs out in 3 s ({type(error).__name__})")

    async def _claim(self, expected: int, *, released: bool = False) -> bool:
        """Store a claim on top of the one with sequence `expected`; return whether nobody else was first."""
        claim = LeaderClaim(holder=self.holder, term=self.term, at=self._clock.now(), released=released)
        sent_at = self._clock.monotonic()
        try:
            self._revision = await self._append(claim, expected)
        except WrongLastSequence:
            # It may be our own claim that is in the way, one whose acknowledgement was lost.
            message = await self._broker.last(STREAM, self._subject)
            last = _claim_in(message)
            if message is None or last is None or (last.holder, last.term) != (self.holder, self.term):
                return False
            try:
                self._revision = await self._append(claim, message.stream_seq)
            except WrongLastSequence:
                return False
        self._claimed_at = sent_at
        self.leader = None if released else self.holder
        return True

    async def _append(self, claim: LeaderClaim, expected: int) -> int:
        return await self._broker.append(
            self._subject, messages.encode(claim), expected_last=expected, timeout_s=RENEW_S
        )


def _claim_in(message: Message | None) -> LeaderClaim | None:
    if message is None:
        return None
    try:
        return messages.decode(message.data, LeaderClaim)
    except msgspec.MsgspecError:
        return None
