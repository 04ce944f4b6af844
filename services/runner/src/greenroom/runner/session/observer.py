"""The one observer of a pipeline: looks at every push as it happens, for the price of a dictionary look-up.

Pipecat hands each processor one observer, a `WorkerObserver`, which puts every push and every processed frame into
a queue for each observer it knows. At 50 audio frames a second and side, through ten processors, that is a
substantial part of what a session costs. `PipelineEye` takes its place: the bot's own observers go on as before
(except that they aren't woken for what they don't override), and our routes are called in line, by type of frame,
so that they see things in the order in which they happen and lose none at the end.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog
from pipecat.frames.frames import Frame
from pipecat.observers.base_observer import BaseObserver, FrameProcessed, FramePushed
from pipecat.pipeline.worker_observer import WorkerObserver

_log = structlog.get_logger()

# Called in the pipeline's own tasks: quick, and without waiting for anything but other routes.
type Route = Callable[[FramePushed], Awaitable[None] | None]

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

    async def on_push_frame(self, data: FramePushed) -> None:
        """See the push, and hand it on."""
        await super().on_push_frame(data)
        kind = type(data.frame)
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

    def _nearest(self, kind: type[Frame]) -> Route | None:
        return next((route for base in kind.__mro__[1:] if (route := self._routes.get(base)) is not None), None)

    def _complain(self, kind: type[Frame], error: Exception) -> None:
        self._complaints += 1
        if self._complaints <= _MAX_COMPLAINTS:
            _log.error("observer_failed", frame=kind.__name__, exc_info=error)
