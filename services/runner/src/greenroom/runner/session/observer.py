"""The one observer of a pipeline: looks at every push as it happens, for the price of a dictionary look-up.

Pipecat hands each processor one observer, a `WorkerObserver`, which puts every push and every processed frame into
a queue for each observer it knows. At 50 audio frames a second and side, through ten processors, that is a
substantial part of what a session costs. `PipelineEye` takes its place: the bot's own observers go on as before
(except that they aren't woken for what they don't look at), and our routes are called in line, by type of frame,
so that they see things in the order in which they happen and lose none at the end.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

import structlog
from pipecat.frames.frames import (
    AggregatedTextFrame,
    AggregatedTextProgressFrame,
    AudioRawFrame,
    Frame,
    InputAudioRawFrame,
    StartFrame,
)
from pipecat.observers.base_observer import BaseObserver, FrameProcessed, FramePushed
from pipecat.observers.turn_tracking_observer import TurnTrackingObserver
from pipecat.pipeline.worker import IdleFrameObserver
from pipecat.pipeline.worker_observer import Proxy, WorkerObserver
from pipecat.processors.frameworks.rtvi import RTVIObserver, RTVIObserverParams
from pipecat.utils.asyncio.task_manager import BaseTaskManager

_log = structlog.get_logger()

# Called in the pipeline's own tasks: quick, and without waiting for anything but other routes.
type Route = Callable[[FramePushed], Awaitable[None] | None]

# Of what RTVI looks at every push; of all else at the first one.
_RTVI_REPEATS: Final = (AggregatedTextFrame, AggregatedTextProgressFrame)
# A route that fails on every frame is said so often.
_MAX_COMPLAINTS: Final = 5


class PipelineEye(WorkerObserver):
    """A `WorkerObserver` with routes.

    Args:
        observers: the bot's and Pipecat's own; the list stays theirs.
        routes: by type of frame; a subclass is routed like the nearest of its bases.
        on_started: called when the StartFrame has come through.
    """

    def __init__(
        self, observers: list[BaseObserver], routes: Mapping[type[Frame], Route], on_started: Callable[[], None]
    ) -> None:
        super().__init__(observers=observers)
        # `or []` in the base would part an empty list from its owner.
        self._observers = observers
        self._routes: dict[type[Frame], Route | None] = dict(routes)
        self._on_started = on_started
        self._complaints = 0
        # By type of frame; with whether every push is wanted, or the first.
        self._wanting: dict[type[Frame], tuple[tuple[Proxy, bool], ...]] = {}

    async def setup(self, task_manager: BaseTaskManager) -> None:
        """Make the queues of the observers that there are."""
        await super().setup(task_manager)
        self._wanting.clear()

    def add_observer(self, observer: BaseObserver) -> None:
        """Take another observer."""
        super().add_observer(observer)
        self._wanting.clear()

    async def remove_observer(self, observer: BaseObserver) -> None:
        """Let an observer go."""
        # Whoever is pushed to meanwhile isn't woken any more.
        self._wanting.clear()
        await super().remove_observer(observer)
        self._wanting.clear()

    async def on_push_frame(self, data: FramePushed) -> None:
        """See the push, and hand it on."""
        frame = data.frame
        kind = type(frame)
        try:
            wanting = self._wanting[kind]
        except KeyError:
            wanting = self._wanting[kind] = self._who_wants(kind)
        if wanting or kind is not InputAudioRawFrame:
            data.first_push = frame.id not in self._frames_pushed
            if data.first_push:
                self._frames_pushed[frame.id] = frame
            for proxy, every_push in wanting:
                if data.first_push or every_push:
                    await proxy.queue.put(data)
        try:
            route = self._routes[kind]
        except KeyError:
            route = self._routes[kind] = self._nearest(kind)
        if route is None:
            return
        try:
            pending = route(data)
            if pending is not None:
                await pending
        except Exception as error:  # noqa: BLE001 whatever goes wrong with looking must not reach the call
            self._complain(kind, error)

    async def on_process_frame(self, data: FrameProcessed) -> None:
        """Hand it to those who want it: of Pipecat's observers, one for start-up timing."""
        for proxy in (self._proxies or {}).values():
            if type(proxy.observer).on_process_frame is not BaseObserver.on_process_frame:
                await proxy.queue.put(data)

    async def on_pipeline_started(self) -> None:
        """See that the pipeline runs, and hand it on."""
        self._on_started()
        await super().on_pipeline_started()

    def _who_wants(self, kind: type[Frame]) -> tuple[tuple[Proxy, bool], ...]:
        return tuple(
            (proxy, _wants_repeats(proxy.observer, kind))
            for proxy in (self._proxies or {}).values()
            if self._wants(proxy.observer, kind)
        )

    def _wants(self, observer: BaseObserver, kind: type[Frame]) -> bool:
        """Tell whether an observer looks at such frames; of those that aren't Pipecat's own that isn't known."""
        look = type(observer).on_push_frame
        if look is RTVIObserver.on_push_frame and issubclass(kind, AudioRawFrame):
            params: RTVIObserverParams = cast("Any", observer)._params  # noqa: SLF001
            return params.user_audio_level_enabled or params.bot_audio_level_enabled
        if look is IdleFrameObserver.on_push_frame:
            return issubclass(kind, (StartFrame, *cast("Any", observer)._idle_timeout_frames))  # noqa: SLF001
        return look is not TurnTrackingObserver.on_push_frame or not issubclass(kind, AudioRawFrame)

    def _nearest(self, kind: type[Frame]) -> Route | None:
        return next((route for base in kind.__mro__[1:] if (route := self._routes.get(base)) is not None), None)

    def _complain(self, kind: type[Frame], error: Exception) -> None:
        self._complaints += 1
        if self._complaints <= _MAX_COMPLAINTS:
            _log.error("observer_failed", frame=kind.__name__, exc_info=error)


def _wants_repeats(observer: BaseObserver, kind: type[Frame]) -> bool:
    """Tell whether an observer looks at such a frame again, when another processor pushes it on."""
    if type(observer).on_push_frame is RTVIObserver.on_push_frame:
        return issubclass(kind, _RTVI_REPEATS)
    return observer.observe_every_push
