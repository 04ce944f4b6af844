"""Hands callers over, asked by the processes of their sessions: those have the command, and we have the account.

    session process    asks, once a command; only for its own session, by what its login allows
    here               notes in the call's record whom it goes to, then asks the carrier
    carrier            takes it: the bot's media socket is closed, the session ends as `transferred`
                       refuses: the note is taken back, and the command fails with the carrier's words
                       says nothing: the note stays, and the command fails; nobody knows

The note comes first, since a call that was handed over must not be hung up when its session is over, and the session
may be over before the carrier has answered. One that goes unanswered isn't hung up either: if it is still ours, it ends
with the bot's media.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog

from greenroom.api.carriers.base import Carrier, Transfer
from greenroom.api.carriers.callbook import CallBook
from greenroom.api.carriers.links import webhook_url
from greenroom.api.carriers.rest import CarrierRefused, CarrierThrottled, CarrierUnavailable, Rest
from greenroom.common import messages, subjects
from greenroom.common.broker import Broker, Message
from greenroom.common.command_errors import CommandNotDone, CommandUnsupported, TooManyCommands, TransferFailed
from greenroom.common.commands import CommandAnswer, CommandDone, CommandRefused, TransferCall
from greenroom.common.errors import BrokerUnavailable, GreenroomError

_log = structlog.get_logger()

SUBJECT: Final = subjects.SESSION_ASK.wildcard(name="transfer")
_QUEUE: Final = "api-transfers"
# Carriers that are asked at a time, by one instance; beyond it is refused, since whoever asks doesn't wait for long.
_AT_ONCE: Final = 32


class Transfers:
    """Answers `TransferCall`.

    Args:
        broker: brings the questions; all instances of the api share them.
        book: knows the calls.
        rest: asks the carriers.
        carriers: by name.
    """

    def __init__(self, *, broker: Broker, book: CallBook, rest: Rest, carriers: Mapping[str, Carrier]) -> None:
        self._broker = broker
        self._book = book
        self._rest = rest
        self._carriers = carriers
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Answer until canceled."""
        if not self._carriers:
            return
        subscription = await self._broker.subscribe(SUBJECT, self._on_message, queue=_QUEUE)
        try:
            await asyncio.Event().wait()
        finally:
            await subscription.unsubscribe()
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _on_message(self, message: Message) -> None:
        # Beside the subscription, which has the next one meanwhile.
        task = asyncio.create_task(self._answer(message), name="transfer")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _answer(self, message: Message) -> None:
        answer: CommandAnswer
        try:
            asked = messages.decode(message.data, TransferCall)
        except msgspec.MsgspecError as error:
            _log.warning("transfer_malformed", subject=message.subject, error=str(error))
            return
        tokens = subjects.SESSION_ASK.parse(message.subject) or {}
        try:
            if len(self._under_way) > _AT_ONCE:
                raise TooManyCommands("Too many calls are being handed over.")
            await self._hand_over(tokens.get("tenant", ""), tokens.get("session_id", ""), asked.target)
            answer = CommandDone(id=asked.id)
        except GreenroomError as error:
            answer = CommandRefused(id=asked.id, code=error.code, detail=error.detail)
        try:
            await self._broker.publish(message.reply or "", messages.encode(answer))
        except BrokerUnavailable:
            _log.warning("transfer_answer_not_sent", subject=message.subject)

    async def _hand_over(self, tenant: str, session_id: str, target: str) -> None:
        record = await self._book.of_session(session_id)
        carrier = self._carriers.get(record.carrier) if record is not None else None
        if record is None or carrier is None or record.tenant != tenant or record.over or not record.call_id:
            raise CommandNotDone("There is no call that could be handed over.")
        url = webhook_url(carrier, record.origin, tenant, session_id, "transfer")
        request = carrier.transfer(Transfer(call_id=record.call_id, target=target, document_url=url))
        if isinstance(request, str):
            raise CommandUnsupported(request)
        await self._book.learn(session_id, transfer_to=target)
        try:
            await self._rest.must(carrier.name, request)
        except (CarrierRefused, CarrierThrottled) as error:
            await self._book.learn(session_id, transfer_to="")
            raise TransferFailed(error.detail) from error
        except CarrierUnavailable as error:
            raise TransferFailed(f"{error.detail} Whether it was done isn't known.") from error
        _log.info("transferred", carrier=carrier.name, session_id=session_id)
