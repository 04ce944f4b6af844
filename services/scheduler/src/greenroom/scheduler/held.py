"""That a limit holds a session's tenant back: what is told of it beside the session. Data only."""

from typing import NamedTuple

from greenroom.common.policy import Limit

# A limit's id, whose sessions it counts together (`*`: all), and which of its keys.
type Place = tuple[str, str, str]


class Held(NamedTuple):
    """A limit, and whom it holds back."""

    limit: Limit
    # Whose sessions it counts; `*`: of all tenants together.
    counts: str
    key: str
    tenant: str
    active: int
    reason: str

    @property
    def place(self) -> Place:
        """Which limit it is, wherever it is looked at from."""
        return self.limit.id, self.counts, self.key
