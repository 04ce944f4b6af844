"""Conversation content in spans: taken out before they leave the process, unless it is asked for.

Pipecat and its services write transcripts, prompts and answers into plainly named attributes. What is content
is told by the last segment of the name, and where the name is unknown by length. What was kept has a `pii`
segment, so that a collector can strip it by rule.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Status
from opentelemetry.util.types import AttributeValue

PII: Final = "pii"
REDACTED_NAMES: Final = "greenroom.redacted"
# Last segments of names that hold what was said, asked, answered or configured to be said, or who somebody is.
CONTENT_SEGMENTS: Final = frozenset(
    {
        "arguments",
        "body",
        "completion",
        "content",
        "definitions",
        "input",
        "input_messages",
        "instructions",
        "message",
        "messages",
        "output",
        "output_messages",
        "parameters",
        "prompt",
        "query",
        "response",
        "result",
        "stacktrace",
        "system_instruction",
        "system_instructions",
        "text",
        "text_output",
        "tools",
        "transcript",
        "transcription",
        "user_id",
        "utterance",
    }
)
# Names whose meaning is fixed by conventions and which hold no content, though they may be long.
_SAFE_PREFIXES: Final = ("db.", "messaging.", "server.", "network.", "code.", "greenroom.")
# A transcript or prompt under a name nobody foresaw is long; ids, models, voices and units are not.
_LONGEST_UNKNOWN: Final = 256
_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def is_content(name: str, value: AttributeValue) -> bool:
    """Tell whether an attribute holds conversation content; numbers and truth values never do."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, Sequence) else []
    texts = [text for text in texts if isinstance(text, str)]
    if not texts or name.startswith(_SAFE_PREFIXES):
        return False
    segments = name.split(".")
    return segments[-1] in CONTENT_SEGMENTS or PII in segments or any(len(text) > _LONGEST_UNKNOWN for text in texts)


class ContentFilter(SpanExporter):
    """Hands on spans without their content, or with it under names with a `pii` segment."""

    def __init__(self, exporter: SpanExporter, *, keep_content: bool) -> None:
        """Wrap `exporter`; `keep_content` renames instead of removing."""
        self._exporter = exporter
        self._keep = keep_content

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export the spans, cleaned."""
        return self._exporter.export([self._clean(span) for span in spans])

    def shutdown(self) -> None:
        """Shut the wrapped exporter down."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the wrapped exporter."""
        return self._exporter.force_flush(timeout_millis)

    def _clean(self, span: ReadableSpan) -> ReadableSpan:
        return ReadableSpan(
            name=span.name,
            context=span.get_span_context(),
            parent=span.parent,
            resource=span.resource,
            attributes=self._attributes(span.attributes),
            events=[Event(event.name, self._attributes(event.attributes), event.timestamp) for event in span.events],
            links=[Link(link.context, self._attributes(link.attributes)) for link in span.links],
            kind=span.kind,
            status=self._status(span.status),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    def _attributes(self, attributes: Mapping[str, AttributeValue] | None) -> dict[str, AttributeValue]:
        clean: dict[str, AttributeValue] = {}
        redacted: list[str] = []
        for name, value in (attributes or {}).items():
            if not is_content(name, value):
                clean[name] = value
            elif self._keep:
                clean[_with_pii(name)] = value
            else:
                redacted.append(name)
        if redacted:
            clean[REDACTED_NAMES] = tuple(redacted)
        return clean

    def _status(self, status: Status) -> Status:
        """Keep a description that is a code; others are the text of some exception."""
        if self._keep or status.description is None or _CODE.fullmatch(status.description):
            return status
        return Status(status.status_code)


def _with_pii(name: str) -> str:
    segments = name.split(".")
    return name if PII in segments else ".".join([*segments[:-1], PII, segments[-1]])
