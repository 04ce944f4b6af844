"""What the runner has to tell of a session beside its state: events of its own, in the session's stream.

They are numbered 0, as all that don't count, and come from `runner`. Like everything that isn't the ledger they go
through a spool: bounded, in order, kept while the broker is away. What a session process has left to say when it ends
goes the same way. Where there is a folder for it, all of it is on disk, too, until it is published (`reports_file`);
and what other runners of this host have left there when they were killed is published first.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

import structlog

from greenroom.common import subjects
from greenroom.common.broker import Broker
from greenroom.common.clock import Clock
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Session
from greenroom.common.messages import Event, EventType, encode
from greenroom.common.spool import Spool, Waiting
from greenroom.runner import reports_file
from greenroom.runner.control import Left
from greenroom.runner.reports_file import ReportsFile

_log = structlog.get_logger()

SOURCE: Final = "runner"
# How soon what is published is gone from the disk.
_CLEAR_EVERY_S: Final = 1.0


class Reports:
    """The events of one runner.

    Args:
        broker: where to.
        clock: time.
        folder: where they are kept, too; None: nowhere.
        runner_id: names the file.
    """

    def __init__(self, broker: Broker, clock: Clock, *, folder: Path | None = None, runner_id: str = "runner") -> None:
        self._spool = Spool(broker)
        self._clock = clock
        self._folder = folder
        self._runner_id = runner_id
        self._file: ReportsFile | None = None

    async def run(self) -> None:
        """Publish until canceled."""
        self._open()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._spool.run(), name="reports spool")
                while True:
                    await asyncio.sleep(_CLEAR_EVERY_S)
                    self._clear()
        finally:
            self._clear()
            if self._file is not None:
                self._file.close()
                self._file = None

    async def flush(self, deadline_s: float) -> int:
        """Wait until everything is published; return how many messages are left."""
        left = await self._spool.flush(deadline_s)
        self._clear()
        return left

    def _open(self) -> None:
        """Take a file, and over what others have left; without one everything is in memory alone."""
        if self._folder is None:
            return
        try:
            self._file = file = ReportsFile.open(self._folder, self._runner_id)
        except OSError as error:
            _log.error("reports_not_kept", folder=str(self._folder), error=str(error))
            return
        for path, waiting in reports_file.adopt(self._folder, own=file.path, now=self._clock.now().timestamp()):
            for item in waiting:
                self._put(item)
            if waiting:
                _log.warning("reports_taken_over", file=path.name, messages=len(waiting))

    def _clear(self) -> None:
        if self._file is not None and self._file.size and not len(self._spool):
            self._file.clear()

    def _put(self, item: Waiting) -> None:
        taken = self._spool.put(
            item.subject, item.data, msg_id=item.msg_id, headers=item.headers, droppable=item.droppable
        )
        if taken and self._file is not None:
            self._file.append(item)

    def inherit(self, left: Left) -> None:
        """Publish what a session process couldn't; of one that ended while the broker was away."""
        self._put(
            Waiting(
                subject=left.subject,
                data=left.data,
                msg_id=left.msg_id,
                headers=left.headers,
                droppable=left.droppable,
            )
        )

    def tell(self, session: Session, kind: EventType, data: dict[str, Any]) -> None:
        """Publish an event of a session; never waits."""
        event = Event(
            id=uuid7(),
            tenant=session.tenant,
            session_id=session.id,
            type=kind.value,
            at=self._clock.now(),
            epoch=session.epoch,
            source=SOURCE,
            data=data,
        )
        subject = subjects.SESSION_EVENT.format(tenant=session.tenant, session_id=session.id, type=kind.value)
        headers = {"traceparent": session.traceparent} if session.traceparent else {}
        self._put(Waiting(subject=subject, data=encode(event), msg_id=event.id, headers=headers, droppable=False))
