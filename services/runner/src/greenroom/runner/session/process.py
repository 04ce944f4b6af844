"""The life of a session process: forked, standing by, one session, gone.

The runner's zygote forks and calls `run`, in a process with one thread and without an event loop, in which Pipecat,
the bots and this package are imported. `run` returns the exit code; the caller leaves with `os._exit`.
"""

import asyncio
import gc
import io
import os
import select
import signal
from typing import Final, TextIO, cast, override

import structlog
import uvloop
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from greenroom.common.bodies import Bodies, BodyUnavailable
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.ids import uuid7
from greenroom.common.log import bind_session, configure_logging
from greenroom.common.nats_broker import NatsBroker
from greenroom.common.telemetry import session_attributes
from greenroom.common.tracing import Tracing, setup_tracing
from greenroom.runner.control import Announced, Assign, Cancel, ChangeRoom, Finished, Pong, Standby, Stop, ToSession
from greenroom.runner.isolation.grants import PRACTICE, Grant
from greenroom.runner.session.attach import announce_setup_file
from greenroom.runner.session.botlog import redirect_loguru
from greenroom.runner.session.channel import Channel
from greenroom.runner.session.commands.bot_http import offer_cloud_module
from greenroom.runner.session.context import SessionContext
from greenroom.runner.session.flows import watch_flows
from greenroom.runner.session.live import LiveSession
from greenroom.runner.session.practice import practise, rehearse
from greenroom.runner.session.shared_turns import share_turns
from greenroom.runner.session.spectra import compute_spectra_piecewise
from greenroom.runner.session.turns import SpanLabels
from greenroom.runner.session.voice import look_for_voices_inline
from greenroom.runner.warmup import settle

# `run`, and what the zygote calls before it forks anything: `warm`, then `rehearse`.
__all__ = ["rehearse", "run", "warm"]

_log = structlog.get_logger()

SERVICE: Final = "session"
EXIT_DONE: Final = 0
# EX_UNAVAILABLE and EX_SOFTWARE of sysexits.h.
EXIT_NO_BROKER: Final = 69
EXIT_FAULT: Final = 70
_CONNECT_TIMEOUT_S: Final = 5.0
_LISTEN_TIMEOUT_S: Final = 2.0
_WAITING_S: Final = 1.0
_FLUSH_TRACES_S: Final = 1.0
# A start is over by then; one that takes longer waits for something, and may as well collect garbage.
_NO_GARBAGE_S: Final = 1.0
_FLUSH_TRACES_ORPHANED_S: Final = 0.2


def warm() -> None:
    """Do in the zygote what every fork would do for itself: load the hooks, and wrap what is watched."""
    announce_setup_file()
    watch_flows()
    look_for_voices_inline()
    compute_spectra_piecewise()
    offer_cloud_module()


def run(control_fd: int, context: SessionContext) -> int:
    """Stand by, run one session if one is assigned, and return the exit code.

    Args:
        control_fd: this process's end of a `SOCK_SEQPACKET` pair; see `runner.control`.
        context: what was made before the fork.
    """
    name = f"{context.runner_id}-{os.getpid()}"
    # Ctrl-C in a terminal reaches the whole group; what becomes of sessions is the runner's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    announce_setup_file()
    watch_flows()
    look_for_voices_inline(skip_quiet=context.settings.vad_skips_quiet)
    compute_spectra_piecewise()
    if context.turn_detector is not None:
        share_turns(context.turn_detector)
    tracing = setup_tracing(f"greenroom-{SERVICE}", name, None, version=context.version)
    # The loop isn't closed: whatever a bot has left running on it, or in threads, ends with the process.
    return loop.run_until_complete(_SessionProcess(control_fd, context, name, tracing).main())


class _Nowhere(io.TextIOBase):
    @override
    def write(self, text: str, /) -> int:
        return len(text)


