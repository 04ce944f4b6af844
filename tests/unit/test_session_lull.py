"""Whether the user is silent, so that what comes of him may come later."""

from typing import Any

import pytest
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams, VADState
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.turns.user_start.base_user_turn_start_strategy import UserTurnStartedParams

from greenroom.runner.session.lull import Lulls, quiet_below
from greenroom.runner.session.quiet import loud_from
from greenroom.runner.session.voice import look_for_voices_inline

_PIECE = bytes(1920)
_LOUD = b"\x00\x10" * 960
# In so much silence the volume falls below what counts.
_PIECES = 22
_STARTED = UserTurnStartedParams(enable_user_speaking_frames=False, enable_interruptions=False)


@pytest.fixture(autouse=True)
def inline() -> None:
    """As in a session process."""
    look_for_voices_inline()


def _pair(analyzer: SileroVADAnalyzer | None) -> Any:
    context: Any = LLMContext()
    return LLMContextAggregatorPair(context, user_params=LLMUserAggregatorParams(vad_analyzer=analyzer)).user()


def _analyzer() -> SileroVADAnalyzer:
    analyzer = SileroVADAnalyzer(sample_rate=16_000, params=VADParams(min_volume=0.5))
    analyzer.set_sample_rate(16_000)
    return analyzer


async def test_a_lull_begins_when_nothing_is_analyzed_any_more() -> None:
    """Not before anything was heard, nor while voice detection looks at it; then what it says of volume counts."""
    analyzer = _analyzer()
    user = _pair(analyzer)
    assert quiet_below([user]) is None
    for _ in range(_PIECES):
        await analyzer.analyze_audio(_LOUD)
        assert quiet_below([user]) is None
    for _ in range(_PIECES):
        await analyzer.analyze_audio(_PIECE)
    assert quiet_below([user]) == loud_from(0.5)
    analyzer._vad_state = VADState.STOPPING
    await analyzer.analyze_audio(_PIECE)
    assert quiet_below([user]) is None


async def test_a_turn_of_the_user_is_no_lull() -> None:
    """He may only be thinking, and it is decided by his silence how long."""
    analyzer = _analyzer()
    user = _pair(analyzer)
    for _ in range(_PIECES):
        await analyzer.analyze_audio(_PIECE)
    await user._user_turn_controller._trigger_user_turn_start(None, _STARTED)
    assert user._user_turn_controller._user_turn
    assert quiet_below([user]) is None


async def test_who_hears_the_user_must_be_known() -> None:
    """Without voice detection, or with two that look for him, everything comes as soon as it can."""
    analyzer = _analyzer()
    for _ in range(_PIECES):
        await analyzer.analyze_audio(_PIECE)
    assert quiet_below([_pair(analyzer)]) is not None
    assert quiet_below([_pair(None)]) is None
    assert quiet_below([]) is None
    assert quiet_below([_pair(analyzer), _pair(analyzer)]) is None


class _Transport:
    def __init__(self) -> None:
        self.told: list[float | None] = []

    async def rest(self, quiet_below: float | None) -> None:
        self.told.append(quiet_below)


async def test_the_transport_is_told_as_audio_comes() -> None:
    """A few times a second at most, and of no lull while somebody listens in."""
    analyzer, transport, now, listened = _analyzer(), _Transport(), 10.0, False
    for _ in range(_PIECES):
        await analyzer.analyze_audio(_PIECE)
    user = _pair(analyzer)
    lulls = Lulls(transport, lambda: [user], lambda: listened, monotonic=lambda: now)
    for _ in range(10):
        if (telling := lulls.heard()) is not None:
            await telling
        now += 0.06
    assert transport.told == [loud_from(0.5)] * 2
    listened = True
    now += 0.3
    telling = lulls.heard()
    assert telling is not None
    await telling
    assert transport.told[-1] is None
