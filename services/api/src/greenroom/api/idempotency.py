"""`Idempotency-Key`: the same request sent twice is one request, whatever crashed in between.

Two phases, each one compare-and-set on the key's subject: first the key is reserved together with the id of the
session that is to be made, then the answer is written over the reservation. Whoever finds a reservation without an
answer (the first request is under way, or the process that had it died) does the work again with the same id,
which the ledger accepts once. So concurrent duplicates share one session, and so do retries after a crash.
"""

import hashlib
import re
from typing import Final

import msgspec

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message, WrongLastSequence
from greenroom.common.clock import Clock, SystemClock
from greenroom.common.errors import GreenroomError, IdempotencyInProgress, IdempotencyMismatch
from greenroom.common.ids import uuid7
from greenroom.common.messages import IdempotencyRecord

STREAM: Final = "IDEMPOTENCY"
MAX_KEY_CHARS: Final = 255
# Printable ASCII, as header values may have it without a question of encoding.
_SHAPE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")


class InvalidIdempotencyKey(GreenroomError):
    """The header `Idempotency-Key` isn't 1 to 255 printable ASCII characters. A UUID made by the caller is best."""

    code = "invalid-idempotency-key"
    status = 400
    title = "The idempotency key is unusable"


class Reserved(msgspec.Struct, frozen=True, kw_only=True):
    """Do the work, with this session id; `revision` is where the answer goes."""

    session_id: str
    revision: int
    record: IdempotencyRecord


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """The request was answered before."""

    session_id: str
    status: int
    answer: msgspec.Raw


class Idempotency:
    """What was answered to which key, for 24 hours."""

    def __init__(self, broker: Broker, *, clock: Clock | None = None) -> None:
        """Keep records on `broker`."""
        self._broker = broker
        self._clock = clock or SystemClock()

    async def answered(self, tenant: str, key: str, body_sha256: str) -> Answered | None:
        """Return what a key was answered with, if it was; reserves nothing. Raises as `begin`."""
        message = await self._broker.last(STREAM, _subject(tenant, key))
        found = _found(message, body_sha256) if message else None
        return found if isinstance(found, Answered) else None

    async def begin(self, tenant: str, key: str, body_sha256: str) -> Reserved | Answered:
        """Reserve a key, or return what it was answered with.

        Args:
            tenant: whose key it is.
            key: as it was sent.
            body_sha256: digest of the canonical request.

        Raises:
            InvalidIdempotencyKey: the key is empty, too long or has characters of its own.
            IdempotencyMismatch: the key was used for another request.
            BrokerUnavailable: it isn't known whether the key is reserved; trying again is safe.
        """
        subject = _subject(tenant, key)
        record = IdempotencyRecord(body_sha256=body_sha256, session_id=uuid7(), at=self._clock.now())
        try:
            revision = await self._broker.append(subject, messages.encode(record), expected_last=0)
        except WrongLastSequence:
            return _found(await self._broker.last(STREAM, subject), body_sha256)
        return Reserved(session_id=record.session_id, revision=revision, record=record)

    async def finish(self, tenant: str, key: str, reserved: Reserved, status: int, answer: bytes) -> Answered | None:
        """Write down the answer.

        Returns:
            None, or what a duplicate of this request wrote down first: then that is the answer to both.

        Raises:
            BrokerUnavailable: the reservation stays; a duplicate will do the work again, on the same session.
        """
        subject = _subject(tenant, key)
        record = msgspec.structs.replace(reserved.record, status=status, answer=msgspec.Raw(answer))
        try:
            await self._broker.append(subject, messages.encode(record), expected_last=reserved.revision)
        except WrongLastSequence:
            found = _found(await self._broker.last(STREAM, subject), reserved.record.body_sha256)
            return found if isinstance(found, Answered) else None
        return None


def _found(message: Message | None, body_sha256: str) -> Reserved | Answered:
    if message is None:
        # It ran out at this very moment.
        raise IdempotencyInProgress
    record = messages.decode(message.data, IdempotencyRecord)
    if record.body_sha256 != body_sha256:
        raise IdempotencyMismatch
    if record.answer is msgspec.UNSET:
        return Reserved(session_id=record.session_id, revision=message.stream_seq, record=record)
    return Answered(session_id=record.session_id, status=record.status, answer=record.answer)


def _subject(tenant: str, key: str) -> str:
    if not _SHAPE.fullmatch(key):
        raise InvalidIdempotencyKey(f"It must be 1 to {MAX_KEY_CHARS} printable ASCII characters.")
    return subjects.IDEMPOTENCY.format(tenant=tenant, key=hashlib.sha256(key.encode()).hexdigest())
