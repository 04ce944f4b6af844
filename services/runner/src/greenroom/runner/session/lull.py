"""Whether the user is silent, so that what comes of him until he isn't may come later, and more of it at once.

Nobody's turn is decided on while a lull lasts: voice detection hears nothing that could be a voice (`quiet`), and the
user's last turn is over. The first frame that is louder ends it where frames are put together, at the edge, before
anybody here knows.
"""

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol

from pipecat.processors.aggregators.llm_response_universal import LLMUserAggregator

from greenroom.runner.session.quiet import loud_from
from greenroom.runner.session.voice import gate_of

# Outside of a lull audio comes more often.
_LOOK_EVERY_S: Final = 0.25


class Rests(Protocol):
    """Whoever carries the user's audio; see `SessionTransport.rest`."""

    async def rest(self, quiet_below: float | None) -> None:
        """Hear whether the user is silent."""
        ...


class Lulls:
    """Tells the transport whether there is a lull, as the user's audio comes.

    Args:
        transport: is told.
        aggregators: returns those of the bot's pipelines.
        listened: whether somebody listens in: he hears half a second behind, and what comes later would be missing.
        monotonic: the clock.
    """

    def __init__(
        self,
        transport: Rests,
        aggregators: Callable[[], Iterable[LLMUserAggregator]],
        listened: Callable[[], bool],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._aggregators = aggregators
        self._listened = listened
        self._monotonic = monotonic
        self._looked_at = -_LOOK_EVERY_S

    def heard(self) -> Awaitable[None] | None:
        """Audio has come; return what is to be waited for."""
        now = self._monotonic()
        if now - self._looked_at < _LOOK_EVERY_S:
            return None
        self._looked_at = now
        return self._transport.rest(None if self._listened() else quiet_below(self._aggregators()))


def quiet_below(aggregators: Iterable[LLMUserAggregator]) -> float | None:
    """Return the mean square (of 16-bit samples) below which nothing is a voice; None: it is no lull.

    Args:
        aggregators: those of the bot's pipeline that look for the user's voice and rule on his turns. Of several it
            isn't known who of them hears him.
    """
    match [*aggregators]:
        case [aggregator]:
            inner: Any = aggregator
        case _:
            return None
    if inner._vad_controller is None or inner._user_turn_controller._user_turn:  # noqa: SLF001
        return None
    analyzer: Any = inner._vad_controller._vad_analyzer  # noqa: SLF001
    gate = gate_of(analyzer)
    return loud_from(analyzer.params.min_volume) if gate is not None and gate.holding else None
