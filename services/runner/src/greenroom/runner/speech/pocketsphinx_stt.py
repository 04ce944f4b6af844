"""Pipecat speech-to-text service over pocketsphinx and a grammar: no network, no key."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, override

from loguru import logger
from pipecat.frames.frames import Frame, TranscriptionFrame
from pipecat.processors.frame_processor import FrameProcessorSetup
from pipecat.services.settings import STTSettings
from pipecat.services.stt_service import SegmentedSTTService
from pipecat.transcriptions.language import Language
from pipecat.utils.time import time_now_iso8601
from pipecat.utils.tracing import service_decorators

from greenroom.runner.speech.recognizer import RATE, GrammarRecognizer

# From the end of speech: 0.2 s until the VAD has noticed, then a sentence of 5 s is decoded within 0.3 s.
_TTFS_P99_S: Final = 0.5
# What waits for a transcript to end the caller's turn is to know that there is none, and not to wait any longer. It
# takes any text for one; those who read it strip it first.
_NOTHING: Final = " "


@dataclass
class PocketsphinxSTTSettings(STTSettings):
    """Settings of `PocketsphinxSTTService`; none of them can be changed while a call lasts."""


class PocketsphinxSTTService(SegmentedSTTService):
    """Transcribes each stretch of speech that the VAD finds, with a grammar.

    Speech that isn't recognised gives a blank transcript. The pipeline's input has to be mono at 16 kHz.

    Args:
        recognizer: may be shared by several services.
    """

    Settings: ClassVar = PocketsphinxSTTSettings

    def __init__(self, recognizer: GrammarRecognizer, **kwargs: Any) -> None:
        super().__init__(
            sample_rate=RATE,
            ttfs_p99_latency=_TTFS_P99_S,
            settings=PocketsphinxSTTSettings(model="pocketsphinx-en-us", language=Language.EN_US),
            **kwargs,
        )
        self._recognizer = recognizer

    @property
    @override
    def wants_wav_segments(self) -> bool:
        """False: pocketsphinx reads bare samples."""
        return False

    @override
    def can_generate_metrics(self) -> bool:
        """Time to first byte, processing and usage."""
        return True

    @override
    async def setup(self, setup: FrameProcessorSetup) -> None:
        """Set up.

        Raises:
            ValueError: the pipeline's input has another rate; it would be heard at the wrong speed.
        """
        if setup.audio_in_sample_rate != RATE:
            raise ValueError(f"{self} hears {RATE} Hz, the pipeline's input has {setup.audio_in_sample_rate} Hz")
        await super().setup(setup)

    @override
    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        """Transcribe one stretch of speech, PCM16 mono at 16 kHz."""
        await self.start_processing_metrics()
        text = await asyncio.to_thread(self._recognizer.transcribe, audio)
        await self.stop_processing_metrics()
        if not text:
            logger.debug(f"{self}: speech without a sentence of the grammar")
            yield TranscriptionFrame(_NOTHING, self._user_id, time_now_iso8601(), Language.EN_US)
            return
        await self._trace_transcription(text, is_final=True, language=Language.EN_US)
        yield TranscriptionFrame(text, self._user_id, time_now_iso8601(), Language.EN_US)

    @service_decorators.traced_stt
    async def _trace_transcription(self, transcript: str, *, is_final: bool, language: Language | None) -> None:
        """Give the tracing decorator a method to be put on: spans go from the start of speech to its transcript."""
