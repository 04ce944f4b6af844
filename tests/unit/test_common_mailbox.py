"""What waits for a session's process: nothing is done twice, out of order or never answered, whatever is killed."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from greenroom.common import mailbox, messages
from greenroom.common.command_errors import TooManyCommands
from greenroom.common.commands import (
    Call,
    Command,
    CommandAnswer,
    CommandDone,
    CommandRefused,
    CommandRequest,
    Configure,
    Inject,
    Mute,
    Say,
    Whisper,
)
from greenroom.common.desired import Desired
from greenroom.common.mailbox import Mailbox

AT = datetime(2026, 1, 1, tzinfo=UTC)
COMMANDS: list[Command] = [Say(text="x"), Whisper(text="x"), Configure(version=1, voice="x"), Mute(side="bot")]


def request(command_id: str, command: Command) -> CommandRequest:
    """Return a command on its way."""
    return CommandRequest(id=command_id, by="key", at=AT, command=command)


def always(_: Command) -> bool:
    """Carry out whatever comes."""
    return True


class Process:
    """A session process: it does what it has taken, also when it should be dead by now."""

    def __init__(self, number: int, epoch: int) -> None:
        self.name = f"{epoch}/{number}"
        self.epoch = epoch
        self.holds: CommandRequest | None = None
        self.answers: dict[str, CommandDone] = {}


class Life(RuleBasedStateMachine):
    """A session that is leased again and again, with processes that are killed, or live on too long."""

    def __init__(self) -> None:
        super().__init__()
        self.box = Mailbox()
        self.epoch = 0
        self.waits = True
        self.over = False
        self.processes: list[Process] = []
        self.made = 0
        # Which process carried out what, in this order.
        self.done: list[tuple[str, str]] = []
        self.first_epoch: dict[str, int] = {}
        self.answers: dict[str, CommandAnswer] = {}

    @rule(command=st.sampled_from(COMMANDS), again=st.booleans())
    def post(self, command: Command, *, again: bool) -> None:
        """The api puts a command in, or one that it isn't sure of once more."""
        if self.over:
            return
        number = len(self.box.posted) - (again and bool(self.box.posted))
        command = self.box.posted[number].request.command if number < len(self.box.posted) else command
        epoch = self.epoch + self.waits
        self.first_epoch.setdefault(str(number), epoch)
        if number < mailbox.MAX_POSTED:
            self.box = mailbox.post(self.box, request(str(number), command), epoch)

    @rule(twice=st.booleans())
    def lease(self, *, twice: bool) -> None:
        """A runner has it now (the last one is lost), and a process; a runner that was launched twice has two."""
        if self.over:
            return
        self.epoch += 1
        self.waits = False
        for _ in range(1 + twice):
            self.made += 1
            self.processes.append(Process(self.made, self.epoch))

    @rule()
    def requeue(self) -> None:
        """Its runner is lost, but maybe not its process."""
        self.waits = self.waits or bool(self.epoch)

    @rule(which=st.integers(0, 3))
    def kill(self, which: int) -> None:
        """A process is gone, with what it had in hand."""
        if self.processes:
            self.processes.pop(which % len(self.processes))

    @rule(which=st.integers(0, 3), steps=st.integers(1, 4), written=st.booleans())
    def go_on(self, which: int, steps: int, *, written: bool) -> None:
        """A process takes the next command, or does what it has; that it did so may fail to be written down."""
        for _ in range(steps if self.processes else 0):
            self._step(self.processes[which % len(self.processes)], written=written)

    def _step(self, process: Process, *, written: bool) -> None:
        if process.holds is None:
            self.box = mailbox.take(self.box, process.name, process.epoch, always)
            process.holds = mailbox.held(self.box, process.name)
            return
        command_id = process.holds.id
        if command_id not in process.answers:
            self.done.append((command_id, process.name))
            assert process.epoch >= self.first_epoch[command_id]
        answer = process.answers.setdefault(command_id, CommandDone(id=command_id, result={"by": process.name}))
        if written:
            self.box = mailbox.answer(self.box, answer)
            process.holds = None

    @rule(really=st.integers(0, 9))
    def end(self, really: int) -> None:
        """The session is over; the api says so to whoever asks."""
        if really == 1:
            self.over = True
            self.box = mailbox.close(self.box)

    @invariant()
    def nothing_is_done_twice(self) -> None:
        """But a `configure`, by another process."""
        commands = {each.request.id: each.request.command for each in self.box.posted}
        once = [command_id for command_id, _ in self.done if not isinstance(commands[command_id], Configure)]
        assert len(once) == len(set(once))
        assert len(self.done) == len(set(self.done))

    @invariant()
    def each_process_goes_in_order(self) -> None:
        """No process does what came earlier after what came later."""
        for name in {name for _, name in self.done}:
            mine = [int(command_id) for command_id, by in self.done if by == name]
            assert mine == sorted(mine)

    @invariant()
    def answers_are_true(self) -> None:
        """What is answered as done was done, and what is said not to have been carried out wasn't."""
        done = {command_id for command_id, _ in self.done}
        for each in self.box.posted:
            if isinstance(each.answer, CommandDone):
                assert each.answer.result["by"] in {by for command_id, by in self.done if command_id == each.request.id}
            elif each.answer is not None and each.answer.code == "command-refused":
                assert each.request.id not in done or isinstance(each.request.command, Configure)
        assert not self.over or not self.box.open

    @invariant()
    def answers_stay(self) -> None:
        """Whoever asks again hears the same."""
        for each in self.box.posted:
            if each.answer is not None:
                assert self.answers.setdefault(each.request.id, each.answer) == each.answer

    @invariant()
    def all_of_it_goes_over_the_wire(self) -> None:
        """The mailbox is what it was."""
        assert messages.decode(messages.encode(self.box), Mailbox) == self.box


