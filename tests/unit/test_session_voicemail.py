"""Who has picked up, as a detector of Pipecat's finds out in a bot's pipeline."""

import asyncio
import sys
from typing import Any

import pytest
from pipecat.extensions.voicemail.voicemail_detector import VoicemailDetector
from pipecat.pipeline.pipeline import Pipeline

from greenroom.common.messages import EventType
from greenroom.runner.session.voicemail import tell_who_answered


class _Classifier:
    """Decides nothing."""

    def add_event_handler(self, name: str, handler: Any) -> None:
        """See Pipecat's own."""


def _detector() -> VoicemailDetector:
    classifier: Any = _Classifier()
    return VoicemailDetector(classifier=classifier)


async def _heard(event: str) -> list[tuple[EventType, dict[str, Any]]]:
    detector, told = _detector(), list[tuple[EventType, dict[str, Any]]]()
    handled = asyncio.Event()
    tell_who_answered(
        Pipeline([Pipeline([detector.detector()]), detector.gate()]), lambda kind, data: told.append((kind, data))
    )

    async def of_the_bot(_detector: VoicemailDetector) -> None:
        handled.set()

    detector.add_event_handler(event, of_the_bot)
    await detector._call_event_handler(event)
    async with asyncio.timeout(5):
        await handled.wait()
        while not told:
            await asyncio.sleep(0)
    return told


@pytest.mark.parametrize(
    ("event", "who"), [("on_voicemail_detected", "machine"), ("on_conversation_detected", "human")]
)
async def test_what_the_detector_finds_out_is_told_as_a_carriers_word_is(event: str, who: str) -> None:
    """Beside the bot's own handler, wherever in the pipeline the detector is."""
    assert await _heard(event) == [(EventType.CALL_ANSWERED_BY, {"by": who, "told": "VoicemailDetector"})]


def test_a_bot_without_one_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is imported, and nothing looked for."""
    monkeypatch.delitem(sys.modules, "pipecat.extensions.voicemail.voicemail_detector")
    tell_who_answered(Pipeline([_detector()]), lambda *_: pytest.fail("told"))
    assert "pipecat.extensions.voicemail.voicemail_detector" not in sys.modules
