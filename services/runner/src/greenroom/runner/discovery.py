"""The bots of this runner: entry points of the group `greenroom.bots`, plain files, and what these say of themselves.

A bot is Pipecat's `async def bot(runner_args)`. Its module may also define

- `DESCRIPTION` (text), `TRANSPORTS` (default: what its source tells, see `bot_transports`) and `BODY_SCHEMA` (JSON
  Schema of a request's `body`);
- `SECRETS`, names of what it needs in its environment and nobody else may see (`isolation.secrets`);
- `warm()`, plain or async: called once before any session is forked, so that what it loads is shared by all.
  It must leave no thread and no open connection behind;
- `REHEARSE = True`: the bot may be run with nobody there, and canceled when its pipeline runs, before anything is
  forked. For bots that open no connection, load no state and tell nobody anything until a caller is there.
"""

import importlib
import inspect
import traceback
from collections.abc import Callable, Coroutine, Iterable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec
import structlog

from greenroom.common.lifecycle import Session
from greenroom.common.messages import BotOffer
from greenroom.runner import bot_environment, bot_modules, botfiles
from greenroom.runner.bot_modules import Home
from greenroom.runner.bot_transports import transports_of
from greenroom.runner.bot_versions import fitting
from greenroom.runner.isolation import secrets

GROUP: Final = "greenroom.bots"
# Offers go over the wire each second.
MAX_SCHEMA_BYTES: Final = 16 * 1024
_MAX_TEXT: Final = 500
_MAX_TRACEBACK: Final = 2_000
# Below these it is the import system and the runner.
_MAX_CALLS: Final = 6

_log = structlog.get_logger()

type BotFunction = Callable[[Any], Coroutine[Any, Any, Any]]
type WarmFunction = Callable[[], Coroutine[Any, Any, None] | None]


class BotSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where a bot is; nothing of it is imported yet. `target` is `module:function` or `/path/file.py:function`."""

    name: str
    version: int = 1
    target: str

    @property
    def label(self) -> str:
        """What it is called among all bots of a runner, other versions of it included."""
        return self.name if self.version == 1 else f"{self.name}@{self.version}"


class Bot(msgspec.Struct, frozen=True, kw_only=True):
    """A bot after its import; `entry` is None when that failed (`offer.error` has the reason)."""

    offer: BotOffer
    entry: BotFunction | None = None
    warm: WarmFunction | None = None
    # Whether it may be run before there is a caller.
    rehearse: bool = False


class UnusableBot(Exception):
    """A module was imported, but what it holds can't be run as a bot."""


def discover(extra: Iterable[str] = (), version_of: Callable[[str], int] = lambda _: 1) -> tuple[BotSpec, ...]:
    """Return the bots that are installed, and `extra` ones (see `botfiles.EXPECTED`), sorted by name and version.

    An extra bot takes the place of an installed one of the same name and version. An entry point may say its version
    as well: `front@2`.

    Args:
        extra: bots that aren't installed.
        version_of: returns the version of a bot, by its name, that says none itself.

    Raises:
        ValueError: an extra one isn't written as it should be.
    """
    installed = ((*botfiles.named(point.name), point.value) for point in metadata.entry_points(group=GROUP))
    found = {
        (name, version or version_of(name)): target
        for name, version, target in (*installed, *(botfiles.parse(item) for item in extra))
    }
    return tuple(BotSpec(name=name, version=version, target=found[name, version]) for name, version in sorted(found))


def specs_of(session: Session, specs: Iterable[BotSpec]) -> tuple[BotSpec, ...]:
    """Return a session's bot in its version, if that is one of these."""
    found = {spec.version: spec for spec in specs if spec.name == session.bot}
    version = fitting(found, session.agent_version)
    return () if version is None else (found[version],)


