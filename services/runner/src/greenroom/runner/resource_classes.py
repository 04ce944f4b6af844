"""What sessions of a bot take of a host until it has been measured, by the class that the bot says it is of.

A module says `RESOURCES = "voice"`. Memory and network are what such agents are commonly sized by. So is the proportion
of the processors that they take (0.16 to 0.2 to 0.25 to 0.5), with `voice` at what a runner takes of any bot as long as
it knows nothing: 12 a processor (`settings.default_slots`), three quarters of which are used. The built-in assistant
was measured to take less than half of that (docs/sizing.md). Once a runner has measured a bot, that counts.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from greenroom.runner.density import Cost

_MB: Final = 1_000_000
_KBIT: Final = 1000 / 8


def _cost(cores: float, mb: int, kbit_s: int) -> Cost:
    return Cost(cores=cores, memory=mb * _MB, network=kbit_s * _KBIT)


CLASSES: Final[Mapping[str, Cost]] = MappingProxyType(
    {
        # Hears, thinks and speaks by services of others.
        "voice": _cost(0.0625, 50, 100),
        # Calls tools beside it.
        "tools": _cost(0.08, 75, 150),
        # Speech to speech, by a model that is sent audio all the time.
        "realtime": _cost(0.1, 100, 200),
        # Sees too.
        "multimodal": _cost(0.2, 200, 500),
    }
)
# Of the network nothing is measured by session: a bot that says no class is taken for one of these.
PLAIN: Final = CLASSES["voice"]
