"""Turns are judged ahead, and as they would be otherwise; Pipecat's own voice detection and analyzer decide when."""

import asyncio
from typing import Any, override

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pipecat.audio.turn.base_turn_analyzer import EndOfTurnState
from pipecat.audio.turn.smart_turn.base_smart_turn import BaseSmartTurn
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADAnalyzer, VADParams, VADState
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy, TurnAnalyzerUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies

from greenroom.runner.session.turn_ahead import TurnAhead, judge_ahead

_RATE = 16_000
_WINDOW = 512
_VOICE_FROM = 1000


class Vad(SileroVADAnalyzer):
    """Hears a voice in samples that are loud, without a model; all else is Pipecat's."""

    def __init__(self, stop_secs: float = 0.2) -> None:
        VADAnalyzer.__init__(self, params=VADParams(min_volume=0.0, stop_secs=stop_secs))
        self.set_sample_rate(_RATE)

    @override
    def voice_confidence(self, buffer: bytes) -> float:
        return float(np.abs(np.frombuffer(buffer, np.int16)).max() >= _VOICE_FROM)


class Analyzer(LocalSmartTurnAnalyzerV3):
    """Remembers what it was to judge, instead of a model; all else is Pipecat's."""

    def __init__(self, *, complete: bool = True) -> None:
        BaseSmartTurn.__init__(self)
        self.set_sample_rate(_RATE)
        self.complete = complete
        self.judged: list[NDArray[np.float32]] = []

    @override
    def _predict_endpoint(self, audio_array: NDArray[np.float32]) -> dict[str, Any]:
        self.judged.append(audio_array)
        return {"prediction": int(self.complete), "probability": 0.9 if self.complete else 0.1}


class User:
    """Speaks and falls silent; what Pipecat does with each piece is done with it, in its order."""

    def __init__(self, *, ahead: bool, stop_secs: float = 0.2, complete: bool = True) -> None:
        self.vad = Vad(stop_secs)
        self.analyzer = Analyzer(complete=complete)
        self.verdicts: list[tuple[EndOfTurnState, NDArray[np.float32]]] = []
        # How many pieces came between the question to the model and the end of the silence, for each verdict.
        self.ahead: list[int] = []
        self._speaking = False
        self._asked_at: list[int] = []
        self._pieces = 0
        self._ahead = TurnAhead(self.analyzer, self.vad) if ahead else None

    async def hear(self, piece: NDArray[np.int16]) -> None:
        """Be heard for the length of a piece."""
        self._pieces += 1
        before, known = self._speaking, len(self.analyzer.judged)
        state = self.vad._run_analyzer(piece.tobytes())
        if state is VADState.SPEAKING:
            self._speaking = True
        ended = state is VADState.QUIET and before
        self.analyzer.append_audio(piece.tobytes(), self._speaking)
        await self._settle()
        if len(self.analyzer.judged) > known:
            self._asked_at.append(self._pieces)
        if ended:
            self._speaking = False
            verdict, _ = await self.analyzer.analyze_end_of_turn()
            self.verdicts.append((verdict, self.analyzer.judged[-1]))
            self.ahead.append(self._pieces - (self._asked_at[-1] if self._asked_at else self._pieces))

    async def leave(self) -> None:
        """End threads."""
        await self.analyzer.cleanup()
        await self.vad.cleanup()

    async def _settle(self) -> None:
        judgement = self._ahead._judgement if self._ahead is not None else None
        if judgement is not None:
            await asyncio.wait({judgement})


def _is_ahead(analyzer: Any) -> bool:
    return isinstance(getattr(analyzer.append_audio, "__self__", None), TurnAhead)


def _audio(spans: list[tuple[int, int]]) -> NDArray[np.int16]:
    """Return windows of speech and silence, in turn: each sample of speech tells where it is from."""
    parts: list[NDArray[np.int16]] = []
    for number, (spoken, silent) in enumerate(spans):
        parts += [np.full(spoken * _WINDOW, _VOICE_FROM + number, np.int16), np.full(silent * _WINDOW, 3, np.int16)]
    return np.concatenate(parts)


async def _played(user: User, audio: NDArray[np.int16], piece: int) -> User:
    for start in range(0, len(audio) - piece + 1, piece):
        await user.hear(audio[start : start + piece])
    await user.leave()
    return user


