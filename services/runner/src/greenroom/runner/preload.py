"""What the zygote does before it forks anything: import, warm, rehearse, and make sure that it still has one thread."""

import asyncio
import contextlib
import importlib
import inspect
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from importlib import metadata
from typing import Any, Final

import msgspec
import structlog
import structlog.testing
import uvloop
from loguru import logger as loguru_logger

from greenroom.common import tracing_rehearsal
from greenroom.common.messages import BotOffer
from greenroom.runner import bot_modules, discovery, holes, turn_detector, warmup
from greenroom.runner.discovery import Bot, BotSpec
from greenroom.runner.forkwire import FromZygote, Loaded, Loading, Prepare, Warm
from greenroom.runner.immortal import immortalize
from greenroom.runner.session.context import SessionContext
from greenroom.runner.settings import RunnerSettings

_log = structlog.get_logger()

_JOIN_S: Final = 2.0
_REHEARSAL_S: Final = 20.0
# Needs nobody at the other end.
_REHEARSED_OVER: Final = "websocket"

type Run = Callable[[int, SessionContext], int]
type Say = Callable[[FromZygote], None]
type AwaitBots = Callable[[], tuple[BotSpec, ...]]


class Preloaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a fork needs: what to run, and what to hand to it."""

    run: Run
    context: SessionContext


class CannotFork(Exception):
    """Threads are left that don't end: a fork could wait for ever for a lock that one of them holds.

    Attributes:
        bot: whose fault it is; empty if it is no bot's.
        detail: which threads.
    """

    def __init__(self, bot: str, detail: str) -> None:
        super().__init__(detail)
        self.bot = bot
        self.detail = detail


class _Stages:
    """Milliseconds by stage."""

    def __init__(self) -> None:
        self.took_ms: dict[str, float] = {}
        self._since = time.perf_counter()

    def end(self, name: str) -> None:
        now = time.perf_counter()
        self.took_ms[name] = round((now - self._since) * 1000, 1)
        self._since = now


def preload(order: Prepare, say: Say, await_bots: AwaitBots) -> Preloaded:
    """Do as ordered, telling the runner beforehand what comes next, so that it knows whose fault an end or a hang is.

    Args:
        order: what to do.
        say: tells the runner.
        await_bots: returns the bots, once the runner says them, if the order doesn't.

    Raises:
        CannotFork: there are threads that don't end.
    """
    stages = _Stages()
    say(Loading(stage="pipecat"))
    warmup.share_models()
    warmup.share_tls_contexts()
    warmup.settle_missing_modules()
    stages.end("pipecat")
    say(Loading(stage="session"))
    run = _load_run(order.run)
    stages.end("session")
    if order.rehearse:
        say(Loading(stage="rehearsal"))
        _rehearse(order)
        stages.end("rehearsal")
    _require_one_thread("")
    specs = order.bots
    if specs is None:
        say(Loading(stage="order"))
        specs = await_bots()
        stages.end("order")
    bots = [_bot(spec, order, say) for spec in specs]
    warmup.import_late_parts()
    if order.settings.turn_detectors != 0:
        turn_detector.load()
        _require_one_thread("")
    if "openai" in sys.modules:
        _quicken_openai(order)
    stages.end("bots")
    context = SessionContext(
        runner_id=order.settings.runner_id,
        settings=order.settings,
        bots={(bot.offer.name, bot.offer.version): bot.entry for bot in bots if bot.entry is not None},
        version=metadata.version("greenroom-runner"),
        rehearsed=tuple((bot.offer.name, bot.offer.version) for bot in bots if _may_be_rehearsed(bot)),
    )
    immortalize()
    warmup.settle()
    holes.fill()
    stages.end("settle")
    say(Warm(stages_ms=stages.took_ms))
    return Preloaded(run=run, context=context)


def _bot(spec: BotSpec, order: Prepare, say: Say) -> Bot:
    say(Loading(stage="bot", bot=spec.label))
    spoiled = order.spoiled.get(spec.label)
    bot = _warm(_able(discovery.load(spec)), spec) if spoiled is None else discovery.failed(spec, spoiled)
    if order.rehearse and _may_be_rehearsed(bot):
        _rehearse_beginnings(order, bot.entry)
        bot_modules.leave()
    _require_one_thread(spec.label)
    say(Loaded(offer=bot.offer))
    return bot


def _may_be_rehearsed(bot: Bot) -> bool:
    return bot.rehearse and bot.entry is not None and _REHEARSED_OVER in bot.offer.transports


def _able(bot: Bot) -> Bot:
    """Return the bot with the transports that are installed here."""
    offer = bot.offer
    # Not at the top: it imports Pipecat, of which `share_models` has to be first.
    transports = importlib.import_module("greenroom.runner.session.transports")
    able: tuple[str, ...] = transports.preload(offer.transports)
    return bot if able == offer.transports else msgspec.structs.replace(bot, offer=_offering(offer, able))


def _offering(offer: BotOffer, able: tuple[str, ...]) -> BotOffer:
    if able:
        return msgspec.structs.replace(offer, transports=able)
    return msgspec.structs.replace(offer, error=f"none of its transports is installed: {', '.join(offer.transports)}")


def _quicken_openai(order: Prepare) -> None:
    """Do for OpenAI's client what each session would do for itself with its first requests."""
    with _unheard():
        importlib.import_module("greenroom.runner.openai_shortcuts").take_shortcuts()
        if order.rehearse:
            requests: Callable[[], Coroutine[Any, Any, None]]
            requests = importlib.import_module("greenroom.runner.openai_rehearsal").rehearse
            asyncio.run(requests())
    _require_one_thread("")


