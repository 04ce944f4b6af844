"""The one observer of a pipeline."""

import asyncio
import inspect
from dataclasses import dataclass

from pipecat.frames.frames import (
    AggregatedTextFrame,
    BotSpeakingFrame,
    DataFrame,
    Frame,
    InputAudioRawFrame,
    StartFrame,
    SystemFrame,
    TextFrame,
    TTSTextFrame,
    UserAudioRawFrame,
)
from pipecat.observers.base_observer import BaseObserver, FrameProcessed, FramePushed
from pipecat.observers.turn_tracking_observer import TurnTrackingObserver
from pipecat.pipeline.worker import IdleFrameObserver
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIObserver, RTVIObserverParams
from pipecat.processors.frameworks.rtvi.frames import RTVIConfigureObserverFrame
from pipecat.utils.asyncio.task_manager import TaskManager

from greenroom.runner.session.observer import PipelineEye, Route


class Listener(BaseObserver):
    """A bot's own observer."""

    def __init__(self) -> None:
        super().__init__(observe_every_push=True)
        self.pushed: list[Frame] = []

    async def on_push_frame(self, data: FramePushed) -> None:
        """Keep the frame."""
        self.pushed.append(data.frame)


class Timer(Listener):
    """One that wants processed frames too."""

    def __init__(self) -> None:
        super().__init__()
        self.processed: list[Frame] = []

    async def on_process_frame(self, data: FrameProcessed) -> None:
        """Keep the frame."""
        self.processed.append(data.frame)


@dataclass
class OwnFrame(DataFrame):
    """A type that Pipecat doesn't know."""


def push(frame: Frame) -> FramePushed:
    """Return a push of a frame."""
    processor = FrameProcessor()
    return FramePushed(processor, processor, frame, FrameDirection.DOWNSTREAM, 0)


async def eye_with(routes: dict[type[Frame], Route], *observers: BaseObserver) -> PipelineEye:
    """Return an eye that is set up."""
    eye = PipelineEye(list(observers), routes, lambda: None)
    await eye.setup(TaskManager())
    return eye


async def test_routes_see_frames_by_type_at_once() -> None:
    """A route is called where the push happens, for its type and for subclasses of it, and for nothing else."""
    seen: list[Frame] = []
    eye = await eye_with({InputAudioRawFrame: lambda data: seen.append(data.frame)})
    audio, user_audio = InputAudioRawFrame(b"", 1, 1), UserAudioRawFrame(b"", 1, 1)
    for frame in (audio, OwnFrame(), user_audio, TextFrame("no")):
        await eye.on_push_frame(push(frame))
    assert seen == [audio, user_audio]
    await eye.cleanup()


async def test_routes_may_wait_for_others() -> None:
    """A route that is a coroutine function is awaited before the push goes on."""
    seen: list[Frame] = []

    async def slow(data: FramePushed) -> None:
        await asyncio.sleep(0)
        seen.append(data.frame)

    eye = await eye_with({TextFrame: slow})
    await eye.on_push_frame(push(TextFrame("one")))
    assert len(seen) == 1
    await eye.cleanup()


async def test_a_route_knows_first_pushes() -> None:
    """The second push of one frame isn't its first, as Pipecat tells its own observers."""
    firsts: list[bool] = []
    listener = Listener()
    eye = await eye_with({TextFrame: lambda data: firsts.append(data.first_push)}, listener)
    frame = TextFrame("twice")
    await eye.on_push_frame(push(frame))
    await eye.on_push_frame(push(frame))
    assert firsts == [True, False]
    await eye.cleanup()


async def test_a_failing_route_doesnt_reach_the_call() -> None:
    """What goes wrong with looking is logged, and frames go on; the bot's observers still see them."""

    def broken(_data: FramePushed) -> None:
        raise KeyError("route")

    listener = Listener()
    eye = await eye_with({TextFrame: broken}, listener)
    for _ in range(20):
        await eye.on_push_frame(push(TextFrame("x")))
    await asyncio.sleep(0.01)
    assert len(listener.pushed) == 20
    await eye.cleanup()


