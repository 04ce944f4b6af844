"""How long the parts of a session's start and end take: spans, histograms and log records of one session."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import structlog
from opentelemetry.trace import Span, SpanContext

from greenroom.common.clock import Clock
from greenroom.common.lifecycle import Outcome, Session
from greenroom.common.telemetry import mark_failed, session_span
from greenroom.runner.instruments import Instruments
from greenroom.runner.isolation.groups import GroupEnd
from greenroom.runner.slots import Verdict
from greenroom.runner.verdicts import Exit

_log = structlog.get_logger()


class Timeline:
    """Measures from its making on, which is when the start command came.

    Args:
        session: whose.
        cause: the span that sent the command.
        clock: time.
        instruments: where to.
    """

    def __init__(self, session: Session, cause: SpanContext | None, *, clock: Clock, instruments: Instruments) -> None:
        self._session = session
        self._cause = cause
        self._clock = clock
        self._instruments = instruments
        self._span: Span | None = None
        self._began: Final = clock.monotonic()
        self._began_ns: Final = time.time_ns()
        self._assigned = self._began
        self._ending: tuple[float, int] | None = None

    @contextmanager
    def starting(self) -> Generator[None]:
        """Have the span `session.start` open."""
        session = self._session
        with session_span(
            "session.start",
            session_id=session.id,
            tenant=session.tenant,
            traceparent=session.traceparent,
            links=[self._cause],
            attributes={"greenroom.bot": session.bot, "greenroom.epoch": session.epoch},
            start_time_ns=self._began_ns,
        ) as span:
            self._span = span
            yield
            self._span = None

    def failed(self, reason: str) -> None:
        """The start came to nothing."""
        if self._span is not None:
            mark_failed(self._span, reason)

    def assigned(self, pid: int) -> None:
        """A process has got the session."""
        self._assigned = self._clock.monotonic()
        self._stage("process", self._assigned - self._began)
        if self._span is not None:
            self._span.set_attribute("process.pid", pid)

    def claimed(self) -> None:
        """The claim is in the ledger."""
        self._stage("claim", self._clock.monotonic() - self._began)

    def pipeline_ready(self, stages_ms: dict[str, float]) -> None:
        """The pipeline runs; `stages_ms` is what the process has measured of it."""
        for stage, took_ms in stages_ms.items():
            self._stage(stage, took_ms / 1000)
        self._stage("assigned_to_pipeline", self._clock.monotonic() - self._assigned)

    def ready(self) -> None:
        """That it is ready is in the ledger."""
        took_s = self._clock.monotonic() - self._began
        self._instruments.start.observe(took_s)
        _log.info("session_ready", bot=self._session.bot, epoch=self._session.epoch, took_ms=round(took_s * 1000, 1))

    def ending(self) -> None:
        """It was decided that the session ends; the first time counts."""
        if self._ending is None:
            self._ending = self._clock.monotonic(), time.time_ns()

    def ended(self, verdict: Verdict, exited: Exit | None) -> None:
        """Its process is gone, or there never was one (`exited` is None)."""
        self.ending()
        began, began_ns = self._ending or (self._began, self._began_ns)
        took_s = self._clock.monotonic() - began
        instruments = self._instruments
        instruments.end.observe(took_s)
        instruments.ends.inc(outcome=verdict.outcome.value, reason=verdict.reason)
        status = exited or Exit(code=None)
        if exited is not None and exited.max_rss_bytes:
            instruments.memory.observe(exited.max_rss_bytes)
            instruments.cpu.inc(exited.cpu_s)
        group = status.group
        if group.peak_bytes is not None:
            instruments.peak.observe(group.peak_bytes)
        instruments.throttled.inc(group.throttled_s or 0.0)
        instruments.forks_refused.inc(group.forks_refused)
        with session_span(
            "session.end",
            session_id=self._session.id,
            tenant=self._session.tenant,
            traceparent=self._session.traceparent,
            attributes={
                "greenroom.outcome": verdict.outcome.value,
                "greenroom.reason": verdict.reason,
                "process.exit": status.in_words,
            },
            start_time_ns=began_ns,
        ) as span:
            if verdict.outcome is Outcome.FAILED:
                mark_failed(span, verdict.reason)
            _log.info(
                "session_ended",
                outcome=verdict.outcome.value,
                reason=verdict.reason,
                detail=verdict.detail,
                by=verdict.by,
                exit=status.in_words,
                max_rss_mb=round(status.max_rss_bytes / 2**20),
                cpu_s=status.cpu_s,
                **_counted(group),
                end_took_ms=round(took_s * 1000, 1),
            )

    def _stage(self, stage: str, took_s: float) -> None:
        self._instruments.stage.observe(took_s, stage=stage)
        if self._span is not None:
            self._span.add_event(stage, {"took_ms": round(took_s * 1000, 3)})


def _counted(group: GroupEnd) -> dict[str, float]:
    """Return what a control group has counted, for the log; nothing if there was none."""
    counted = {
        "peak_mb": None if group.peak_bytes is None else round(group.peak_bytes / 2**20),
        "throttled_s": group.throttled_s,
        "oom_kills": group.oom_kills or None,
        "forks_refused": group.forks_refused or None,
    }
    return {name: value for name, value in counted.items() if value is not None}
