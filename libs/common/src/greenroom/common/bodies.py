"""Large bodies of sessions (`body`, what a bot is given): laid down by the api, fetched by the session's process.

Each ledger message has the whole session in it, so a large body would be written, kept and read a dozen times. It lies
once in a stream of its own instead, as the last message of the session's subject, and the session says how large it is
and what its digest is. It stays for another try on another runner; when the session is over the api takes it away, and
what nobody takes away is gone after seven days.
"""

import hashlib
from typing import Any, Final

import msgspec

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker
from greenroom.common.errors import BodyTooLarge, BrokerUnavailable
from greenroom.common.lifecycle import BodyRef, Session
from greenroom.common.messages import SessionBody

STREAM: Final = "BODIES"
# Bytes of a body as JSON without spaces. With its envelope it fits into a message of 1 MiB, NATS's default.
MAX_BYTES: Final = 1_000_000
# What the ledger takes itself.
INLINE_BYTES: Final = 64 * 1024


class BodyUnavailable(Exception):
    """A session's body can't be had; the text says why and may be shown to anybody."""


class Bodies:
    """Keeps the large bodies of sessions.

    Args:
        broker: where they lie.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def put(self, session: Session) -> Session:
        """Lay down the body of a session, in place of what was there; return the session with a reference to it.

        Raises:
            BodyTooLarge: it has more than `MAX_BYTES`.
            BrokerUnavailable: it wasn't stored.
        """
        data = encoded(session.body)
        message = messages.encode(SessionBody(body=msgspec.Raw(data)))
        await self._broker.append(_subject(session.tenant, session.id), message)
        ref = BodyRef(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        return msgspec.structs.replace(session, body={}, body_ref=ref)

    async def fetch(self, session: Session) -> Session:
        """Return a session with its body in it, whether it lay here or came with the session.

        Raises:
            BodyUnavailable: it isn't there (any more), isn't what was laid down, or can't be read now.
        """
        ref = session.body_ref
        if ref is None:
            return session
        try:
            stored = await self._broker.last(STREAM, _subject(session.tenant, session.id))
        except BrokerUnavailable as error:
            raise BodyUnavailable(
                f"the body of the session can't be read now: {error.detail or error.title}"
            ) from error
        if stored is None or not stored.data:
            raise BodyUnavailable("the body of the session isn't there any more")
        return msgspec.structs.replace(session, body=_opened(stored.data, ref))

    async def forget(self, tenant: str, session_id: str) -> None:
        """Take away the body of a session that is over; nothing if there is none.

        Raises:
            BrokerUnavailable: it may still be there.
        """
        subject = _subject(tenant, session_id)
        stored = await self._broker.last(STREAM, subject)
        if stored is not None and stored.data:
            await self._broker.append(subject, b"")


def encoded(body: dict[str, Any]) -> bytes:
    """Return a body as it is measured and stored.

    Raises:
        BodyTooLarge: it has more than `MAX_BYTES`.
    """
    data = msgspec.json.encode(body)
    if len(data) > MAX_BYTES:
        raise BodyTooLarge(f"/body: it has {len(data)} bytes as JSON without spaces; {MAX_BYTES} are taken.")
    return data


def _opened(data: bytes, ref: BodyRef) -> dict[str, Any]:
    try:
        body = bytes(messages.decode(data, SessionBody).body)
        if hashlib.sha256(body).hexdigest() != ref.sha256:
            raise BodyUnavailable("the body of the session isn't the one that it was requested with")
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise BodyUnavailable("the body of the session can't be read") from error


def _subject(tenant: str, session_id: str) -> str:
    return subjects.BODY.format(tenant=tenant, session_id=session_id)
