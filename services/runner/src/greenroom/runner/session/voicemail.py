"""Tells who has picked up, as the bot itself finds out: by a `VoicemailDetector` of Pipecat's in its pipeline.

What carriers find out with their machine detection is told by the same event.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

from pipecat.processors.frame_processor import FrameProcessor

from greenroom.common.messages import EventType

# Imported by bots that use it, and by nobody else.
_MODULE: Final = "pipecat.extensions.voicemail.voicemail_detector"
# The detector's events, and who it is then.
_WHO: Final = {"on_voicemail_detected": "machine", "on_conversation_detected": "human"}


def tell_who_answered(pipeline: FrameProcessor, emit: Callable[[EventType, dict[str, Any]], object]) -> None:
    """Have `call_answered_by` told once a detector in a bot's pipeline has decided."""
    module: Any = sys.modules.get(_MODULE)
    if module is None:
        return
    for part in _all(pipeline):
        if isinstance(part, module.VoicemailDetector):
            for event, who in _WHO.items():
                part.add_event_handler(event, _teller(who, emit))


def _teller(who: str, emit: Callable[[EventType, dict[str, Any]], object]) -> Callable[..., None]:
    def tell(*_: Any) -> None:
        emit(EventType.CALL_ANSWERED_BY, {"by": who, "told": "VoicemailDetector"})

    return tell


def _all(processor: FrameProcessor) -> Iterator[FrameProcessor]:
    yield processor
    for inner in processor.processors:
        yield from _all(inner)
