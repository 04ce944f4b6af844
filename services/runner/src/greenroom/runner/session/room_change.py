"""A live session goes to another room: its bot leaves the one, joins the other, and the runner is told what came of it.

While it is on its way nobody is there, and that is nobody's fault: the idle policies begin anew (`Watchkeeper.moves`).
"""

import asyncio
from contextvars import Context

import structlog

from greenroom.common.errors import BrokerUnavailable
from greenroom.runner.control import ChangeRoom, RoomChanged
from greenroom.runner.session.channel import Channel
from greenroom.runner.session.transports.base import NotMoved, SessionTransport
from greenroom.runner.session.watchkeeper import Watchkeeper

_log = structlog.get_logger()


class RoomChange:
    """See the module; one at a time, as the runner orders them.

    Args:
        transport: goes.
        keeper: watches over who is there.
        channel: to the runner.
    """

    def __init__(self, transport: SessionTransport, keeper: Watchkeeper, channel: Channel) -> None:
        self._transport = transport
        self._keeper = keeper
        self._channel = channel
        self._task: asyncio.Task[None] | None = None

    def begin(self, order: ChangeRoom, tasks: asyncio.TaskGroup, context: Context) -> None:
        """Go there.

        Args:
            order: where to.
            tasks: of the session.
            context: the bot's: what comes of it in its pipeline, or in its handlers, is the bot's.
        """
        self._task = tasks.create_task(self._go(order), name="change-room", context=context)

    def give_up(self) -> None:
        """Go nowhere any more: the session ends."""
        if self._task is not None:
            self._task.cancel()

    async def _go(self, order: ChangeRoom) -> None:
        self._keeper.moves()
        failed: str | None = None
        try:
            await self._transport.move(order.transport_info)
        except (NotMoved, BrokerUnavailable) as error:
            failed = str(error)
        there = self._transport.connected
        if there:
            self._keeper.came_back()
        _log.info("room_changed", move_id=order.id, failed=failed)
        changed = RoomChanged(id=order.id, failed=failed, connected=there)
        if not self._channel.say(changed):
            await self._channel.send(changed)