def load(spec: BotSpec) -> Bot:
    """Import a bot; whatever goes wrong is told in its offer."""
    try:
        with bot_environment.captured() as changes:
            bot = _load(spec)
    except (Exception, SystemExit) as error:  # noqa: BLE001 anything may happen in the code of others; it is reported
        _log.warning("bot_import_failed", bot=spec.name, target=spec.target, exc_info=True)
        return failed(spec, last_line(error), error)
    # What the import has set (from a `.env` beside the bot, as a rule) needn't come from the runner.
    needed = tuple(name for name in bot.offer.secrets if not changes.get(name))
    return Bot(
        offer=msgspec.structs.replace(bot.offer, secrets=needed),
        entry=bot.entry and bot_environment.for_good(bot.entry, changes),
        warm=bot.warm and bot_environment.for_a_while(bot.warm, changes),
        # What others mustn't see isn't there yet, and what its import has set isn't theirs either.
        rehearse=bot.rehearse and not changes and not needed,
    )


def failed(spec: BotSpec, error: str, raised: BaseException | None = None) -> Bot:
    """Return a bot that can't run here, and why.

    Args:
        spec: of the bot.
        error: what is told of it in a line.
        raised: whose traceback is told too.
    """
    told = error[:_MAX_TEXT]
    return Bot(offer=BotOffer(name=spec.name, version=spec.version, error=told, traceback=_traceback(raised)))


def _traceback(error: BaseException | None) -> str:
    """Return the end of a traceback: the calls nearest to where it was raised, and what was."""
    if error is None or error.__traceback__ is None:
        return ""
    text = "".join(traceback.format_exception(error, limit=-_MAX_CALLS)).strip()
    return text if len(text) <= _MAX_TRACEBACK else f"…{text[-_MAX_TRACEBACK:]}"


def last_line(error: BaseException) -> str:
    """Return the last line of an error's traceback, e.g. `ModuleNotFoundError: No module named 'x'`."""
    lines = traceback.format_exception_only(error)
    return lines[-1].strip()[:_MAX_TEXT]


def _load(spec: BotSpec) -> Bot:
    place, _, attribute = spec.target.rpartition(":")
    home: Home | None = None
    if place.endswith(botfiles.SUFFIX):
        module, home = botfiles.load(Path(place), spec.label)
    else:
        module = importlib.import_module(place)
    entry = getattr(module, attribute)
    if not inspect.iscoroutinefunction(entry):
        raise UnusableBot(f"{spec.target} isn't an async function")
    try:
        inspect.signature(entry).bind(None)
    except TypeError as error:
        raise UnusableBot(f"{spec.target} doesn't take the runner arguments alone: {error}") from error
    warm: Any = getattr(module, "warm", None)
    if not (warm is None or inspect.isfunction(warm)):
        raise UnusableBot(f"{place}: warm isn't a function")
    offer = BotOffer(
        name=spec.name,
        version=spec.version,
        description=_description(module),
        transports=transports_of(module),
        body_schema=_body_schema(module),
        secrets=_secrets(module),
    )
    return Bot(
        offer=offer,
        entry=bot_modules.for_good(entry, home) if home else entry,
        warm=bot_modules.for_a_while(warm, home) if home and warm else warm,
        rehearse=getattr(module, "REHEARSE", False) is True,
    )


def _description(module: ModuleType) -> str:
    text = getattr(module, "DESCRIPTION", None) or (module.__doc__ or "").strip().partition("\n")[0]
    return str(text)[:_MAX_TEXT]


def _secrets(module: ModuleType) -> tuple[str, ...]:
    try:
        return secrets.required(getattr(module, "SECRETS", ()))
    except secrets.InvalidSecrets as error:
        raise UnusableBot(f"{module.__name__}: {error}") from error


def _body_schema(module: ModuleType) -> dict[str, Any] | None:
    schema = getattr(module, "BODY_SCHEMA", None)
    if schema is None:
        return None
    try:
        size = len(msgspec.json.encode(schema))
        converted = msgspec.convert(schema, dict[str, Any])
    except (TypeError, ValueError, msgspec.ValidationError) as error:
        raise UnusableBot(f"{module.__name__}.BODY_SCHEMA isn't a JSON object: {error}") from error
    if size > MAX_SCHEMA_BYTES:
        raise UnusableBot(f"{module.__name__}.BODY_SCHEMA has {size} bytes, {MAX_SCHEMA_BYTES} at most")
    return converted
