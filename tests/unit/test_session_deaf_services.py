"""Models and voices of vendors that don't listen, whether or not their libraries are installed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import override

import pipecat.services
from pipecat.frames.frames import Frame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.responses.llm import OpenAIResponsesHttpLLMService

from greenroom.runner.session.deaf_services import NAMES
from greenroom.runner.session.shortcuts import DEAF, cut_user_audio

_SERVICES = Path(pipecat.services.__path__[0])
_DECIDES = {"process_frame", "queue_frame", "push_frame"}
# What the base of all audio frames is called, those that carry the user's, and what all of those are.
_USERS = re.compile(r"\b(?:AudioRawFrame|InputAudioRawFrame|UserAudioRawFrame|SystemFrame)\b")


def _deciding() -> Iterator[tuple[str, str]]:
    """Yield the models and voices in Pipecat's sources that decide on frames, and the source of where they do."""
    for path in sorted(_SERVICES.rglob("*.py")):
        text = path.read_text()
        if not re.search(r"^class \w+(?:LLM|TTS)Service\b", text, re.MULTILINE):
            continue
        module = ".".join(["pipecat.services", *path.relative_to(_SERVICES).with_suffix("").parts])
        for node in ast.parse(text).body:
            if not isinstance(node, ast.ClassDef) or not re.search(r"(?:LLM|TTS)Service$", node.name):
                continue
            methods = [each for each in node.body if getattr(each, "name", "") in _DECIDES]
            if methods:
                sources = (ast.get_source_segment(text, method) or "" for method in methods)
                yield f"{module}.{node.name}", "\n".join(sources)


def test_each_is_known_to_listen_or_not_to() -> None:
    """Whoever decides on frames and doesn't name the user's audio there is on the list, and nobody else is."""
    known = {f"{kind.__module__}.{kind.__qualname__}" for kind in DEAF}
    deciding = dict(_deciding())
    deaf = {name for name, source in deciding.items() if name not in known and not _USERS.search(source)}
    assert deaf == NAMES
    assert {name for name in deciding if name not in known | deaf}, "nobody listens: not even a realtime service"


class Own(OpenAIResponsesHttpLLMService):
    """A bot's own, that may do anything."""

    @override
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)


def _worker(model: FrameProcessor) -> PipelineWorker:
    pair = LLMContextAggregatorPair(LLMContext())
    return PipelineWorker(Pipeline([pair.user(), model, pair.assistant()]))


async def test_audio_goes_no_further_than_to_them() -> None:
    """A model that is on the list by its name is as deaf as one that is known by its class."""
    model = OpenAIResponsesHttpLLMService(api_key="k")
    assert cut_user_audio(_worker(model)) is model


async def test_a_bots_own_one_may_listen() -> None:
    """A class that comes from one on the list, and decides on frames itself, gets all that there is."""
    own = Own(api_key="k")
    assert cut_user_audio(_worker(own)) not in {None, own}
