"""Has what a bot asks of a carrier's API come to the stub, whose address is in `CARRIER_API_URL`.

For bots under Pipecat's development runner: a file of `PIPECAT_SETUP_FILES`, which Pipecat loads with a bot's runner.
Its serializers for Telnyx and Plivo hang up at addresses that nothing sets.
"""

import os
from typing import Any

import aiohttp
from yarl import URL

_request: Any = aiohttp.ClientSession._request


async def _ask_stub(session: aiohttp.ClientSession, method: str, url: str, **options: Any) -> Any:
    return await _request(session, method, URL(os.environ["CARRIER_API_URL"]).join(URL(url).relative()), **options)


async def setup_worker_runner(_runner: object) -> None:
    """Begin with it."""
    vars_of: Any = aiohttp.ClientSession
    vars_of._request = _ask_stub
