"""Waiting for a session: hints may be early."""

import asyncio
from typing import Any, cast

from greenroom.api.waiters import LOOK_EVERY_S, Waiters
from greenroom.common.ledger import Ledger
from greenroom.common.lifecycle import Leased, Session, State
from greenroom.common.messages import LedgerEntry, encode
from greenroom.common.subjects import SESSION_LIFECYCLE
from tests.support.ledgers import a_request
from tests.support.memory_broker import MemoryServer


async def test_a_hint_that_is_heard_before_its_write_can_be_read_costs_milliseconds() -> None:
    """A reader that finds the old entry looks again soon, and doesn't wait for the next regular look."""
