"""What bots need that nobody else may see: keys of providers and the like, by name.

A bot module says `SECRETS = ("OPENAI_API_KEY", …)`. The runner looks for each, in this order:

1. in the directory `GREENROOM_SECRETS_DIR`: a file of that name is the secret (without the line break at its end); a
   file `*.env` has lines `NAME=value`. It is read anew when it has changed, so a rotated key needs no restart.
2. in its own environment: `GREENROOM_SECRET_OPENAI_API_KEY`, or `OPENAI_API_KEY` where it is told to take plain names.

The heartbeat says which are missing, by name. A session is told the secrets of its bot when it is assigned, and finds
them in its environment; nobody else's, and nothing of this is written down anywhere.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from greenroom.common.clock import Clock
from greenroom.common.messages import BotOffer

_log = structlog.get_logger()

PREFIX: Final = "GREENROOM_SECRET_"
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
# A private key in PEM fits; what a bot needs has to fit into one message with its session.
MAX_BYTES: Final = 16 * 1024
MAX_NAMES: Final = 32
MAX_TOGETHER_BYTES: Final = 48 * 1024
# Variables by which a process does what somebody else says, or that are ours.
_FORBIDDEN: Final = re.compile(r"PATH|HOME|(LD_|PYTHON|GREENROOM_|NATS_|OTEL_|PIPECAT_).*")
_MAX_FILES: Final = 256
# How long a change may go unnoticed.
LOOK_S: Final = 1.0

# What tells a file from the one that was there before: number, time of change and size.
type _Mark = tuple[int, int, int]


class InvalidSecrets(ValueError):
    """A bot's `SECRETS` aren't names of secrets."""


def required(declared: Any) -> tuple[str, ...]:
    """Return the names that a bot module declares.

    Raises:
        InvalidSecrets: they aren't a few names such as an environment may have.
    """
    if not isinstance(declared, tuple | list):
        raise InvalidSecrets("SECRETS isn't a tuple of names")
    names: list[Any] = list(declared)  # pyright: ignore[reportUnknownArgumentType] of whatever is in there
    for name in names:
        if not isinstance(name, str) or not NAME.fullmatch(name) or _FORBIDDEN.fullmatch(name):
            raise InvalidSecrets(f"SECRETS has {name!r}, which can't be the name of a secret")
    if len(names) > MAX_NAMES:
        raise InvalidSecrets(f"SECRETS has {len(names)} names, {MAX_NAMES} at most")
    return tuple(dict.fromkeys(names))


class Secrets:
    """Knows the secrets of this runner. Its `repr` has none.

    Args:
        environment: of the runner.
        folder: the directory; None: there is none.
        plain: whether variables of a secret's own name count too.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path | None = None, *, plain: bool = False) -> None:
        self._environment = environment
        self._folder = folder
        self._plain = plain
        self._marks: dict[str, _Mark] = {}
        self._files: dict[str, str] = {}
        self.refresh()

    def missing(self, names: Collection[str]) -> tuple[str, ...]:
        """Return which of them there are not."""
        return tuple(name for name in names if self._value(name) is None)

    def marked(self, offer: BotOffer) -> BotOffer:
        """Return an offer with the secrets that the bot needs and that there are not."""
        missing = self.missing(offer.secrets)
        return msgspec.structs.replace(offer, missing_secrets=missing) if missing else offer

    def of(self, names: Collection[str]) -> dict[str, str]:
        """Return those of them that there are, by name."""
        return {name: value for name in names if (value := self._value(name)) is not None}

    def refresh(self) -> bool:
        """Read the directory again if anything in it has changed; return whether it has."""
        if self._folder is None:
            return False
        marks = dict(self._look(self._folder))
        if marks == self._marks:
            return False
        self._marks, self._files = marks, self._read(self._folder, marks)
        _log.info("secrets_read", names=sorted(self._files))
        return True

    async def follow(self, clock: Clock, changed: Any) -> None:
        """Refresh each second until canceled; call `changed` after a change."""
        while True:
            await clock.sleep(LOOK_S)
            if self.refresh():
                changed()

    def _value(self, name: str) -> str | None:
        sources = (
            self._files.get(name),
            self._environment.get(PREFIX + name),
            self._environment.get(name) if self._plain else None,
        )
        return next((value for value in sources if value), None)

    def _look(self, folder: Path) -> Iterator[tuple[str, _Mark]]:
        try:
            paths = sorted(folder.iterdir())[:_MAX_FILES]
        except OSError as error:
            _log.warning("secrets_unreadable", folder=str(folder), error=error.strerror)
            return
        for path in paths:
            try:
                status = path.stat()
            except OSError:
                continue
            if path.is_file() and (path.suffix == ".env" or NAME.fullmatch(path.name)):
                yield path.name, (status.st_ino, status.st_mtime_ns, status.st_size)

    def _read(self, folder: Path, marks: Mapping[str, _Mark]) -> dict[str, str]:
        found: dict[str, str] = {}
        # A file of its own goes before a line among others.
        for name in sorted(marks, key=lambda name: not name.endswith(".env")):
            size = marks[name][2]
            try:
                if size > MAX_BYTES:
                    raise ValueError(f"it has {size} bytes, {MAX_BYTES} at most")
                text = (folder / name).read_text(encoding="utf-8")
                found |= _lines(text) if name.endswith(".env") else {name: _valid(text.removesuffix("\n"))}
            except UnicodeDecodeError:
                _log.warning("secret_refused", file=name, detail="it isn't text")
            except (OSError, ValueError) as error:
                _log.warning("secret_refused", file=name, detail=str(error))
        return found


def _lines(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, separator, value = line.strip().partition("=")
        if not separator or not NAME.fullmatch(name):
            raise ValueError(f"line {number} isn't NAME=value")
        found[name] = _valid(value)
    return found


def _valid(value: str) -> str:
    if "\0" in value:
        raise ValueError("it has a zero byte, which no environment can hold")
    return value
