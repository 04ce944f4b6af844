"""The memory of commands: carried out once, answered the same, bounded."""

import asyncio

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from greenroom.common.command_errors import CommandIdReused, CommandNotDone, TooManyCommands
from greenroom.common.commands import CommandAnswer, CommandDone, CommandRefused, Interrupt, Mute, Say
from greenroom.runner.session.commands.answered import Answered

COMMANDS = (Interrupt(), Mute(side="user"), Mute(side="bot"), Say(text="Hello."))
IDS = st.sampled_from([f"id-{number}" for number in range(12)])
MAX_IDS, MAX_BYTES = 8, 400


class Memory(RuleBasedStateMachine):
    """What happens to a memory, beside a plain record of what should be."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.answered = Answered(max_ids=MAX_IDS, max_bytes=MAX_BYTES)
        # By id: what was asked; what was carried out, how often, with which answer.
        self.asked: dict[str, int] = {}
        self.begun: dict[str, int] = {}
        self.said: dict[str, bytes] = {}
        self.waiting: dict[str, list[asyncio.Future[bytes]]] = {}

    def teardown(self) -> None:
        """Close the loop."""
        self.loop.close()

    @initialize()
    def empty(self) -> None:
        """Nothing runs at the beginning."""
        assert self.answered.running == 0

    @rule(command_id=IDS, which=st.integers(0, len(COMMANDS) - 1))
    def ask(self, command_id: str, which: int) -> None:
        """Ask, first or again, with the same command or another one."""
        try:
            found = self.loop.run_until_complete(self._begin(command_id, which))
        except TooManyCommands:
            assert command_id not in self.asked
            assert len(self.asked) == MAX_IDS
            return
        except CommandIdReused:
            assert self.asked[command_id] != which
            return
        except CommandNotDone:
            # It was carried out, and its answer had to make room.
            assert command_id in self.said
            return
        if found is None:
            assert command_id not in self.asked
            self.asked[command_id] = which
            self.begun[command_id] = self.begun.get(command_id, 0) + 1
            self.waiting[command_id] = []
        elif isinstance(found, bytes):
            assert found == self.said[command_id]
        else:
            assert command_id in self.waiting
            self.waiting[command_id].append(found)

    async def _begin(self, command_id: str, which: int) -> asyncio.Future[bytes] | bytes | None:
        return self.answered.begin(command_id, COMMANDS[which])

    @rule(data=st.data(), size=st.integers(0, 300), forget=st.booleans())
    def finish(self, data: st.DataObject, size: int, *, forget: bool) -> None:
        """End one that runs: with an answer that is kept, or as if it had never been."""
        if not self.waiting:
            return
        command_id = data.draw(st.sampled_from(sorted(self.waiting)))
        answer: CommandAnswer = CommandDone(id=command_id, result={"x": "x" * size})
        if forget:
            encoded = self.answered.forget(command_id, CommandRefused(id=command_id, code="session-not-live"))
            del self.asked[command_id], self.begun[command_id]
        else:
            encoded = self.said[command_id] = self.answered.finish(command_id, answer)
        for future in self.waiting.pop(command_id):
            assert future.result() == encoded

    @invariant()
    def once(self) -> None:
        """No id was ever carried out twice."""
        assert all(count == 1 for count in self.begun.values())

    @invariant()
    def bounded(self) -> None:
        """What is kept is no more than it may be, the last answer aside."""
        assert self.answered.running == len(self.waiting)
        kept = self.answered._answers
        assert len(kept) <= 1 or sum(map(len, kept.values())) <= MAX_BYTES
        assert len(self.answered._digests) <= MAX_IDS


TestMemory = Memory.TestCase
TestMemory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


async def test_an_answer_that_made_room_is_not_carried_out_again() -> None:
    """The last answers are kept; whoever asks for an older one learns that it was carried out."""
    answered = Answered(max_bytes=100)
    for command_id in ("a", "b"):
        assert answered.begin(command_id, Interrupt()) is None
        answered.finish(command_id, CommandDone(id=command_id, result={"x": "x" * 80}))
    with pytest.raises(CommandNotDone, match="carried out"):
        answered.begin("a", Interrupt())
    kept = answered.begin("b", Interrupt())
    assert isinstance(kept, bytes)
    assert msgspec.json.decode(kept)["id"] == "b"
