"""Loaded by Pipecat itself, by its path in `PIPECAT_SETUP_FILES`: introduces runners and workers to the session."""

from pipecat.pipeline.worker import PipelineWorker
from pipecat.workers.runner import WorkerRunner

from greenroom.runner.session.attach import HOST


async def setup_worker_runner(runner: WorkerRunner) -> None:
    """Called for each `WorkerRunner`, before its workers start."""
    host = HOST.get()
    if host is not None:
        await host.on_runner(runner)


async def setup_pipeline_worker(worker: PipelineWorker) -> None:
    """Called for each `PipelineWorker`, before its pipeline is set up."""
    host = HOST.get()
    if host is not None:
        await host.on_worker(worker)