async def test_the_bots_observers_go_on_as_before() -> None:
    """Observers that were there, and those added later, see every push; only those who want them, processed frames."""
    listener, timer, late = Listener(), Timer(), Listener()
    eye = await eye_with({}, listener, timer)
    eye.add_observer(late)
    frame = TextFrame("x")
    await eye.on_push_frame(push(frame))
    await eye.on_process_frame(FrameProcessed(FrameProcessor(), frame, FrameDirection.DOWNSTREAM, 0))
    await asyncio.sleep(0.01)
    assert [seen.pushed for seen in (listener, timer, late)] == [[frame], [frame], [frame]]
    assert timer.processed == [frame]
    assert eye._proxies is not None
    assert all(proxy.queue.empty() for proxy in eye._proxies.values())
    await eye.remove_observer(late)
    await eye.cleanup()


async def test_an_observer_list_stays_its_owners() -> None:
    """An empty list of observers stays the same list: the worker appends to it."""
    observers: list[BaseObserver] = []
    eye = PipelineEye(observers, {SystemFrame: lambda _data: None}, lambda: None)
    assert eye._observers is observers


async def test_pipecats_observers_are_woken_for_what_they_look_at() -> None:
    """Audio wakes neither RTVI's, unless levels are reported, nor the one of turns; idleness has its own frames."""
    audio = InputAudioRawFrame(bytes(2), 16_000, 1)
    turns = TurnTrackingObserver()
    idle = IdleFrameObserver(idle_event=asyncio.Event(), idle_timeout_frames=(BotSpeakingFrame,))
    rtvi, levels = RTVIObserver(), RTVIObserver(params=RTVIObserverParams(user_audio_level_enabled=True))
    listener = Listener()
    eye = await eye_with({}, turns, idle, rtvi, levels, listener)
    for frame, woken in (
        (audio, [levels, listener]),
        (BotSpeakingFrame(), [turns, idle, rtvi, levels, listener]),
        (TextFrame("a"), [turns, rtvi, levels, listener]),
        (StartFrame(), [turns, idle, rtvi, levels, listener]),
    ):
        assert [proxy.observer for proxy, _ in eye._who_wants(type(frame))] == woken
    await eye.on_push_frame(push(audio))
    await asyncio.sleep(0.01)
    await eye.remove_observer(listener)
    late = Listener()
    eye.add_observer(late)
    await eye.on_push_frame(push(audio))
    await asyncio.sleep(0.01)
    assert (listener.pushed, late.pushed) == ([audio], [audio])
    await eye.cleanup()


async def test_rtvi_is_woken_once_for_a_frame_but_for_what_it_looks_at_behind_the_transport() -> None:
    """A frame that goes through ten processors is looked at once, a text that is spoken at each of them."""
    rtvi, listener = RTVIObserver(), Listener()
    eye = await eye_with({}, rtvi, listener)
    proxies = eye._proxies or {}
    text, spoken, word = TextFrame("a"), AggregatedTextFrame("a", "sentence"), TTSTextFrame("a", "word")
    for frame, woken in ((text, 1), (spoken, 3), (word, 3)):
        for _ in range(3):
            await eye.on_push_frame(push(frame))
        assert (proxies[rtvi].queue.qsize(), proxies[listener].queue.qsize()) == (woken, 3)
        await asyncio.sleep(0.01)
    await eye.cleanup()


async def test_a_frame_is_pushed_first_once_also_if_nobody_of_the_bot_observes() -> None:
    """What our routes know of a push doesn't depend on who else looks."""
    firsts: list[bool] = []
    eye = await eye_with({TextFrame: lambda data: firsts.append(data.first_push)})
    frame = TextFrame("a")
    for _ in range(3):
        await eye.on_push_frame(push(frame))
    assert firsts == [True, False, False]
    await eye.cleanup()


def test_pipecats_observers_look_at_what_we_think() -> None:
    """The conditions that spare them frames are those that they begin with themselves."""
    rtvi = inspect.getsource(RTVIObserver.on_push_frame)
    assert "isinstance(frame, AudioRawFrame) and not (" in rtvi
    assert "self._params.user_audio_level_enabled or self._params.bot_audio_level_enabled" in rtvi
    repeats = "isinstance( frame, (AggregatedTextFrame, AggregatedTextProgressFrame) )"
    assert f"if not data.first_push and not {repeats}: return" in " ".join(rtvi.split())
    assert "AudioRawFrame" not in inspect.getsource(TurnTrackingObserver)
    changed = RTVIConfigureObserverFrame.__annotations__
    assert not [name for name in changed if "audio" in name], "levels may be switched on while a call lasts"
    idle = inspect.getsource(IdleFrameObserver.on_push_frame)
    assert "isinstance(data.frame, StartFrame) or isinstance(data.frame, self._idle_timeout_frames)" in idle
