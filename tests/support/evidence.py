"""Looks for words everywhere that Greenroom keeps anything: all tables, all messages of all streams, all files."""

import base64
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import asyncpg
import msgspec
from nats.js import errors as js_errors

from greenroom.common.nats_broker import NatsBroker

_TABLES: Final = """
SELECT oid::regclass::text FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'm') AND NOT relispartition ORDER BY 1
"""


async def found_in_tables(dsn: str, words: Iterable[bytes]) -> dict[str, int]:
    """Return how many rows of which tables have one of `words` in them, as text."""
    connection = await asyncpg.connect(dsn)
    counts: dict[str, int] = {}
    try:
        for (table,) in await connection.fetch(_TABLES):
            # The record as text, as `COPY` or `pg_dump` would write it.
            rows = await connection.fetch(f"SELECT line::text FROM {table} AS line")  # noqa: S608 from the catalogue
            if count := sum(_has(row[0].encode(), words) for row in rows):
                counts[table] = count
    finally:
        await connection.close()
    return counts


async def found_in_streams(broker: NatsBroker, words: Iterable[bytes]) -> dict[str, int]:
    """Return how many messages of which streams have one of `words`: in subject, headers, body, or inside it."""
    jetstream = broker.client.jetstream()
    counts: dict[str, int] = {}
    for info in await jetstream.streams_info():
        name = str(info.config.name)
        for seq in range(max(info.state.first_seq, 1), info.state.last_seq + 1):
            with contextlib.suppress(js_errors.NotFoundError):
                message = await jetstream.get_msg(name, seq)
                text = b"\n".join(
                    [
                        str(message.subject).encode(),
                        repr(message.headers or {}).encode(),
                        message.data or b"",
                        _inside(message.data or b""),
                    ]
                )
                if _has(text, words):
                    counts[name] = counts.get(name, 0) + 1
    return counts


def found_in_files(folder: Path, words: Iterable[bytes]) -> dict[str, int]:
    """Return the files, by their name within `folder`, that have one of `words` in their name or content."""
    found: dict[str, int] = {}
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        name = path.relative_to(folder).as_posix()
        if _has(name.encode(), words) or _has(content, words):
            found[name] = 1
    return found


def _has(text: bytes, words: Iterable[bytes]) -> bool:
    return any(word in text for word in words)


def _inside(data: bytes) -> bytes:
    """Return the message in a parked one."""
    try:
        return base64.b64decode(msgspec.json.decode(data)["payload"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return b""
