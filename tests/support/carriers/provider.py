"""A carrier's API by itself, in virtual time: it makes calls and ends them, and nobody ever speaks."""

import itertools
from collections.abc import Callable
from typing import override

from tests.support.carriers.dialect import Dialect, Leg, Request, Transferred
from tests.support.provider_stub import Asked, ProviderStub, Said


class CarrierProvider(ProviderStub):
    """One carrier.

    Args:
        dialect: its own.

    Attributes:
        live: calls that aren't over.
        dialled: how many were ever made.
        transferred: what it was asked to hand over; the calls go on.
        on_call: told the session and the id of each call that is made, as the carrier's first webhook does.
    """

    def __init__(self, dialect: Dialect) -> None:
        super().__init__()
        self.live: set[str] = set()
        self.dialled = 0
        self.transferred: list[Transferred] = []
        self.on_call: Callable[[str, str], None] = lambda _session_id, _call_id: None
        self._dialect = dialect
        self._numbers = itertools.count(1)

    @override
    def carry_out(self, asked: Asked) -> Said:
        request = Request(method=asked.method, path=asked.path, headers=asked.headers, fields=asked.body)
        assert self._dialect.authentic(request)
        wanted = self._dialect.dials(request)
        if wanted is not None:
            leg = Leg(call_id=f"call-{next(self._numbers)}", stream_id="-", caller=wanted.caller, called=wanted.to)
            self.live.add(leg.call_id)
            self.dialled += 1
            # …/calls/TENANT.SESSION.PROOF/status
            self.on_call(wanted.status_url.split("/calls/")[1].split(".")[1], leg.call_id)
            return _said(self._dialect.dialled(leg))
        transferred = self._dialect.transfers(request)
        if transferred is not None:
            self.transferred.append(transferred)
            return _said(self._dialect.transferred(known=transferred.call_id in self.live))
        call_id = self._dialect.hangs_up(request)
        assert call_id is not None, asked
        known = call_id in self.live
        self.live.discard(call_id)
        return _said(self._dialect.hung_up(known=known))

    def close_sockets(self) -> None:
        """End the calls whose media sockets are closed."""
        self.live.clear()


def _said(answer: tuple[int, dict[str, object]]) -> Said:
    status, body = answer
    return Said(status=status, body=body)
