"""Finds the steps that are configured: our own, and those of installed packages."""

import contextlib
import inspect
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Final

import httpx

from greenroom.common.errors import GreenroomError
from greenroom.recorder.post_call.chat_step import ChatStep
from greenroom.recorder.post_call.step import Step
from greenroom.recorder.settings import MEETING_NOTES, SUMMARY, RecorderSettings

GROUP: Final = "greenroom.post_call"
# It is part of a subject, and of the type of an event.
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class StepUnknown(GreenroomError):
    """A step in `GREENROOM_POST_CALL_STEPS` or `GREENROOM_POST_CALL_OFFERED` isn't there, or isn't one.

    Its name is `summary`, `meeting_notes`, or that of an entry point of the group `greenroom.post_call` of a package
    that is installed beside the recorder: something with `async def run(call)`, or what makes that when it is called
    without arguments.
    """

    code = "post-call-step-unknown"
    title = "There is no such step"


async def load_steps(settings: RecorderSettings, parts: contextlib.AsyncExitStack) -> Mapping[str, Step]:
    """Return the configured steps by name.

    Args:
        settings: of the service.
        parts: closes what they need.

    Raises:
        StepUnknown: one isn't there, or can't be loaded.
    """
    prompts = {SUMMARY: settings.summary_prompt, MEETING_NOTES: settings.meeting_notes_prompt}
    steps: dict[str, Step] = {}
    for name in dict.fromkeys((*settings.post_call_steps, *settings.post_call_offered)):
        if prompt := prompts.get(name):
            client = await parts.enter_async_context(httpx.AsyncClient(timeout=settings.post_call_timeout_s))
            steps[name] = ChatStep(
                client,
                url=settings.summary_url,
                model=settings.summary_model,
                key=settings.summary_key,
                prompt=prompt,
                result=name,
            )
        else:
            steps[name] = _plugin(name)
    return steps


def _plugin(name: str) -> Step:
    found = next(iter(entry_points(group=GROUP, name=name)), None)
    if found is None or not _NAME.fullmatch(name):
        raise StepUnknown(f"{name[:64]!r} is no entry point of {GROUP}")
    try:
        loaded: Any = found.load()
        step: Any = loaded if hasattr(loaded, "run") and not inspect.isclass(loaded) else loaded()
    except Exception as error:
        raise StepUnknown(f"{name} can't be loaded: {type(error).__name__}") from error
    if not inspect.iscoroutinefunction(getattr(step, "run", None)):
        raise StepUnknown(f"{name} has no `async def run(call)`")
    return step