class _SessionProcess:
    def __init__(self, control_fd: int, context: SessionContext, name: str, tracing: Tracing) -> None:
        self._control_fd = control_fd
        self._context = context
        self._name = name
        self._tracing = tracing
        self._logged_in = False
        self._closing: asyncio.Task[None] | None = None

    async def main(self) -> int:
        self._configure_logs(None)
        channel = Channel(self._control_fd)
        first = await channel.receive() if self._assigned() else None
        try:
            broker = await self._connect(first if isinstance(first, Assign) else None)
        except BrokerUnavailable as error:
            _log.error("standby_failed", code=error.code, detail=error.detail)
            return EXIT_NO_BROKER
        try:
            if first is None:
                await self._practise(broker)
            if self._context.settings.otlp_endpoint is not None:
                self._tracing.export(
                    self._context.settings.otlp_endpoint, trace_content=self._context.settings.trace_content
                )
            return await self._stand_by(channel, broker, first)
        finally:
            # A runner that is gone leaves us one second, of which the session has had its part.
            patience_s = _FLUSH_TRACES_ORPHANED_S if channel.closed.is_set() else _FLUSH_TRACES_S
            await self._tracing.shutdown_async(patience_s)

    def _assigned(self) -> bool:
        """Whether the session is there already: this process was forked for it, and has nothing to warm up for."""
        readable, _, _ = select.select([self._control_fd], [], [], 0)
        return bool(readable)

    async def _practise(self, broker: NatsBroker) -> None:
        """Warm everything up; its logs are written to nowhere, and its spans end before any are exported."""
        self._configure_logs(cast("TextIO", _Nowhere()))
        try:
            problem = await practise(self._context, broker)
        finally:
            self._configure_logs(None)
        if problem is not None:
            _log.warning("practice_failed", error=problem)
        # What a session has of its own is looked at often; what was practised with never again.
        settle()

    def _configure_logs(self, stream: TextIO | None) -> None:
        settings = self._context.settings
        configure_logging(
            SERVICE, level=settings.log_level, form=settings.log_format, instance_id=self._name, stream=stream
        )
        redirect_loguru(settings.log_level, content=settings.trace_content)

    async def _stand_by(self, channel: Channel, broker: NatsBroker, first: ToSession | None) -> int:
        await channel.send(Standby())
        waiting = asyncio.create_task(_say_that_it_waits(channel), name="standby")
        while (message := first or await channel.receive()) is not None:
            first = None
            match message:
                case Assign():
                    waiting.cancel()
                    return await self._run_session(message, channel, broker)
                case Announced() | ChangeRoom():
                    _log.error("told_without_session", message=type(message).__name__)
                case Stop() | Cancel():
                    # Told to end before it was told what to do: it isn't needed.
                    return EXIT_DONE
        return EXIT_DONE

    async def _run_session(self, assigned: Assign, channel: Channel, broker: NatsBroker) -> int:
        session = assigned.session
        os.environ.update(assigned.secrets)
        with bind_session(session.id, session.tenant):
            provider = trace.get_tracer_provider()
            if isinstance(provider, TracerProvider):
                provider.add_span_processor(SpanLabels(session_attributes(session.id, session.tenant)))
            if assigned.broker and not self._logged_in:
                practised = broker
                try:
                    broker = await self._connect(assigned)
                except BrokerUnavailable as error:
                    _log.error("session_login_failed", code=error.code, detail=error.detail)
                    return EXIT_NO_BROKER
                self._closing = asyncio.create_task(practised.close(), name="close-practice")
            try:
                finished = await self._live(assigned, channel, broker)
            except Exception:  # noqa: BLE001 the end of the line: it is logged, and the runner sees the exit code
                _log.exception("session_process_failed")
                return EXIT_FAULT
            _log.info(
                "session_finished",
                outcome=finished.outcome,
                reason=finished.reason,
                events=finished.events,
                chunks=finished.chunks,
                left=finished.left,
                lost=finished.lost,
            )
            await channel.send(finished)
            return EXIT_DONE

    async def _connect(self, assigned: Assign | None) -> NatsBroker:
        """Connect as the session that was assigned, if it has a login of its own."""
        if assigned is not None and assigned.broker:
            session = assigned.session
            url, name = assigned.broker, f"session {session.id}"
            inbox = Grant(session.tenant, session.id, 0).inbox
            self._logged_in = True
        else:
            url, name = self._context.settings.nats_url, f"session {self._name}"
            # All may use it, those that may use nothing else too.
            inbox = f"{PRACTICE}.{uuid7()}"
        return await NatsBroker.connect(url, name=name, timeout_s=_CONNECT_TIMEOUT_S, inbox=inbox)

    async def _live(self, assigned: Assign, channel: Channel, broker: NatsBroker) -> Finished:
        async def listening() -> None:
            try:
                await broker.flush(_LISTEN_TIMEOUT_S)
            except (TimeoutError, OSError):
                _log.warning("broker_slow_to_subscribe")

        session, missing = assigned.session, None
        try:
            session = await Bodies(broker).fetch(session)
        except BodyUnavailable as error:
            _log.error("body_unavailable", error=str(error))
            missing = str(error)
        live = LiveSession(session, self._context, broker, channel, listening)
        if missing is not None:
            live.without_body(missing)
        loop = asyncio.get_running_loop()
        loop.call_later(_NO_GARBAGE_S, gc.enable)
        loop.add_signal_handler(signal.SIGTERM, live.terminate)
        return await live.run()


async def _say_that_it_waits(channel: Channel) -> None:
    """Say it again and again: a process that hangs is handed no session."""
    while True:
        await asyncio.sleep(_WAITING_S)
        channel.say(Pong(loop_lag_ms=0.0))
