"""What keeps the recorder from storing audio and recordings now, in words for the log, `/readyz` and a metric.

Whoever tries says how it went, each time: a trouble begins with the first failure and is over with the next success.
It is over too when nobody has met it for two minutes: whatever fails is tried again much sooner, so what isn't tried
any more (its session was erased, another recorder leads) troubles nobody.
"""

import errno
import time
from collections.abc import Callable
from typing import Final

import structlog

from greenroom.common.errors import GreenroomError
from greenroom.common.metrics import Metrics

_log = structlog.get_logger()

LIVE_AUDIO: Final = "live-audio"
SEALING: Final = "sealing"
# What fails is tried again each second (audio) or each 10 s and what an attempt takes (sealing).
FORGOTTEN_S: Final = 120.0
# Where and what, and what becomes of the audio meanwhile.
_MEANWHILE: Final = {
    LIVE_AUDIO: "audio of calls waits in the broker and nothing is lost",
    SEALING: "recordings wait unsealed and nothing is lost",
}
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Troubles:
    """Which troubles there are.

    Args:
        metrics: shows each as a gauge; None: nobody looks.
        clock: seconds that only go forward.
    """

    def __init__(self, metrics: Metrics | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # By place: what it is, and when it was met last.
        self._met: dict[str, tuple[str, float]] = {}
        self._gauge = (
            metrics.gauge("recorder_trouble", "1 while it can't be stored there: live-audio, sealing", ["place"])
            if metrics is not None
            else None
        )
        for place in _MEANWHILE:
            self._show(place)

    def failed(self, place: str, error: Exception) -> str:
        """Take note of a failure; return what it is, in words."""
        what = describe(error)
        if self.of(place) is None:
            _log.error("recorder_in_trouble", place=place, what=what, meanwhile=_MEANWHILE[place])
        self._met[place] = (what, self._clock())
        self._show(place)
        return what

    def worked(self, place: str) -> None:
        """Take note of a success."""
        if self._met.pop(place, None) is not None:
            _log.info("recorder_out_of_trouble", place=place)
            self._show(place)

    def of(self, place: str) -> str | None:
        """Return what the trouble is at a place, or None."""
        what, at = self._met.get(place, (None, 0.0))
        if what is None or self._clock() - at > FORGOTTEN_S:
            self._met.pop(place, None)
            self._show(place)
            return None
        return f"{what}; {_MEANWHILE[place]}"

    def _show(self, place: str) -> None:
        if self._gauge is not None:
            self._gauge.set(int(place in self._met), place=place)


def describe(error: Exception) -> str:
    """Return what went wrong for whoever has to mend it: a code, and words; no path, no name of anybody."""
    if isinstance(error, GreenroomError):
        return f"{error.code}: {error.title}"
    if not isinstance(error, OSError):
        return type(error).__name__
    said = error.strerror or type(error).__name__
    if error.errno in _FULL:
        return f"disk-full: there is no room where GREENROOM_RECORDINGS_DIR is ({said}); make some"
    return f"disk-failing: {said}, where GREENROOM_RECORDINGS_DIR is"
