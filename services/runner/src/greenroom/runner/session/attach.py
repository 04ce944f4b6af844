"""How the pipeline of an unmodified bot comes to be observed, traced and stoppable.

Pipecat runs the hooks of `PIPECAT_SETUP_FILES` (see `pipecat_setup.py`) on every worker before it sets up its
pipeline; there the worker meets the session it belongs to. What is used of Pipecat beyond its documented interface
is in this file, `deferral`, `turns` and `flows`, and pinned by tests/unit/test_session_conformance.py.
"""

import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, Protocol

from pipecat.frames.frames import Frame
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_response_universal import LLMUserAggregator
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.turns.user_turn_processor import UserTurnProcessor
from pipecat.workers.runner import WorkerRunner

from greenroom.runner.session.observer import PipelineEye, Route
from greenroom.runner.session.turns import TurnSpans
from greenroom.runner.session.watch import CallWatch

SETUP_VARIABLE: Final = "PIPECAT_SETUP_FILES"
SETUP_FILE: Final = Path(__file__).with_name("pipecat_setup.py")


class Host(Protocol):
    """The session, as far as its workers are concerned."""

    async def on_runner(self, runner: WorkerRunner) -> None:
        """A runner is about to start its workers."""
        ...

    async def on_worker(self, worker: PipelineWorker) -> None:
        """A worker is about to set up its pipeline."""
        ...


class Keeper(Protocol):
    """Whoever keeps watch over the call; see `watchkeeper`."""

    def follow(self, attachment: "Attachment", routes: Mapping[type[Frame], Route]) -> dict[type[Frame], Route]:
        """Return the routes of the pipeline that holds the transport, with its own."""
        ...


# The session whose bot runs in the present context: everything a bot starts inherits it.
HOST: Final[ContextVar[Host | None]] = ContextVar("greenroom_session", default=None)


def announce_setup_file() -> None:
    """Have Pipecat run our hooks in this process, beside those that are asked for already."""
    paths = [path for path in os.environ.get(SETUP_VARIABLE, "").split(os.pathsep) if path]
    if str(SETUP_FILE) not in paths:
        os.environ[SETUP_VARIABLE] = os.pathsep.join([*paths, str(SETUP_FILE)])


class Attachment:
    """A worker that is observed.

    `main`: its pipeline holds the transport, so the call is what happens there.
    """

    def __init__(self, worker: PipelineWorker) -> None:
        self.worker = worker
        self.inputs = list(_find(worker.pipeline, BaseInputTransport))
        self.outputs = list(_find(worker.pipeline, BaseOutputTransport))
        self.aggregators = list(_find(worker.pipeline, LLMUserAggregator))
        self.main = bool(self.inputs or self.outputs)

    @property
    def mixes(self) -> bool:
        """Whether background sounds are sent all the time, so that audio doesn't mean that the bot speaks."""
        return any(output._params.audio_out_mixer is not None for output in self.outputs)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

    def observe(self, watch: CallWatch, spans: TurnSpans, on_started: Any, *, keeper: "Keeper | None" = None) -> None:
        """Put our eye into the worker's place for an observer, and switch metrics and traces on.

        Args:
            watch: what is told.
            spans: of the turns.
            on_started: called when the pipeline of a `main` worker runs.
            keeper: sees what happens in the pipeline of a `main` worker too.
        """
        _measure(self.worker)
        spans.trace(self.worker)
        routes = watch.side_routes()
        if self.main:
            rules = next(_find(self.worker.pipeline, (LLMUserAggregator, UserTurnProcessor)), None)
            routes = watch.routes(self.inputs, self.outputs, has_turns=rules is not None)
            if keeper is not None:
                routes = keeper.follow(self, routes)
        worker: Any = self.worker
        worker._observer = PipelineEye(  # noqa: SLF001
            worker._observer._observers,  # noqa: SLF001
            routes,
            on_started if self.main else _nothing,
        )


def _measure(worker: PipelineWorker) -> None:
    """Switch metrics on; a bot that didn't want them doesn't get the initial frame of zeros."""
    params = worker.params
    params.send_initial_empty_metrics = params.send_initial_empty_metrics and params.enable_metrics
    params.enable_metrics = params.enable_usage_metrics = True


def _find[T: FrameProcessor](processor: FrameProcessor, kinds: type[T] | tuple[type[T], ...]) -> Iterator[T]:
    if isinstance(processor, kinds):
        yield processor
    for inner in processor.processors:
        yield from _find(inner, kinds)


def _nothing() -> None:
    pass
