"""The api as it is, but for one thing: what it would append to the ledger is thrown away.

`python -m tests.bench.bare_api` takes the settings of the api from the environment and prints its URL.
"""

import sys
from collections.abc import Mapping
from socket import socket
from typing import override
from unittest.mock import patch

from greenroom.api import __main__ as api
from greenroom.api import server
from greenroom.api.settings import ApiSettings
from greenroom.common import subjects
from greenroom.common.broker import APPEND_TIMEOUT_S
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.service import run_service


class WithoutLedger(NatsBroker):
    """Acknowledges the ledger's messages without storing them."""

    @override
    async def append(
        self,
        subject: str,
        data: bytes,
        *,
        msg_id: str | None = None,
        expected_last: int | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = APPEND_TIMEOUT_S,
    ) -> int:
        """Store what isn't the ledger's."""
        if subjects.SESSION_LIFECYCLE.parse(subject) is not None:
            return 1
        return await super().append(
            subject, data, msg_id=msg_id, expected_last=expected_last, headers=headers, timeout_s=timeout_s
        )


def _listening(host: str, port: int) -> socket:
    """Say where."""
    listener = server.listen(host, port)
    print(f"http://{host}:{listener.getsockname()[1]}", flush=True)
    return listener


if __name__ == "__main__":
    with patch.object(api, "NatsBroker", WithoutLedger), patch.object(api, "listen", _listening):
        sys.exit(run_service("api", ApiSettings, api.serve))
