"""Pipecat text-to-speech service over espeak-ng: no network, no key."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, ClassVar, override

import numpy as np
import soxr
from pipecat.frames.frames import ErrorFrame, Frame, TTSAudioRawFrame
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService
from pipecat.utils.tracing import service_decorators
from pipecat.utils.types import NOT_GIVEN, NotGiven, is_given

from greenroom.runner.speech import espeak


@dataclass
class EspeakTTSSettings(TTSSettings):
    """Settings of `EspeakTTSService`.

    Attributes:
        rate_wpm: words a minute, 80 to 450.
    """

    rate_wpm: int | NotGiven = field(default_factory=lambda: NOT_GIVEN)


class EspeakTTSService(TTSService):
    """Speaks a sentence at a time, and reports its words as they are heard: what an interruption cuts off is known.

    Args:
        settings: what differs from the defaults; voice and rate may be changed while a call lasts.
    """

    Settings: ClassVar = EspeakTTSSettings

    def __init__(self, *, settings: EspeakTTSSettings | None = None, **kwargs: Any) -> None:
        complete = EspeakTTSSettings(
            model="espeak-ng", voice=espeak.BOT_VOICE, language=None, rate_wpm=espeak.BOT_RATE_WPM
        )
        if settings is not None:
            complete.apply_update(settings)
        super().__init__(
            push_start_frame=True,
            push_stop_frames=True,
            push_text_frames=False,
            settings=complete,
            **kwargs,
        )
        # The same object as the base class has; updates change it in place.
        self._own_settings = complete
        # Seconds of speech so far, by turn: word times count from the beginning of the turn.
        self._spoken_s: dict[str, float] = {}

    @override
    def can_generate_metrics(self) -> bool:
        """Time to first byte, processing and usage."""
        return True

    @override
    async def on_audio_context_completed(self, context_id: str) -> None:
        """Forget a turn that was spoken."""
        self._spoken_s.pop(context_id, None)
        await super().on_audio_context_completed(context_id)

    @override
    async def on_audio_context_interrupted(self, context_id: str) -> None:
        """Forget a turn that was interrupted."""
        self._spoken_s.pop(context_id, None)
        await super().on_audio_context_interrupted(context_id)

    @service_decorators.traced_tts
    @override
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Speak one sentence."""
        await self.start_tts_usage_metrics(text)
        try:
            pcm, words = await asyncio.to_thread(self._speak, text)
        except (espeak.EspeakUnavailable, espeak.UnknownVoice) as error:
            yield ErrorFrame(error=f"{self}: {error}", exception=error)
            return
        await self.stop_ttfb_metrics()
        begin_s = self._spoken_s.get(context_id, 0.0)
        self._spoken_s[context_id] = begin_s + len(pcm) / (2 * self.sample_rate)
        await self.add_word_timestamps([(word.text, begin_s + word.start_s) for word in words], context_id)
        for start in range(0, len(pcm), self.chunk_size):
            yield TTSAudioRawFrame(pcm[start : start + self.chunk_size], self.sample_rate, 1, context_id=context_id)

    def _speak(self, text: str) -> tuple[bytes, tuple[espeak.Word, ...]]:
        voice, rate_wpm = self._own_settings.voice, self._own_settings.rate_wpm
        speech = espeak.speak(
            text,
            voice=voice if is_given(voice) and voice else espeak.BOT_VOICE,
            rate_wpm=rate_wpm if is_given(rate_wpm) else espeak.BOT_RATE_WPM,
        )
        return _resampled(speech.pcm, self.sample_rate), speech.words


def _resampled(pcm: bytes, rate: int) -> bytes:
    if rate == espeak.RATE:
        return pcm
    samples: np.ndarray[Any, np.dtype[np.int16]] = soxr.resample(np.frombuffer(pcm, dtype="<i2"), espeak.RATE, rate)
    return samples.tobytes()