Life.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestLife = Life.TestCase


def test_what_can_t_be_done_yet_holds_up_what_is_behind_it() -> None:
    """Commands are carried out in the order in which they came."""
    box = mailbox.post(Mailbox(), request("1", Say(text="Hello.")), 1)
    box = mailbox.post(box, request("2", Mute(side="bot")), 1)
    assert mailbox.take(box, "p", 1, lambda command: not mailbox.needs_somebody(command)) == box
    taken = mailbox.take(box, "p", 1, always)
    assert mailbox.held(taken, "p") == request("1", Say(text="Hello."))
    # One at a time.
    assert mailbox.take(taken, "p", 1, always) == taken


def test_a_mailbox_is_bounded() -> None:
    """By number and by size; the same id again is no further one, and what was answered counts."""
    box = Mailbox()
    for number in range(mailbox.MAX_POSTED):
        box = mailbox.post(box, request(str(number), Mute(side="bot")), 1)
        box = mailbox.answer(box, CommandDone(id=str(number), result={"text": "x" * 10_000}))
    with pytest.raises(TooManyCommands):
        mailbox.post(box, request("more", Mute(side="bot")), 1)
    assert mailbox.post(box, request("0", Mute(side="bot")), 1) == box
    assert box.posted[0].answer == CommandDone(id="0", result={"truncated": True, "bytes": 10_011})

    large: dict[str, Any] = {"text": "x" * 15_000}
    box = Mailbox()
    for number in range(mailbox.MAX_POSTED_BYTES // 15_500):
        box = mailbox.post(box, request(str(number), Call(function="f", arguments=large)), 1)
    with pytest.raises(TooManyCommands):
        mailbox.post(box, request("more", Call(function="f", arguments=large)), 1)


def test_settings_that_are_later_stay() -> None:
    """A process that is over writes down what it had; that doesn't undo what the next one has."""
    box = mailbox.keep(Mailbox(), Desired(version=3))
    assert mailbox.keep(box, Desired(version=2)).desired.version == 3
    assert mailbox.keep(box, Desired(version=4)).desired.version == 4


def test_who_needs_somebody() -> None:
    """What is spoken or pressed does, and what makes the model speak; what is only remembered doesn't."""
    assert mailbox.needs_somebody(Say(text="x"))
    assert mailbox.needs_somebody(Inject(text="x"))
    assert not mailbox.needs_somebody(Inject(text="x", run=False))
    assert not mailbox.needs_somebody(Whisper(text="x"))


def test_a_refusal_s_words_are_bounded() -> None:
    """All answers of a session go into one message."""
    box = mailbox.post(Mailbox(), request("1", Say(text="x")), 1)
    [posted] = mailbox.answer(box, CommandRefused(id="1", code="c", detail="x" * 9_999)).posted
    assert isinstance(posted.answer, CommandRefused)
    assert len(posted.answer.detail) == 500
