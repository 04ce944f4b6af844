"""Whether the user is silent, so that what comes of him until he isn't may come later, and more of it at once.

Nobody's turn is decided on while a lull lasts: voice detection hears nothing that could be a voice (`quiet`), and the
user's last turn is over. The first frame that is louder ends it where frames are put together, at the edge, before
anybody here knows.
"""

from collections.abc import Iterable
from typing import Any

from pipecat.processors.aggregators.llm_response_universal import LLMUserAggregator

from greenroom.runner.session.quiet import loud_from
from greenroom.runner.session.voice import gate_of


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
