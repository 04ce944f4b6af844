"""How many warm processes each runner of a pool should have waiting, by how fast sessions come. Pure.

A runner keeps a few by itself, which is enough while a session comes now and then: one is forked in some 20 ms, but
not while a start is under way. Where sessions come faster, a start would have to fork its own process, which is three
times as slow; so as many should wait as come to one runner in the time in which it may get no chance to fork any.
"""

import math
from collections.abc import Sequence
from typing import Final

from greenroom.scheduler.pool_facts import RunnerFacts

# Arrivals come in bursts: what comes in two seconds on average may come in a fraction of one.
_BURST_S: Final = 2.0
# What a runner keeps by itself by default: less is never wished for.
_OWN: Final = 4
MOST: Final = 64
# How long a wish holds, and after how many looks of a second it is said again.
HOLDS_S: Final = 60.0
EVERY_LOOKS: Final = 15


def wishes(runners: Sequence[RunnerFacts], arrivals_per_s: float) -> dict[str, int]:
    """Return how many processes should wait, by runner; those whose own number is enough are left out.

    Args:
        runners: of the pool.
        arrivals_per_s: sessions that are asked for, of all its runners.
    """
    takers = [runner for runner in runners if not runner.draining and runner.claim is None]
    if not takers:
        return {}
    wanted = min(math.ceil(arrivals_per_s * _BURST_S / len(takers)), MOST)
    return {runner.id: wanted for runner in takers} if wanted > _OWN else {}
