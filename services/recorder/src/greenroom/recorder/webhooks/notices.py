"""Takes what is said of tenants beside their sessions, so that their webhook endpoints are told.

    stream NOTICES ─▶ consumer ─▶ row of `notices` ─(trigger, the same transaction)─▶ deliveries

A notice is a row once, however often it comes: it is known by its id. What is said of one budget or one limit is a
lane, in the order of the stream, as the events of one session are. What can't be read is parked.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import structlog

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message
from greenroom.common.budgets import BudgetNotice
from greenroom.common.consumer import Consumer, Drop, Retry, malformed
from greenroom.common.errors import DatabaseUnavailable
from greenroom.common.notices import LIMIT_REACHED, LimitNotice
from greenroom.recorder.database import Pool, UnstorableRow, translated

_log = structlog.get_logger()

STREAM: Final = "NOTICES"
CONSUMER: Final = "recorder-notices"
_MAX_BATCH: Final = 100
_AWAY_RETRY_S: Final = 1.0
# What its endpoint has anyway.
_ENVELOPE: Final = frozenset({"id", "kind", "at", "tenant"})

_STORE: Final = """
INSERT INTO notices (id, tenant, type, subject, stream_seq, at, source, data)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[], $7::text[], $8::jsonb[]
) ORDER BY 5
ON CONFLICT (id) DO NOTHING
"""


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What was said; fields as the columns of `notices`."""

    id: str
    tenant: str
    type: str
    subject: str
    stream_seq: int
    at: datetime
    source: str
    data: dict[str, Any]


def decode(message: Message) -> Notice:
    """Return what is in a message of NOTICES.

    Raises:
        Drop: it is malformed.
    """
    tokens = subjects.NOTICE.parse(message.subject)
    if tokens is None:
        raise Drop("malformed: it has no kind")
    is_limit = tokens["kind"] == LIMIT_REACHED
    try:
        said = messages.decode(message.data, LimitNotice if is_limit else BudgetNotice)
    except msgspec.MsgspecError as error:
        raise malformed(error) from error
    if (said.tenant, said.kind) != (tokens["tenant"], tokens["kind"]):
        raise Drop("malformed: it is another tenant's, or of another kind, than the subject says")
    if isinstance(said, LimitNotice):
        subject, source = f"limit {said.limit} {said.key}", "scheduler"
    else:
        subject, source = f"budget {said.budget}", "recorder"
    return Notice(
        id=said.id,
        tenant=said.tenant,
        type=said.kind,
        subject=subject,
        stream_seq=message.stream_seq,
        at=said.at,
        source=source,
        data={name: value for name, value in messages.as_data(said).items() if name not in _ENVELOPE},
    )


class Notices:
    """Stores notices, beside any number of others.

    Args:
        broker: where they come from.
        pool: connections to PostgreSQL.
    """

    def __init__(self, broker: Broker, pool: Pool) -> None:
        self._pool = pool
        self._consumer = Consumer(broker, STREAM, CONSUMER, decode=decode, handle=self.handle, max_batch=_MAX_BATCH)

    async def run(self) -> None:
        """Store until canceled."""
        await self._consumer.run_once_there()

    async def handle(self, batch: Sequence[Notice]) -> None:
        """Store a batch.

        Raises:
            Retry: PostgreSQL is away.
            Drop: something in it can never be stored.
        """
        rows = [
            (each.id, each.tenant, each.type, each.subject, each.stream_seq, each.at, each.source, _json(each.data))
            for each in batch
        ]
        try:
            with translated():
                await self._pool.execute(_STORE, *(list(column) for column in zip(*rows, strict=True)))
        except DatabaseUnavailable as error:
            _log.warning("notices_not_stored", code=error.code, messages=len(batch), again_in_s=_AWAY_RETRY_S)
            raise Retry(_AWAY_RETRY_S) from error
        except UnstorableRow as error:
            raise Drop(str(error)) from error


def _json(data: dict[str, Any]) -> str:
    return msgspec.json.encode(data).decode()
