"""What happens in one run, drawn from its seed. Pure: the same seed is the same plan, for ever.

Each run kills everything that there is to kill at least once, in an order that is drawn, and some of it again. What
is away stays away for a while, and others may be killed meanwhile.
"""

import random
from typing import Final, Literal

import msgspec

type Victim = Literal["recorder-1", "recorder-2", "postgres", "nats", "storage"]

# Calls begin and end within this time, and nearly all kills are in it; the last ones find recordings being sealed.
TALK_S: Final = 4.0
FIRST_KILL_S: Final = 0.3
LAST_KILL_S: Final = 5.5
LONGEST_AWAY_S: Final = 4.0
# Half of them are back at once; of the rest some stay away for so long that leadership is lost, without any death.
_AWAYS_S: Final = ((0.0, 0.0), (0.0, 2.0), (3.2, LONGEST_AWAY_S))
_AWAY_WEIGHTS: Final = (5, 4, 1)
# Who is back lives for as long at least.
SHORTEST_LIFE_S: Final = 0.2
MOST_KILLS_MORE: Final = 3


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """SIGKILL for somebody, who is started again later; seconds count from the beginning of the run."""

    victim: Victim
    at_s: float
    away_s: float

    @property
    def back_s(self) -> float:
        """When it is started again."""
        return self.at_s + self.away_s


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    seed: int
    recorders: tuple[Victim, ...]
    # Where sealed recordings go: a bucket, on a server that is killed too, or a folder.
    bucket: bool
    # How soon the broker forgets what is stored and sealed: with everything else, or not within the run.
    purge_grace_s: float
    # Small ones are in many hands at once.
    event_batch: int
    audio_batch: int
    kills: tuple[Kill, ...]

    @property
    def mortals(self) -> tuple[Victim, ...]:
        """Everybody who can be killed."""
        return (*self.recorders, "postgres", "nats", *(("storage",) if self.bucket else ()))


def plan_of(seed: int) -> Plan:
    """Return the plan of a seed."""
    draw = random.Random(seed)
    recorders: tuple[Victim, ...] = ("recorder-1", "recorder-2") if draw.random() < 0.75 else ("recorder-1",)
    plan = Plan(
        seed=seed,
        recorders=recorders,
        bucket=draw.random() < 0.8,
        purge_grace_s=draw.choice((0.5, 3600.0)),
        event_batch=draw.choice((7, 50, 500)),
        audio_batch=draw.choice((5, 40, 200)),
        kills=(),
    )
    return msgspec.structs.replace(plan, kills=_kills(draw, plan.mortals))


def _kills(draw: random.Random, mortals: tuple[Victim, ...]) -> tuple[Kill, ...]:
    victims: list[Victim] = [
        *draw.sample(mortals, len(mortals)),
        *draw.choices(mortals, k=draw.randint(0, MOST_KILLS_MORE)),
    ]
    moments = sorted(round(draw.uniform(FIRST_KILL_S, LAST_KILL_S), 3) for _ in victims)
    kills: list[Kill] = []
    back: dict[Victim, float] = {}
    for victim, moment in zip(victims, moments, strict=True):
        # Nobody is killed who is away: it is killed once it has been back for a moment.
        at_s = max(moment, round(back.get(victim, 0.0) + SHORTEST_LIFE_S, 3))
        ((least_s, most_s),) = draw.choices(_AWAYS_S, _AWAY_WEIGHTS)
        kill = Kill(victim=victim, at_s=at_s, away_s=round(draw.uniform(least_s, most_s), 3))
        back[victim] = kill.back_s
        kills.append(kill)
    return tuple(sorted(kills, key=lambda kill: kill.at_s))
