"""Connections to PostgreSQL, and what its errors mean: away, or never."""

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import asyncpg

from greenroom.common.errors import DatabaseUnavailable

# How long one statement may take: a batch of 500 rows takes 4 ms, a lock held by a migration longer.
STATEMENT_TIMEOUT_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 3.0
_CONNECT_RETRY_S: Final = 0.1

# asyncpg comes without types.
type Connection = Any
type Pool = Any
_driver: Final[Any] = asyncpg

# The server is away, starting, stopping, full, or undid the transaction for somebody else's sake: later it will do.
_AWAY: Final = (
    OSError,  # TimeoutError and ConnectionError are such
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,  # a primary that has just become a standby
    asyncpg.InterfaceError,  # the connection was closed under the statement
    asyncpg.InternalClientError,  # the server has said goodbye, and hasn't closed the connection yet
    asyncpg.InvalidCatalogNameError,  # not made, or not migrated yet
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
)
# What is wrong with the rows themselves: a NUL in a text, a number out of range, a broken rule of the schema; and half
# a character, which a statement calls an error of data, and COPY doesn't.
_NEVER: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    UnicodeEncodeError,
)


class _PoolConnection(asyncpg.Connection):
    """A connection that is handed on as it is: our statements leave no state of the session behind."""

    def get_reset_query(self) -> str:
        """Return what is executed after each use: nothing; open transactions are rolled back all the same."""
        return ""

    async def execute(self, *args: Any, **options: Any) -> Any:
        """See `asyncpg.Connection.execute`."""
        with self._whole_or_gone():
            return await super().execute(*args, **options)

    async def fetch(self, *args: Any, **options: Any) -> Any:
        """See `asyncpg.Connection.fetch`."""
        with self._whole_or_gone():
            return await super().fetch(*args, **options)

    async def fetchrow(self, *args: Any, **options: Any) -> Any:
        """See `asyncpg.Connection.fetchrow`."""
        with self._whole_or_gone():
            return await super().fetchrow(*args, **options)

    async def fetchval(self, *args: Any, **options: Any) -> Any:
        """See `asyncpg.Connection.fetchval`."""
        with self._whole_or_gone():
            return await super().fetchval(*args, **options)

    async def copy_records_to_table(self, *args: Any, **options: Any) -> Any:
        """See `asyncpg.Connection.copy_records_to_table`."""
        with self._whole_or_gone():
            return await super().copy_records_to_table(*args, **options)

    @contextmanager
    def _whole_or_gone(self) -> Generator[None]:
        """Give up a connection that asyncpg is confused by: it would be handed out again and again.

        A server that ends says so to connections that nobody is using; asyncpg takes that for a mistake, and refuses
        all use of the connection until the server closes it.
        """
        try:
            yield
        except asyncpg.InternalClientError:
            self.terminate()
            raise


class UnstorableRow(Exception):
    """PostgreSQL refuses a row and will always do so; carries the reason without the row's values."""


async def connect(dsn: str, *, timeout_s: float, statement_timeout_s: float | None = STATEMENT_TIMEOUT_S) -> Connection:
    """Return a connection, however long the server takes to come up, within `timeout_s`.

    Raises:
        DatabaseUnavailable: not within `timeout_s`, or it refuses us (unknown database, wrong password).
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return await _driver.connect(dsn, timeout=CONNECT_TIMEOUT_S, command_timeout=statement_timeout_s)
        except _AWAY as error:
            if time.monotonic() >= deadline:
                raise DatabaseUnavailable(f"PostgreSQL can't be reached: {type(error).__name__}") from error
        except asyncpg.PostgresError as error:
            raise DatabaseUnavailable(f"PostgreSQL refuses the connection: {type(error).__name__}") from error
        await asyncio.sleep(_CONNECT_RETRY_S)


async def open_pool(dsn: str, *, size: int) -> Pool:
    """Return a pool of up to `size` connections; none is made before it is needed, so the server may be away."""
    return await _driver.create_pool(
        dsn,
        min_size=0,
        max_size=size,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=STATEMENT_TIMEOUT_S,
        connection_class=_PoolConnection,
        # A recorder that is cut off in mid-transaction must not hold its row locks for the next one to wait on.
        server_settings={"idle_in_transaction_session_timeout": "15s", "application_name": "greenroom-recorder"},
    )


@contextmanager
def translated() -> Generator[None]:
    """Turn the errors of asyncpg into the two that matter.

    Raises:
        DatabaseUnavailable: try again later.
        UnstorableRow: never.
    """
    try:
        yield
    except _NEVER as error:
        raise UnstorableRow(f"PostgreSQL refuses it: {type(error).__name__}") from error
    except _AWAY as error:
        raise DatabaseUnavailable(f"PostgreSQL can't be reached: {type(error).__name__}") from error


async def close_pool(pool: Pool, *, timeout_s: float) -> None:
    """Close the pool when its statements are done, or after `timeout_s` without waiting for them."""
    try:
        async with asyncio.timeout(timeout_s):
            await pool.close()
    except TimeoutError:
        pool.terminate()
