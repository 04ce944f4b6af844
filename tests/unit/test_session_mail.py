"""The mailbox as a session process sees it, while the broker comes and goes."""

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec

from greenroom.common import mailbox, subjects
from greenroom.common.commands import CommandAnswer, CommandDone, CommandRequest, Configure, Say, Whisper
from greenroom.common.desired import Desired
from greenroom.common.lifecycle import Session
from greenroom.common.mailbox import STREAM, Mailbox
from greenroom.common.mailboxes import Mailboxes
from greenroom.runner.session.commands.mail import Mail
from tests.support.leaping_time import run_virtual
from tests.support.memory_broker import MemoryServer

AT = datetime(2026, 1, 1, tzinfo=UTC)
SESSION = Session(id="s", tenant="t", agent="a", bot="b", epoch=1, requested_at=AT, queue_deadline_at=AT)


class Rig:
    """A mailbox, the process's end of it, and what the process was asked to do."""

    def __init__(self, session: Session = SESSION) -> None:
        server = MemoryServer()
        self.broker = server.connect()
        self.api = Mailboxes(server.connect())
        self.other = server.connect()
        self.done: list[str] = []
        self.had: list[Desired] = []
        self.mail = Mail(self.broker, session, restore=self._restore, carry_out=self._carry_out)

    async def post(self, command_id: str, command: Whisper | Say | Configure) -> None:
        """Put a command in."""
        request = CommandRequest(id=command_id, by="key", at=AT, command=command)
        await self.api.change("t", "s", lambda box: mailbox.post(box, request, 1))

    async def box(self) -> Mailbox:
        """Return what is in it."""
        return await self.api.read("t", "s")

    async def _restore(self, desired: Desired) -> None:
        self.had.append(desired)

    async def _carry_out(self, request: CommandRequest) -> CommandAnswer:
        if request.id not in self.done:
            self.done.append(request.id)
        return CommandDone(id=request.id)


def test_a_process_that_is_cut_off_at_first_has_the_settings_later() -> None:
    """It doesn't wait for the broker to be ready; until the settings are known none are changed."""

    async def scenario() -> None:
        rig = Rig()
        await rig.api.change("t", "s", lambda box: mailbox.keep(box, Desired(version=3)))
        await rig.mail.open()
        rig.broker.connected = False
        assert not await rig.mail.look()
        assert not rig.mail.restored.is_set()
        rig.mail.begin()
        await asyncio.sleep(10)
        assert not rig.mail.restored.is_set()
        rig.broker.connected = True
        await rig.mail.restored.wait()
        assert [each.version for each in rig.had] == [3]
        await rig.mail.close()

    run_virtual(scenario())


def test_what_can_t_be_written_down_is_written_later() -> None:
    """Answers and settings: nothing is done again for it, and no acknowledgement that is lost makes a difference."""

    async def scenario() -> None:
        rig = Rig()
        await rig.post("a", Whisper(text="x"))
        await rig.mail.open()
        assert await rig.mail.look()
        rig.broker.lose_acks = 3
        rig.mail.begin()
        rig.mail.on_ready()
        await asyncio.sleep(30)
        assert rig.done == ["a"]
        assert (await rig.box()).posted[0].answer == CommandDone(id="a")
        rig.broker.connected = False
        assert not await rig.mail.keep(Desired(version=2))
        rig.broker.connected = True
        await asyncio.sleep(30)
        assert (await rig.box()).desired.version == 2
        await rig.mail.close()

    run_virtual(scenario())


def test_a_start_without_a_wait_asks_for_nothing() -> None:
    """But any other does: one that waited, one that has had another process, one whose clocks can't be compared."""

    async def scenario() -> None:
        for epoch, after_ms, asks in ((1, 3, False), (1, 60, True), (2, 3, True), (1, -3, True)):
            leased_at = SESSION.requested_at + timedelta(milliseconds=after_ms)
            rig = Rig(msgspec.structs.replace(SESSION, epoch=epoch, leased_at=leased_at))
            await rig.post("a", Configure(version=1, voice="anna"))
            await rig.mail.open()
            assert await rig.mail.look() is asks
            rig.mail.begin()
            await rig.mail.caught_up.wait()
            assert rig.done == ["a"]
            await rig.mail.close()

    run_virtual(scenario())


def test_what_the_broker_couldn_t_tell_is_found_by_another_look() -> None:
    """Somebody wrote just when the process was ready and cut off."""

    async def scenario() -> None:
        rig = Rig()
        await rig.mail.open()
        assert not await rig.mail.look()
        rig.mail.begin()
        rig.mail.on_ready()
        await asyncio.sleep(1)
        rig.broker.connected = False
        await rig.post("a", Whisper(text="x"))
        rig.broker.connected = True
        await asyncio.sleep(1)
        assert rig.done == []
        await asyncio.sleep(20)
        assert rig.done == ["a"]
        await rig.mail.close()

    run_virtual(scenario())


def test_what_a_later_version_has_put_in_stops_nobody() -> None:
    """The session starts without it, and takes what it knows once that can be read again."""

    async def scenario() -> None:
        rig = Rig()
        subject = subjects.MAILBOX.format(tenant="t", session_id="s")
        later = b'{"posted": [{"epoch": 1, "request": {"id": "a", "by": "k", "at": 1, "command": {"type": "fly"}}}]}'
        await rig.other.append(subject, later)
        await rig.mail.open()
        assert not await rig.mail.look()
        rig.mail.begin()
        await asyncio.sleep(60)
        last = await rig.other.last(STREAM, subject)
        assert last is not None
        assert last.data == later
        await rig.other.append(subject, b"{}")
        await rig.mail.restored.wait()
        await rig.mail.close()

    run_virtual(scenario())


def test_nothing_is_taken_after_the_end() -> None:
    """What waits for somebody stays for the next process."""

    async def scenario() -> None:
        rig = Rig()
        await rig.post("a", Say(text="x"))
        await rig.mail.open()
        await rig.mail.look()
        rig.mail.begin()
        rig.mail.on_ready()
        await asyncio.sleep(1)
        await rig.mail.close()
        rig.mail.on_somebody()
        await asyncio.sleep(30)
        assert rig.done == []
        assert not (await rig.box()).posted[0].taken_by

    run_virtual(scenario())
