"""How long audio waits of which nobody can tell whether it is wanted, since PostgreSQL is away.

What waits is delivered again and again, before anything new; if much of it came every second, the audio of live
sessions would come after it. So the more there is, the less often: it waits twice as long whenever more came in a
round than there is room for, and half as long when far less did. Pure: the time is given.
"""

from typing import Final

FIRST_S: Final = 1.0
# How late a recording may be once PostgreSQL is back.
LONGEST_S: Final = 30.0
# That is a sixth of what 500 calls say.
ROOM_PER_S: Final = 200


class PutOff:
    """Says how long, by how much came lately."""

    def __init__(self) -> None:
        self._wait_s = FIRST_S
        self._came = 0
        self._round_ends_at = float("-inf")

    def wait_s(self, chunks: int, now: float) -> float:
        """Return how long these wait; `now` is the time on any clock that doesn't go back."""
        if now >= self._round_ends_at:
            room = ROOM_PER_S * self._wait_s
            if self._came > room:
                self._wait_s = min(2 * self._wait_s, LONGEST_S)
            elif self._came < room / 4:
                self._wait_s = max(self._wait_s / 2, FIRST_S)
            self._came, self._round_ends_at = 0, now + self._wait_s
        self._came += chunks
        return self._wait_s

    def over(self) -> None:
        """Begin anew: somebody could tell."""
        self._wait_s, self._came, self._round_ends_at = FIRST_S, 0, float("-inf")
