"""Muting and transfers on Pipecat's own transports: what they rest on is there, and it is paid for only when used."""

import asyncio
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from pipecat.audio.dtmf.types import KeypadEntry
from pipecat.frames.frames import InputAudioRawFrame, OutputAudioRawFrame, OutputDTMFFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams

from greenroom.common.command_errors import CommandNotDone, CommandUnsupported, TransferFailed, TransferTargetInvalid
from greenroom.common.commands import Transfer
from greenroom.runner.session.commands.briefing import Briefing
from greenroom.runner.session.commands.muting import Muting, SupervisorAudioFrame
from greenroom.runner.session.commands.parts import Parts
from greenroom.runner.session.commands.transferring import Transferring

LOUD = b"\x01\x02" * 160


class Output(BaseOutputTransport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__(TransportParams(audio_out_enabled=True))
        self.written: list[bytes] = []

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        """Keep it."""
        self.written.append(frame.audio)
        return True


class Input(BaseInputTransport):
    """Keeps what is pushed."""

    def __init__(self) -> None:
        super().__init__(TransportParams(audio_in_enabled=True))
        self.pushed: list[bytes] = []

    async def push_audio_frame(self, frame: InputAudioRawFrame) -> None:
        """Keep it."""
        self.pushed.append(frame.audio)


@pytest.fixture
async def ends() -> tuple[Input, Output, Muting]:
    """Both ends of a pipeline."""
    source, sink = Input(), Output()
    attachment: Any = SimpleNamespace(worker=SimpleNamespace(pipeline=Pipeline([source, sink])), main=True)
    return source, sink, Muting(Parts([attachment]))


async def speak(sink: Output, frame: OutputAudioRawFrame | None = None) -> bool:
    """Write as the transport's own sender does: through the instance."""
    return await sink.write_audio_frame(frame or OutputAudioRawFrame(LOUD, 16_000, 1))


async def test_a_call_that_is_never_muted_pays_nothing(ends: tuple[Input, Output, Muting]) -> None:
    """Nothing stands between transport and pipeline until something is silenced."""
    source, sink, muting = ends
    assert "write_audio_frame" not in vars(sink)
    muting.mute("user")
    assert {"write_audio_frame", "write_dtmf"} <= set(vars(sink))
    assert "push_audio_frame" in vars(source)


async def test_what_is_muted_is_silence_of_the_same_length(ends: tuple[Input, Output, Muting]) -> None:
    """Each side by itself, and again and again."""
    source, sink, muting = ends
    muting.mute("user")
    muting.mute("user")
    await source.push_audio_frame(InputAudioRawFrame(LOUD, 16_000, 1))
    await speak(sink)
    muting.unmute("user")
    muting.mute("bot")
    assert muting.sides == ("bot",)
    await source.push_audio_frame(InputAudioRawFrame(LOUD, 16_000, 1))
    await speak(sink)
    muting.unmute("bot")
    await speak(sink)
    assert source.pushed == [bytes(320), LOUD]
    assert sink.written == [LOUD, bytes(320), LOUD]


async def test_keys_and_supervisors_are_heard_all_the_same(ends: tuple[Input, Output, Muting]) -> None:
    """Tones that Pipecat makes as audio go through a muted bot, and so does a supervisor's voice."""
    _, sink, muting = ends
    muting.mute("bot")
    sink._sample_rate = 16_000
    await sink.write_dtmf(OutputDTMFFrame(button=KeypadEntry.FIVE))
    assert any(sink.written[0])
    muting.barge_in()
    assert await speak(sink) is False
    assert await speak(sink, SupervisorAudioFrame(LOUD, 16_000, 1)) is True
    muting.give_way()
    await speak(sink)
    assert sink.written[1:] == [LOUD, bytes(320)]


# In a process of its own: Daily's library starts threads as soon as it is imported. The output has joined no room,
# which would take Daily's own servers.
DAILY = """
import asyncio, json
from pipecat.transports.daily.transport import DailyOutputTransport
from greenroom.common.commands import Transfer
from greenroom.runner.session.commands.transferring import Transferring

sent = []

class Output(DailyOutputTransport):
    def __init__(self):
        pass

    async def queue_frame(self, frame, direction):
        sent.append([type(frame).__name__, direction.name, frame.settings])

transferring = Transferring(sent.append, None)
by = asyncio.run(transferring.transfer(object(), [Output()], Transfer(target="sip:desk@example.org")))
print(json.dumps([by, sent]), flush=True)
import os; os._exit(0)
"""


def test_daily_transfers_a_caller_by_sip() -> None:
    """The frame that Pipecat's Daily transport has for it goes to its output, with the target where Daily wants it."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", DAILY], capture_output=True, timeout=50, check=True)
    assert json.loads(done.stdout) == [
        "sip",
        [["DailySIPTransferFrame", "DOWNSTREAM", {"toEndPoint": "sip:desk@example.org"}]],
    ]


def _transferring(over: list[str]) -> Transferring:
    parts = Parts([])
    return Transferring(over.append, Briefing(parts, Muting(parts)))


class Line:
    """A phone call whose carrier takes it when it is told to."""

    def __init__(self) -> None:
        self.targets: list[str] = []
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def transfer(self, target: str) -> None:
        """See `Transfers`."""
        self.targets.append(target)
        await self.answer


async def test_a_caller_is_handed_over_once() -> None:
    """While the carrier thinks about it, and when it has taken the call, there is no second transfer."""
    line, over = Line(), list[str]()
    transferring = _transferring(over)
    first = asyncio.create_task(transferring.transfer(line, [], Transfer(target="+15550100")))
    await asyncio.sleep(0)
    with pytest.raises(CommandNotDone):
        await transferring.transfer(line, [], Transfer(target="+15550101"))
    assert over == []
    line.answer.set_result(None)
    assert await first == "carrier"
    with pytest.raises(CommandNotDone):
        await transferring.transfer(line, [], Transfer(target="+15550101"))
    assert (line.targets, over) == (["+15550100"], ["carrier"])


async def test_what_the_carrier_refuses_may_be_tried_again() -> None:
    """The refusal is the command's, and the session goes on."""
    line, over = Line(), list[str]()
    transferring = _transferring(over)
    line.answer.set_exception(TransferFailed("busy"))
    for _ in range(2):
        with pytest.raises(TransferFailed):
            await transferring.transfer(line, [], Transfer(target="+15550100"))
    assert (len(line.targets), over) == (2, [])


async def test_who_cannot_transfer_says_so() -> None:
    """A transport without a way to do it refuses, and so does any for what is no target."""
    transferring = _transferring([])
    with pytest.raises(CommandUnsupported):
        await transferring.transfer(object(), [Output()], Transfer(target="+15550100"))
    for nowhere in (object(), Line()):
        with pytest.raises(CommandUnsupported):
            await transferring.transfer(nowhere, [Output()], Transfer(target="+15550100", mode="warm"))
    for target in ("nowhere", "15550100", "+0155501", "sip:", "sip:a b@c", "tel:+15550100", "+15550100\n"):
        with pytest.raises(TransferTargetInvalid):
            await transferring.transfer(object(), [Output()], Transfer(target=target))
