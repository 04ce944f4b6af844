"""The stages of a session: how long each took since the assignment, and their spans below the session's root."""

import time
from contextlib import AbstractContextManager

import msgspec
from opentelemetry.trace import Span

from greenroom.common.lifecycle import Session
from greenroom.common.telemetry import current_traceparent, session_span


class Stages:
    """The stages of one session; `took_ms` counts from here."""

    def __init__(self, session: Session) -> None:
        self.took_ms: dict[str, float] = {}
        self._session = session
        self._assigned_at = time.monotonic()

    def mark(self, stage: str) -> None:
        """Say that a stage is reached; only its first time counts."""
        self.took_ms.setdefault(stage, round((time.monotonic() - self._assigned_at) * 1000, 2))

    def span(self, name: str, **attributes: str) -> AbstractContextManager[Span]:
        """Return a span below the session's root, for the time of the block."""
        return session_span(
            name,
            session_id=self._session.id,
            tenant=self._session.tenant,
            traceparent=self._session.traceparent,
            attributes={f"greenroom.{key}": value for key, value in attributes.items()},
        )


def rooted(session: Session) -> Session:
    """Return the session with a trace to belong to; the api gives it one, a test may not."""
    if session.traceparent is not None:
        return session
    with session_span("session", session_id=session.id, tenant=session.tenant):
        return msgspec.structs.replace(session, traceparent=current_traceparent())
