"""Rooms at Daily. Its library starts ten threads when a transport is made: nobody but a session's process imports this.

Pipecat's transport says in the events used here:

    on_client_connected, on_client_disconnected   who comes and goes, with the participant's `id`
    on_joined, on_error                           an error before the bot has joined: it never will
    on_call_state_updated `left`                  the bot was put out, or the room is gone
    on_dialin_error, on_dialin_stopped            the caller has hung up, perhaps before he was connected
    on_dialout_…                                  what becomes of a call out of the room; see `dialling`

Somebody who is called is in the room while his phone still rings: the session has him only once he has picked up. An
operator, whom the caller is handed over to, isn't the session's user at all.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, cast, override

from pipecat.processors.frame_processor import FrameProcessor
from pipecat.runner.types import DailyRunnerArguments
from pipecat.transports.base_transport import BaseTransport
from pipecat.transports.daily.transport import DailyInputTransport, DailyOutputTransport, DailyTransport

from greenroom.common.broker import Broker
from greenroom.common.command_errors import CommandNotDone, TransferFailed
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.lifecycle import Session
from greenroom.common.reasons import Reason
from greenroom.runner.session.transports import daily_moves, dialling, room_events
from greenroom.runner.session.transports.base import OnConnected, OnDisconnected
from greenroom.runner.session.transports.dialling import Dialler, NotReached
from greenroom.runner.session.transports.rooms import RoomTransport

# What Pipecat's runner puts into the body of a call that Daily holds.
_DIALIN: Final = ("dialin_settings", "daily_api_key", "daily_api_url")
# Whom to call, in the session's secrets.
_DIALOUT: Final = "dialout_settings"
# The `user_id` of who is called, by which he is known among the participants.
CALLEE: Final = "greenroom-callee"
OPERATOR: Final = "greenroom-operator"
# Nobody is left waiting in a room in which nobody says anything.
_SET_APART_S: Final = 5.0


class DailyRoom(RoomTransport):
    """A room at Daily. See `rooms.RoomTransport`."""

    ends: ClassVar[tuple[type[FrameProcessor], ...]] = (DailyInputTransport, DailyOutputTransport)
    needs: ClassVar[tuple[str, ...]] = ("room_url",)
    news: ClassVar[Mapping[str, Callable[..., dict[str, Any]]]] = room_events.DAILY

    def __init__(
        self, session: Session, broker: Broker, on_connected: OnConnected, on_disconnected: OnDisconnected
    ) -> None:
        super().__init__(session, broker, on_connected, on_disconnected)
        self._joined = False
        self._transports: list[BaseTransport] = []
        self._bot_id = ""
        self._daily: DailyTransport | None = None
        self._dialler = Dialler()
        self._dialling: asyncio.Task[None] | None = None
        # Who is called, and is in the room already while his phone rings.
        self._callee: Mapping[str, Any] | None = None
        self._operator: str | None = None
        self._operator_left = asyncio.Event()

    @override
    def arguments(self, body: dict[str, Any]) -> DailyRunnerArguments:
        token = self.token
        if all(name in self.secrets for name in _DIALIN):
            settings, key, url = (self.secrets[name] for name in _DIALIN)
            body = {**body, "dialin_settings": json.loads(settings), "daily_api_key": key, "daily_api_url": url}
        if "voicemail_detection" in self.info:
            body = {**body, "voicemail_detection": json.loads(self.info["voicemail_detection"])}
        return DailyRunnerArguments(room_url=self.info["room_url"], token=token, body=body, session_id=self.session.id)

    @override
    def hook(self, transport: BaseTransport) -> None:
        super().hook(transport)
        self._transports.append(transport)
        transport.add_event_handler("on_joined", self._on_bot_joined)
        transport.add_event_handler("on_error", self._on_error)
        transport.add_event_handler("on_call_state_updated", self._on_state)
        transport.add_event_handler("on_dialin_error", self._on_dialin_over)
        transport.add_event_handler("on_dialin_stopped", self._on_dialin_over)
        for kind in (dialling.ANSWERED, dialling.STOPPED, dialling.ERROR):
            transport.add_event_handler(f"on_dialout_{kind}", self._dialout_hearer(kind))
        self._daily = self._dialler.transport = cast("DailyTransport", transport)

    @override
    def refuse_change(self) -> str | None:
        if len(self._transports) != 1 or not self._joined:
            return "the bot isn't in one room"
        if any(name in self.secrets for name in (*_DIALIN, _DIALOUT)):
            return "a call by phone stays in its room"
        return daily_moves.refuse(self._transports[0])

    @override
    async def change(self, info: dict[str, str], token: str) -> None:
        (transport,) = self._transports
        await daily_moves.leave(transport)
        self._joined = False
        self.left()
        await daily_moves.join(transport, info["room_url"], token)
        self._joined = True

    @override
    def prepare_to_close(self, code: int, reason: str) -> None:
        super().prepare_to_close(code, reason)
        if self._dialling is not None:
            # Whose phone rings still isn't left to a room without a bot.
            self._dialling.cancel()

    @override
    async def close(self) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.gather(self._dialling, return_exceptions=True)
        await super().close()

    # ------------------------------------------------------------------------ to an operator

    async def call_operator(self, target: str, ring_s: float) -> None:
        """Have an operator called into the room; he is there once this returns.

        Args:
            target: a phone number or SIP URI.
            ring_s: how long his phone may ring.

        Raises:
            CommandNotDone: nobody is there who could be handed over.
            TransferFailed: he can't be reached.
        """
        if not self.connected:
            raise CommandNotDone("Nobody is there who could be handed over.")
        to = {"phoneNumber": target} if target.startswith("+") else {"sipUri": target}
        self._operator_left.clear()
        try:
            self._operator = await self._dialler.dial({**to, "displayName": "operator", "userId": OPERATOR}, ring_s)
        except NotReached as error:
            raise TransferFailed(f"The operator wasn't reached: {error.detail or error.reason.summary}") from error

    async def set_apart(self, *, apart: bool) -> None:
        """Have the operator hear the bot only, and the others neither of the two; or everybody everybody again.

        Raises:
            TransferFailed: Daily doesn't do it.
        """
        operator, bot = self._operator, self._bot_id
        if operator is None or self._daily is None:
            return
        others = [who for who in self._present if who not in {operator, bot}]
        closed = {other: {operator: False, bot: False} for other in others}
        if not self._operator_left.is_set():
            closed[operator] = dict.fromkeys(others, False)
        updates = {
            who: {"permissions": {"canReceive": {"byParticipantId": from_whom if apart else {}}}}
            for who, from_whom in closed.items()
        }
        try:
            async with asyncio.timeout(_SET_APART_S):
                error = await self._daily.update_remote_participants(updates)
        except TimeoutError:
            error = f"no answer in {_SET_APART_S:g} s"
        if error:
            raise TransferFailed(f"Daily didn't change who hears whom: {error}")

    async def operator_left(self) -> None:
        """Wait until the operator isn't there any more."""
        await self._operator_left.wait()

    async def hang_up_operator(self) -> None:
        """Have the operator leave, if he is there."""
        operator, self._operator = self._operator, None
        if operator is not None and not self._operator_left.is_set():
            await self._dialler.hang_up(operator)

    # ------------------------------------------------------------------------ what is heard

    def _on_bot_joined(self, _transport: BaseTransport, data: Mapping[str, Any]) -> None:
        self._joined = True
        # Pipecat's transport has a `participant_id` that stays empty.
        self._bot_id = str(data.get("participants", {}).get("local", {}).get("id", ""))
        if _DIALOUT in self.secrets and self._dialling is None and self._farewell is None:
            self._dialling = asyncio.get_running_loop().create_task(self._dial(), name="dialout")

    def _on_error(self, _transport: BaseTransport, _error: Any) -> None:
        # Its text is in the bot's log; it may have the room's URL in it, but nothing says that it hasn't more.
        if not self._joined:
            self.lost("the bot couldn't join the room")

    def _on_state(self, _transport: BaseTransport, state: str) -> None:
        if state == "left" and self._joined:
            self.lost("the bot was put out of the room")

    def _on_dialin_over(self, _transport: BaseTransport, _data: Any) -> None:
        # Of somebody who is in the room, his leaving tells.
        if not self.connected:
            self.gone("the caller has hung up")

    def _dialout_hearer(self, kind: str) -> Callable[[BaseTransport, Any], None]:
        def hear(_transport: BaseTransport, data: Any) -> None:
            said: Mapping[str, Any] = cast("Mapping[str, Any]", data) if isinstance(data, Mapping) else {}
            if kind != dialling.ANSWERED and self._operator is not None and said.get("sessionId") == self._operator:
                self._operator_left.set()
            self._dialler.hear(kind, said)

        return hear

    @override
    def _on_joined(self, transport: BaseTransport, client: Mapping[str, Any]) -> None:
        who = client.get("info", {}).get("userId")
        if who == OPERATOR:
            return
        if who == CALLEE and self._dialler.rings:
            self._callee = client
            return
        super()._on_joined(transport, client)

    # ------------------------------------------------------------------------ to the session's user

    async def _dial(self) -> None:
        """Call one after the other until somebody answers; if nobody does, and nobody else is there, that was it."""
        numbers: list[dict[str, Any]] = json.loads(self.secrets[_DIALOUT])
        try:
            # Should this process be lost, the next one finds nobody to call: nobody is called twice.
            await self._box.put(
                self.session.tenant,
                self.session.id,
                {name: value for name, value in self.secrets.items() if name != _DIALOUT},
            )
        except BrokerUnavailable as error:
            self.on_over(Reason.TRANSPORT_FAILED, f"nobody was called: {error.detail}")
            return
        last = NotReached(Reason.CALL_NOT_PUT_THROUGH, "There was nobody to call.")
        for number in numbers:
            try:
                await self._dialler.dial({**number, "userId": CALLEE}, float(self.info["ring_timeout_s"]))
            except NotReached as error:
                last, self._callee = error, None
                continue
            callee, self._callee = self._callee, None
            if callee is not None and self._daily is not None:
                super()._on_joined(self._daily, callee)
            return
        if not self.connected:
            self.on_over(last.reason, last.detail)
