"""Which session a call belongs to: one session a call, one call a session, whoever asks and however often.

Everything here is compare-and-set on a subject of its own (stream CALLS): whoever writes first has decided.
"""

import contextlib
import hashlib
from typing import Final

import msgspec

from greenroom.api.carriers.base import WebhookReplayed
from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, WrongLastSequence
from greenroom.common.call_messages import CallRecord, WebhookSeen
from greenroom.common.clock import Clock, SystemClock

STREAM: Final = "CALLS"


class CallBook:
    """Remembers calls.

    Args:
        broker: where.
        clock: of the entries.
    """

    def __init__(self, broker: Broker, clock: Clock | None = None) -> None:
        self._broker = broker
        self._clock = clock or SystemClock()

    async def of_call(self, carrier: str, call_id: str) -> CallRecord | None:
        """Return what is known of a call, by the carrier's id of it. Raises `BrokerUnavailable`."""
        return await self._read(_by_call(carrier, call_id))

    async def of_session(self, session_id: str) -> CallRecord | None:
        """Return the call of a session. Raises `BrokerUnavailable`."""
        return await self._read(_by_session(session_id))

    async def claim(self, carrier: str, call_id: str, tenant: str, session_id: str, *, origin: str = "") -> CallRecord:
        """Give a call a session; return the one that it has.

        Args:
            carrier: whose call.
            call_id: its id.
            tenant: of the session.
            session_id: of a session that doesn't exist yet.
            origin: how the carrier reaches us.

        Raises:
            BrokerUnavailable: it isn't known which it has.
        """
        record = CallRecord(
            carrier=carrier,
            tenant=tenant,
            session_id=session_id,
            call_id=call_id,
            origin=origin,
            at=self._clock.now(),
        )
        record = await self._first(_by_call(carrier, call_id), record)
        await self._first(_by_session(record.session_id), record)
        return record

    async def dialling(self, carrier: str, tenant: str, session_id: str, *, origin: str = "") -> bool:
        """Tell whether a session's call may be dialled: True to one who asks. Raises `BrokerUnavailable`."""
        record = CallRecord(carrier=carrier, tenant=tenant, session_id=session_id, origin=origin, at=self._clock.now())
        subject = _by_session(session_id)
        stored = await self._broker.last(STREAM, subject)
        if stored is not None and stored.data:
            return False
        try:
            await self._broker.append(
                subject, messages.encode(record), expected_last=stored.stream_seq if stored is not None else 0
            )
        except WrongLastSequence:
            return False
        return True

    async def not_dialled(self, session_id: str) -> None:
        """Note that a call wasn't made after all, so that it may be dialled again. Raises `BrokerUnavailable`."""
        subject = _by_session(session_id)
        stored = await self._broker.last(STREAM, subject)
        if stored is not None and stored.data and not messages.decode(stored.data, CallRecord).call_id:
            with contextlib.suppress(WrongLastSequence):
                await self._broker.append(subject, b"", expected_last=stored.stream_seq)

    async def learn(
        self, session_id: str, *, call_id: str = "", over: bool = False, transfer_to: str | None = None
    ) -> None:
        """Note what a carrier says of a session's call: its id, that it is over; or whom it is handed over to.

        Raises:
            BrokerUnavailable: it wasn't noted.
        """
        subject = _by_session(session_id)
        while True:
            stored = await self._broker.last(STREAM, subject)
            if stored is None or not stored.data:
                return
            record = messages.decode(stored.data, CallRecord)
            known = msgspec.structs.replace(
                record,
                call_id=call_id or record.call_id,
                over=over or record.over,
                transfer_to=record.transfer_to if transfer_to is None else transfer_to,
            )
            if known == record:
                return
            try:
                await self._broker.append(subject, messages.encode(known), expected_last=stored.stream_seq)
            except WrongLastSequence:
                continue
            if known.call_id:
                await self._first(_by_call(known.carrier, known.call_id), known)
            return

    async def once(self, carrier: str, nonce: str, url: str, body: bytes) -> None:
        """Take a webhook's nonce: the same webhook may come again, another one with the same nonce may not.

        Raises:
            WebhookReplayed: the nonce was used for something else.
            BrokerUnavailable: that can't be told now.
        """
        seen = WebhookSeen(body_sha256=hashlib.sha256(url.encode() + b"\n" + body).hexdigest(), at=self._clock.now())
        subject = subjects.WEBHOOK.format(key=_digest("nonce", carrier, nonce))
        try:
            await self._broker.append(subject, messages.encode(seen), expected_last=0)
        except WrongLastSequence as error:
            stored = await self._broker.last(STREAM, subject)
            if stored is None or messages.decode(stored.data, WebhookSeen).body_sha256 != seen.body_sha256:
                raise WebhookReplayed from error

    async def _read(self, subject: str) -> CallRecord | None:
        stored = await self._broker.last(STREAM, subject)
        return messages.decode(stored.data, CallRecord) if stored is not None and stored.data else None

    async def _first(self, subject: str, record: CallRecord) -> CallRecord:
        try:
            await self._broker.append(subject, messages.encode(record), expected_last=0)
        except WrongLastSequence:
            return await self._read(subject) or record
        return record


def _by_call(carrier: str, call_id: str) -> str:
    return subjects.CALL.format(key=_digest("call", carrier, call_id))


def _by_session(session_id: str) -> str:
    return subjects.CALL.format(key=_digest("session", session_id))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
