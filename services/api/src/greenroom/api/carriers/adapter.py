"""Phone calls as a transport: one that came in has its session made by `calls`, one that is asked for is dialled.

What is asked for is written down (`DialPlan`) and dialled once the session is ready, so that whoever picks up is heard
at once; what was there is hung up when the session is over, if the carrier hasn't said that it is, and if the caller
wasn't handed over.
"""

import contextlib
from collections.abc import Generator
from typing import Annotated, Any, Final, override

import msgspec
from msgspec import Meta

from greenroom.api.canonical import canonical_number, dialled_number
from greenroom.api.carriers.base import Call, Carrier
from greenroom.api.carriers.callbook import CallBook
from greenroom.api.carriers.dials import Dials
from greenroom.api.carriers.rest import CarrierRefused, Rest, succeeded, told
from greenroom.api.phone_numbers import Numbers
from greenroom.api.schemas import Transport
from greenroom.api.transports.base import Adapter, Asked, Prepared, options_of
from greenroom.common.call_data import CallData, CallDirection
from greenroom.common.errors import FieldProblem, InvalidBody
from greenroom.common.lifecycle import Session

_PHONE: Final = r"^\+?[0-9]{3,20}(?!\n)$"


class CallOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom to call.

    Attributes:
        to: the number.
        caller: the tenant's own number, which is shown.
        machine_detection: whether the carrier shall find out if a machine picked up.
        ring_timeout_s: how long to ring.
    """

    to: Annotated[str, Meta(pattern=_PHONE)]
    caller: Annotated[str, Meta(pattern=_PHONE)] = msgspec.field(name="from")
    machine_detection: bool = False
    ring_timeout_s: Annotated[int, Meta(ge=5, le=120)] = 45


class CarrierAdapter(Adapter):
    """One carrier.

    Args:
        carrier: which.
        numbers: says whose numbers are.
        book: knows the calls.
        dials: takes what is to be dialled.
        rest: hangs up.
    """

    def __init__(self, carrier: Carrier, *, numbers: Numbers, book: CallBook, dials: Dials, rest: Rest) -> None:
        self.carrier = carrier
        self._numbers = numbers
        self._book = book
        self._dials = dials
        self._rest = rest
        self._incoming: dict[str, Call] = {}

    @property
    @override
    def name(self) -> str:
        return self.carrier.name

    @contextlib.contextmanager
    def incoming(self, session_id: str, call: Call) -> Generator[None]:
        """Have a session prepared, within the block, for a call that is there."""
        self._incoming[session_id] = call
        try:
            yield
        finally:
            self._incoming.pop(session_id, None)

    @override
    def check(self, options: dict[str, Any]) -> None:
        wanted = options_of(options, CallOptions)
        if wanted.machine_detection and not self.carrier.detects_machines:
            raise _invalid("transport_options/machine_detection", f"{self.name} doesn't say who picked up.")

    @override
    def plan(self, session: Session, options: dict[str, Any]) -> dict[str, str]:
        return {}

    @override
    async def prepare(self, asked: Asked, session: Session, options: dict[str, Any]) -> Prepared:
        call = self._incoming.get(session.id)
        direction: CallDirection = "outbound" if call is None else "inbound"
        if call is not None:
            info = {"direction": "inbound", "call_id": call.call_id, "from": call.caller, "to": call.called}
            number = session.number
        else:
            wanted = options_of(options, CallOptions)
            number = await self._own(session, wanted.caller)
            await self._dials.plan(
                self.carrier,
                session,
                to=wanted.to,
                caller=wanted.caller,
                ring_timeout_s=wanted.ring_timeout_s,
                machine_detection=wanted.machine_detection,
                origin=asked.origin,
            )
            info = {"direction": "outbound", "from": wanted.caller, "to": wanted.to}
        public = Transport(type=self.name, info=info)
        known = CallData(
            carrier=self.name,
            direction=direction,
            call_id=info.get("call_id") or None,
            from_=dialled_number(info["from"], bare=self.carrier.leaves_out_plus) or None,
            to=dialled_number(info["to"], bare=self.carrier.leaves_out_plus) or None,
        )
        secrets = self._secrets()
        return Prepared(public=public, info=info, secrets=secrets, carrier=self.name, number=number, call=known)

    @override
    async def answer(self, asked: Asked, session_id: str, public: Transport, *, again: bool) -> Transport:
        return public

    @override
    async def release(self, tenant: str, session_id: str, info: dict[str, str]) -> None:
        record = await self._book.of_session(session_id)
        if record is None or record.over or record.transfer_to or not record.call_id:
            return
        for request in self.carrier.hang_up(record.call_id):
            answer = await self._rest.ask(self.name, request)
            if succeeded(answer):
                break
            if not self.carrier.is_over(answer):
                raise CarrierRefused(f"{self.name}: {told(answer)}")
        await self._book.learn(session_id, over=True)

    def _secrets(self) -> dict[str, str]:
        named = {f"env.{name}": value for name, value in self.carrier.environment.items()}
        return {**named, "api_url": self.carrier.bot_api_url}

    async def _own(self, session: Session, number: str) -> str:
        """Return the tenant's number as it is written in the list of numbers, which is how limits name it.

        Raises:
            InvalidBody: it isn't the tenant's, or the request names others for limits to count it by.
        """
        found = await self._numbers.find(self.name, number)
        if found is None or found.tenant != session.tenant:
            raise _invalid(
                "transport_options/from", "The tenant has no such number at this carrier; see `PUT /v1/numbers`."
            )
        if session.carrier not in {None, self.name}:
            raise _invalid("carrier", f"The call goes over {self.name}.")
        if session.number not in {None, canonical_number(number), found.number}:
            raise _invalid("number", f"The call is made from {found.number}.")
        return found.number


def _invalid(field: str, detail: str) -> InvalidBody:
    pointer = f"/{field}"
    return InvalidBody(f"{pointer}: {detail}", errors=[FieldProblem(pointer=pointer, detail=detail)])
