"""What a session process has its carrier do: it asks the api, which has the account."""

from typing import Any, Final

import msgspec

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, NoResponder, RequestTimeout
from greenroom.common.command_errors import TransferFailed, error_of
from greenroom.common.commands import CommandAnswer, CommandRefused, TransferCall
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Session

# The api gives a carrier 15 s (5 s to connect, 10 s to answer); commands have to be answered within 30 s.
_TIMEOUT_S: Final = 20.0
_ANSWER: Final[Any] = CommandAnswer


async def transfer(broker: Broker, session: Session, target: str) -> None:
    """Have a session's phone call handed over; asked once, whatever comes of it.

    Raises:
        TransferFailed: the carrier doesn't, or it isn't known whether it does.
        GreenroomError: the api refuses.
    """
    subject = subjects.SESSION_ASK.format(tenant=session.tenant, session_id=session.id, name="transfer")
    try:
        asked = messages.encode(TransferCall(id=uuid7(), target=target))
        reply = await broker.request(subject, asked, timeout_s=_TIMEOUT_S)
        answer = messages.decode(reply.data, _ANSWER)
    except NoResponder as error:
        raise TransferFailed("No api is there that has the carrier's account; nothing was done.") from error
    except (RequestTimeout, BrokerUnavailable, msgspec.MsgspecError) as error:
        raise TransferFailed("The api didn't answer; whether it was done isn't known.") from error
    if isinstance(answer, CommandRefused):
        raise error_of(answer.code, answer.detail)
