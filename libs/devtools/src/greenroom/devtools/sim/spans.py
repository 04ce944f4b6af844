"""How long things take: distributions that a scenario names and one generator of chance draws from."""

import math
import random
from typing import Annotated, Final

import msgspec

type Seconds = Annotated[float, msgspec.Meta(ge=0)]
type Positive = Annotated[float, msgspec.Meta(gt=0)]

# 19 of 20 values of a normal distribution lie below its mean and so many standard deviations.
_P95: Final = 1.6448536


class Constant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="constant"):
    """Always the same."""

    s: Seconds

    def draw(self, chance: random.Random) -> float:
        """Return a length in seconds."""
        del chance
        return self.s


class Exponential(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="exponential"
):
    """Whatever has lasted goes on for as long again: the textbook's call."""

    mean_s: Positive

    def draw(self, chance: random.Random) -> float:
        """Return a length in seconds."""
        return chance.expovariate(1 / self.mean_s)


class Lognormal(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="lognormal"
):
    """Half are shorter than the median, one in twenty is longer than the p95: what calls and boots look like."""

    median_s: Positive
    p95_s: Positive

    def draw(self, chance: random.Random) -> float:
        """Return a length in seconds."""
        sigma = math.log(self.p95_s / self.median_s) / _P95
        return self.median_s * math.exp(chance.gauss(0.0, sigma))


type Span = Constant | Exponential | Lognormal


def chance_of(seed: int, name: str) -> random.Random:
    """Return a generator of its own for each name, so that drawing more of one thing doesn't change another."""
    return random.Random(f"{seed}/{name}")  # noqa: S311 - it has to be repeatable