def _require_one_thread(bot: str) -> None:
    names = warmup.join_threads(_JOIN_S)
    if names:
        raise CannotFork(bot, f"threads were left running: {', '.join(names[:8])}")


def _load_run(target: str) -> Run:
    """Import what a fork runs; its module may have a `warm()` of its own, and a `rehearse()`."""
    module_name, _, attribute = target.partition(":")
    module = importlib.import_module(module_name)
    warm = getattr(module, "warm", None)
    if warm is not None:
        _call(warm)
    return getattr(module, attribute)


def _warm(bot: Bot, spec: BotSpec) -> Bot:
    if bot.warm is None:
        return bot
    try:
        _call(bot.warm)
    except (Exception, SystemExit) as error:  # noqa: BLE001 anything may happen in the code of others; it is reported
        _log.warning("bot_warm_failed", bot=spec.label, exc_info=True)
        return discovery.failed(spec, f"warm() failed: {discovery.last_line(error)}", error)
    return bot


def _call(warm: Callable[[], Coroutine[Any, Any, None] | None]) -> None:
    if inspect.iscoroutinefunction(warm):
        asyncio.run(warm())
    else:
        warm()


def _rehearse(order: Prepare) -> None:
    """Rehearse a turn, as what a fork runs has it how sessions begin, and traces; first ones are slower."""
    turn: Callable[[float], Coroutine[Any, Any, bool]]
    turn = importlib.import_module("greenroom.runner.rehearsal").rehearse
    with _unheard():
        if not asyncio.run(turn(_REHEARSAL_S)):
            _log.warning("rehearsal_without_answer")
        tracing_rehearsal.rehearse()
    _rehearse_beginnings(order, None)


def _rehearse_beginnings(order: Prepare, bot: discovery.BotFunction | None) -> None:
    begin: Callable[[RunnerSettings, discovery.BotFunction | None], Coroutine[Any, Any, None]] | None
    begin = getattr(importlib.import_module(order.run.partition(":")[0]), "rehearse", None)
    if begin is not None:
        with _unheard(), structlog.testing.capture_logs():
            uvloop.run(begin(order.settings, bot))


@contextlib.contextmanager
def _unheard() -> Generator[None]:
    """Keep Pipecat's logs back: nobody is to wonder about a call that wasn't. Calls can be made if it fails."""
    loguru_logger.disable("pipecat")
    try:
        yield
    except Exception:  # noqa: BLE001 whatever it was, it only makes the first calls slower
        _log.warning("rehearsal_failed", exc_info=True)
    finally:
        loguru_logger.enable("pipecat")
