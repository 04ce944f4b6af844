"""Single queries of the commands to PostgreSQL."""

from typing import Any, Final

from greenroom.common.errors import DatabaseUnavailable
from greenroom.recorder import database

_TIMEOUT_S: Final = 10.0


async def fetch(dsn: str, query: str, *args: Any) -> list[dict[str, Any]]:
    """Return the rows of one query, column by name.

    Raises:
        DatabaseUnavailable: PostgreSQL doesn't answer within 10 s, or refuses the query (are the tables there?).
    """
    connection = await database.connect(dsn, timeout_s=_TIMEOUT_S)
    try:
        with database.translated():
            return [dict(row) for row in await connection.fetch(query, *args, timeout=_TIMEOUT_S)]
    except database.UnstorableRow as error:
        raise DatabaseUnavailable(f"PostgreSQL refuses the query: {error}") from error
    finally:
        await connection.close(timeout=_TIMEOUT_S)