@settings(max_examples=150, deadline=None)
@given(
    spans=st.lists(st.tuples(st.integers(1, 25), st.integers(1, 14)), min_size=1, max_size=8),
    piece_ms=st.sampled_from((10, 20, 32, 40, 60, 100, 200)),
    stop_secs=st.sampled_from((0.06, 0.2, 0.5)),
    complete=st.booleans(),
)
@example(spans=[(20, 4), (1, 8), (20, 10)], piece_ms=60, stop_secs=0.2, complete=True)
@example(spans=[(8, 4), (1, 1)], piece_ms=100, stop_secs=0.06, complete=False)
@example(spans=[(17, 1), (1, 3)], piece_ms=40, stop_secs=0.06, complete=False)
@example(spans=[(8, 1), (1, 3)], piece_ms=100, stop_secs=0.06, complete=False)
@example(spans=[(20, 5), (20, 12)], piece_ms=20, stop_secs=0.2, complete=False)
def test_what_is_judged_is_what_would_be(
    spans: list[tuple[int, int]], piece_ms: int, stop_secs: float, *, complete: bool
) -> None:
    """Whoever speaks and pauses however: as many verdicts, on the same speech, in audio as long as without it.

    But for the last samples, which voice detection hasn't looked at: the next word may begin there.
    """

    async def play(*, ahead: bool) -> User:
        user = User(ahead=ahead, stop_secs=stop_secs, complete=complete)
        return await _played(user, _audio(spans), piece_ms * _RATE // 1000)

    with_it, without = asyncio.run(play(ahead=True)), asyncio.run(play(ahead=False))
    assert [state for state, _ in with_it.verdicts] == [state for state, _ in without.verdicts]
    for (_, ours), (_, theirs) in zip(with_it.verdicts, without.verdicts, strict=True):
        assert len(ours) == len(theirs)
        assert np.array_equal(ours[:-_WINDOW], theirs[:-_WINDOW])


async def test_a_turn_is_judged_a_tenth_of_a_second_ahead() -> None:
    """With pieces of 20 ms the model is asked five before the silence is long enough."""
    user = await _played(User(ahead=True), _audio([(20, 20)]), 320)
    assert user.ahead == [5]
    assert len(user.analyzer.judged) == 1


async def test_the_silence_to_come_is_like_the_one_that_is_heard() -> None:
    """A room isn't as silent as zeros: what is appended is what was heard last, played backwards."""
    audio = _audio([(20, 20)])
    noise = np.random.default_rng(0).integers(-50, 50, len(audio)).astype(np.int16)
    heard = np.where(audio < _VOICE_FROM, noise, audio).astype(np.int16)
    user = await _played(User(ahead=True), heard, 320)
    [(_, judged)] = user.verdicts
    real, to_come = judged[: -5 * 320] * 32768, judged[-5 * 320 :] * 32768
    assert np.array_equal(to_come[: 3 * _WINDOW], real[::-1][: 3 * _WINDOW])
    assert np.abs(to_come).max() <= 50


async def test_a_pause_is_no_end() -> None:
    """Who speaks on within the 0.2 s is judged once, in the end, about everything."""
    user = await _played(User(ahead=True), _audio([(20, 4), (20, 20)]), 320)
    assert len(user.analyzer.judged) == 2
    [(_, judged)] = user.verdicts
    assert np.isin([_VOICE_FROM, _VOICE_FROM + 1], judged * 32768).all()


def _aggregator(vad: VADAnalyzer | None, *stops: Any) -> Any:
    strategies = UserTurnStrategies(stop=list(stops))
    params = LLMUserAggregatorParams(vad_analyzer=vad, user_turn_strategies=strategies)
    return LLMContextAggregatorPair(LLMContext(), user_params=params).user()


@pytest.mark.parametrize("with_vad", [True, False])
async def test_aggregators_that_look_for_the_voice_themselves(*, with_vad: bool) -> None:
    """Where another part of the pipeline looks for the voice, nothing is known of it beforehand."""
    analyzer = Analyzer()
    stops = [SpeechTimeoutUserTurnStopStrategy(), TurnAnalyzerUserTurnStopStrategy(turn_analyzer=analyzer)]
    judge_ahead([_aggregator(Vad() if with_vad else None, *stops)])
    assert _is_ahead(analyzer) == with_vad


async def test_analyzers_of_others_are_left_alone() -> None:
    """One that asks a server, for example: each question may cost something."""

    class Other(BaseSmartTurn):
        @override
        def _predict_endpoint(self, audio_array: NDArray[np.float32]) -> dict[str, Any]:
            raise AssertionError

    analyzer = Other()
    judge_ahead([_aggregator(Vad(), TurnAnalyzerUserTurnStopStrategy(turn_analyzer=analyzer))])
    assert not _is_ahead(analyzer)
