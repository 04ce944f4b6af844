"""The one session that a runner was launched for, as the launcher names it: `TENANT/SESSION_ID/EPOCH`."""

import re
from typing import Final, Self

import msgspec

_NAME: Final = r"[A-Za-z0-9_-]{1,96}"
_CLAIM: Final = re.compile(rf"({_NAME})/({_NAME})/([1-9][0-9]{{0,8}})")
_PREFIX: Final = "cold-"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A lease that was granted to a runner before there was one; `epoch` is the lease's."""

    tenant: str
    session_id: str
    epoch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the claim that is written as `TENANT/SESSION_ID/EPOCH`.

        Raises:
            ValueError: it isn't.
        """
        match = _CLAIM.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} isn't TENANT/SESSION_ID/EPOCH (ids: letters, digits, _ and -; epoch: from 1)")
        return cls(tenant=match[1], session_id=match[2], epoch=int(match[3]))

    @property
    def id(self) -> str:
        """The name of the lease, of its launch, and of the claim in heartbeats."""
        return f"{self.session_id}-{self.epoch}"

    @property
    def runner_id(self) -> str:
        """The runner that the lease is granted to."""
        return f"{_PREFIX}{self.id}"
