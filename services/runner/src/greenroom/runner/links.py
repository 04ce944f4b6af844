"""How full the network of this host is: bytes of its interfaces against the speed of their links.

Interfaces are those of the network namespace that the process is in, so of a container its own. The fullest one tells:
traffic that passes through several (a bridge and what is behind it) is counted once that way. A link carries as much
in each direction, and the busier one counts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

_LOOPBACK: Final = "lo"
# Bytes in a second of a link of 1 Mbit/s.
BYTES_PER_MBIT: Final = 125_000
# Of /proc/net/dev: bytes received and sent, after the name.
_RECEIVED: Final = 0
_SENT: Final = 8


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that an interface has received and sent so far, and what its link carries, in Mbit/s each way."""

    received: int
    sent: int
    mbit: int


class LinkUse(msgspec.Struct, frozen=True, kw_only=True):
    """How busy a link is.

    Attributes:
        mbit: what it carries, in Mbit/s.
        bytes_per_s: in the busier direction.
    """

    mbit: int
    bytes_per_s: float

    @property
    def percent(self) -> float:
        """How full it is."""
        return 100 * self.bytes_per_s / (self.mbit * BYTES_PER_MBIT)


class Interfaces:
    """Reads the files of the kernel.

    Args:
        mbit: what links carry, in Mbit/s, whatever they say; 0: what each says. Virtual ones say what they like.
        proc: where procfs is.
        net: where the interfaces are in sysfs.
    """

    def __init__(self, mbit: int = 0, *, proc: Path = Path("/proc"), net: Path = Path("/sys/class/net")) -> None:
        self._mbit = mbit
        self._proc = proc
        self._net = net

    def read(self) -> dict[str, Counted]:
        """Return the interfaces whose speed is known, by name, the loopback left out."""
        try:
            lines = (self._proc / "net" / "dev").read_text(encoding="ascii").splitlines()
        except OSError:
            return {}
        found: dict[str, Counted] = {}
        for line in lines:
            name, colon, counts = line.partition(":")
            name, fields = name.strip(), counts.split()
            if colon and name != _LOOPBACK and len(fields) > _SENT and (mbit := self._speed(name)) > 0:
                found[name] = Counted(received=int(fields[_RECEIVED]), sent=int(fields[_SENT]), mbit=mbit)
        return found

    def _speed(self, name: str) -> int:
        """Return the speed of a link, 0 or less where nobody says: one that is down, many virtual ones."""
        if self._mbit:
            return self._mbit
        try:
            return int((self._net / name / "speed").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0


def fullest(before: Mapping[str, Counted], after: Mapping[str, Counted], seconds: float) -> LinkUse | None:
    """Return how busy the fullest link was between two readings; None: there is none that was read both times.

    Args:
        before: first reading.
        after: second one.
        seconds: between them, more than 0.
    """
    uses = [
        LinkUse(mbit=it.mbit, bytes_per_s=max(it.received - was.received, it.sent - was.sent, 0) / seconds)
        for name, it in after.items()
        if (was := before.get(name)) is not None
    ]
    return max(uses, key=lambda use: (use.percent, -use.mbit), default=None)


class LinkMeter:
    """The fullest link, over some seconds each time.

    Args:
        interfaces: are read.
        over_s: each measurement is of at least so long; until the next is complete the one before stands. Drivers
            bring their counters up to date about once a second.
    """

    def __init__(self, interfaces: Interfaces, *, over_s: float) -> None:
        self._interfaces = interfaces
        self._over_s = over_s
        self._before: tuple[float, dict[str, Counted]] | None = None
        self._use: LinkUse | None = None

    def look(self, now: float) -> LinkUse | None:
        """Return how busy the fullest link is; None: not known.

        Args:
            now: seconds of any monotonic clock.
        """
        since, before = self._before or (now, None)
        if before is None:
            self._before = now, self._interfaces.read()
        elif now - since >= self._over_s:
            after = self._interfaces.read()
            self._use = fullest(before, after, now - since)
            self._before = now, after
        return self._use
