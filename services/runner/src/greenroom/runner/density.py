"""How many more sessions a host takes, from what those it has cost. Pure: no clock, no I/O.

Of each bot it is remembered what one session of it takes of a processor and of memory: the mean over its sessions, and
how far they differ, both fading with time so that a new version of a bot is known within minutes. What a session has
cost in its first seconds says nothing of the rest (a start is the dearest second of a call), and isn't counted.

What is free of the host, less a reserve, divided by what one session costs (mean and a margin), is how many more of a
bot it takes. A bot that hasn't been measured yet costs what its class does (`resource_classes`), or if it says none, as
much as the dearest one that is known; before anything is known, as many are taken as the settings say by default. One
is always taken by a host that has none, however busy others keep it: else a bot that is tried out beside a compiler
would never be begun.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

# The mean follows what is measured within some minutes of calls.
_FADE: Final = 0.02
# Measurements that must have been made before they say anything: two minutes of calls.
ENOUGH: Final = 12
# Above the mean by so many deviations: of sessions that are added, some are dearer than others, not all.
_MARGIN: Final = 1.0
# Nothing costs less: also an idle session is woken 50 times a second.
_LEAST_CORES: Final = 0.002
_LEAST_BYTES: Final = 2 * 1024 * 1024
# Of the processors this is kept free: for starts, for the runner, for bursts. At 0.75 frames are still on time.
MOST_BUSY: Final = 0.75
# Of the memory this is kept free.
_RESERVE: Final = 0.1


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one session of a bot costs: means, and how far sessions differ from them (mean absolute deviation).

    Attributes:
        cores: of one processor.
        memory: bytes of its own.
        seen: measurements, one each ten seconds and session.
        network: bytes per second in the busier direction; of its class, never measured.
    """

    cores: float = 0.0
    cores_spread: float = 0.0
    memory: float = 0.0
    memory_spread: float = 0.0
    seen: int = 0
    network: float = 0.0


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What a host has.

    Attributes:
        processors: that the sessions may use.
        busy_cores: how many of them are in use now, by whomever.
        memory_total: bytes.
        memory_available: bytes.
        network: bytes per second that its fullest link carries in each direction; 0: not known.
        busy_network: how many of them are in use now, in the busier direction.
    """

    processors: float
    busy_cores: float
    memory_total: int
    memory_available: int
    network: float = 0.0
    busy_network: float = 0.0


def learn(cost: Cost, *, cores: float, memory: float) -> Cost:
    """Return what is known of a bot's cost after one more measurement of one of its sessions."""
    if cost.seen == 0:
        return Cost(cores=cores, memory=memory, seen=1)
    # The first measurements count like any mean, later ones fade.
    share = max(_FADE, 1 / (cost.seen + 1))
    return Cost(
        cores=_towards(cost.cores, cores, share),
        cores_spread=_towards(cost.cores_spread, abs(cores - cost.cores), share),
        memory=_towards(cost.memory, memory, share),
        memory_spread=_towards(cost.memory_spread, abs(memory - cost.memory), share),
        seen=cost.seen + 1,
        network=cost.network,
    )


def known(costs: Mapping[str, Cost]) -> dict[str, Cost]:
    """Return the costs that were measured for long enough."""
    return {bot: cost for bot, cost in costs.items() if cost.seen >= ENOUGH}


def more(cost: Cost, room: Room) -> int:
    """Return how many more sessions of such a cost a host takes."""
    cores, memory = _needs(cost)
    free_cores = room.processors * MOST_BUSY - room.busy_cores
    free_memory = room.memory_available - room.memory_total * _RESERVE
    shares = [free_cores / cores, free_memory / memory]
    if room.network > 0 and cost.network >= 1:
        shares.append((room.network * MOST_BUSY - room.busy_network) / cost.network)
    return max(math.floor(min(shares)), 0)


def without(room: Room, costs: Iterable[Cost]) -> Room:
    """Return what is left of a room for others than sessions that cost so much, and that it doesn't show so far."""
    taken = [(*_needs(cost), cost.network) for cost in costs]
    return msgspec.structs.replace(
        room,
        busy_cores=room.busy_cores + sum(cores for cores, _, _ in taken),
        memory_available=room.memory_available - round(sum(memory for _, memory, _ in taken)),
        busy_network=room.busy_network + sum(network for _, _, network in taken),
    )


def dearest(costs: Iterable[Cost]) -> Cost:
    """Return a cost that none of some exceeds: what one costs of which nothing is known."""
    known = list(costs)
    needs = [_needs(cost) for cost in known]
    return Cost(
        cores=max((cores for cores, _ in needs), default=0.0),
        memory=max((memory for _, memory in needs), default=0.0),
        network=max((cost.network for cost in known), default=0.0),
    )


def slots(costs: Iterable[Cost], room: Room, *, held: int, default: int, most: int) -> int:
    """Return how many sessions a host takes in all: those it has, and as many more as of the lightest of its bots.

    Whether one fits that is dearer is told by `more`.

    Args:
        costs: what the bots that may come cost, as far as is known.
        room: what the host has.
        held: sessions that it has now; none of them is ever taken away.
        default: what it takes as long as nothing is known.
        most: what it never exceeds.
    """
    fitting = [more(cost, room) for cost in costs]
    if not fitting:
        return max(min(default, most), held)
    return max(min(held + max(fitting), most), held, 1)


def _needs(cost: Cost) -> tuple[float, float]:
    """Return the processors and the bytes of memory that one more session is reckoned with."""
    return (
        max(cost.cores + _MARGIN * cost.cores_spread, _LEAST_CORES),
        max(cost.memory + _MARGIN * cost.memory_spread, _LEAST_BYTES),
    )


def _towards(old: float, new: float, share: float) -> float:
    return old + (new - old) * share
