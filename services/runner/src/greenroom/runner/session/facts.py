"""What Pipecat measures and reports, as data of events."""

import re
from collections.abc import Callable
from typing import Any, Final

from pipecat.metrics.metrics import (
    LLMUsageMetricsData,
    MetricsData,
    ProcessingMetricsData,
    STTUsageMetricsData,
    TTFAMetricsData,
    TTFATMetricsData,
    TTFBMetricsData,
    TTSUsageMetricsData,
    TurnMetricsData,
)
from pipecat.observers.error_observer import ErrorEvent
from pipecat.observers.function_call_observer import FunctionCallEvent
from pipecat.observers.user_bot_latency_observer import LatencyBreakdown, MeasuredFrom

from greenroom.runner.session.emitter import jsonable

_MAX_TEXT: Final = 500
# Pipecat has a package for each provider; the bases of all services are modules beside them.
_PROVIDER: Final = re.compile(r"pipecat\.services\.([a-z0-9_]+)\..+")
_USAGE: Final = (LLMUsageMetricsData, STTUsageMetricsData, TTSUsageMetricsData)

FIRST_SPEECH: Final = "first_speech"

type Data = dict[str, Any]


def metric(measured: MetricsData, source: object = None) -> Data | None:
    """Return the data of a `metrics` event, or None for what isn't worth one (nothing measured, unknown kind).

    `kind` is one of `ttfb`, `ttfa`, `ttfat`, `processing`, `llm_usage`, `stt_usage`, `tts_usage`, `turn`;
    durations are in milliseconds (`ms`), audio in seconds (`audio_s`). What is paid for (`…_usage`) has the `provider`
    where `source`, the processor that reports it, is of one.
    """
    measure = _METRICS.get(type(measured))
    data = measure(measured) if measure else None
    if data is None:
        return None
    paid_to = provider(source) if isinstance(measured, _USAGE) else None
    return {
        **data,
        "processor": measured.processor,
        **({"model": measured.model} if measured.model else {}),
        **({"provider": paid_to} if paid_to else {}),
    }


def provider(processor: object) -> str | None:
    """Return whose service a processor is, e.g. `openai`; of a class made from one of Pipecat's, that one's."""
    modules = (_PROVIDER.fullmatch(kind.__module__) for kind in type(processor).__mro__)
    return next((match[1] for match in modules if match), None)


def latency(breakdown: LatencyBreakdown, seconds: float) -> Data:
    """Return the data of the `metrics` event for a bot that has begun to speak.

    `kind` is `user_bot_latency` after something the caller said, and `first_speech`, counted from the connection,
    for a greeting. `parts` says what the time was spent on, in order, and who spent it.
    """
    greeting = breakdown.measured_from is MeasuredFrom.CLIENT_CONNECTED
    kind = FIRST_SPEECH if greeting else "user_bot_latency"
    parts = [{"part": part.key, "owner": part.owner, "ms": _ms(part.duration_secs)} for part in breakdown.contributions]
    return {"kind": kind, f"{kind}_ms": _ms(seconds), "parts": parts}


def tool_call(settled: FunctionCallEvent, arguments: object) -> Data:
    """Return the data of a `tool_called` event; `status` is `completed`, `failed`, `timed_out` or `cancelled`."""
    began = settled.in_progress_at
    return {
        "name": settled.function_name,
        "arguments": jsonable(arguments),
        "result": jsonable(settled.result),
        "duration_ms": _ms(settled.timestamp - began) if began is not None else 0,
        "status": settled.kind.value.removeprefix("function_call_"),
        **({"error": settled.error[:_MAX_TEXT]} if settled.error else {}),
    }


def failure(error: ErrorEvent) -> Data:
    """Return the data of an `error` event; `usable` tells whether the processor can go on."""
    return {
        "message": error.message[:_MAX_TEXT],
        "category": error.category.value,
        "exception_type": error.exception_type,
        "processor": error.processor,
        "usable": error.processor_usable,
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _timed(kind: str, seconds: float) -> Data | None:
    # Pipecat reports zeros for every processor at the start.
    return {"kind": kind, "ms": _ms(seconds)} if seconds > 0 else None


def _llm_usage(measured: Any) -> Data:
    return {"kind": "llm_usage", **measured.value.model_dump(exclude_none=True)}


def _turn(measured: Any) -> Data:
    return {
        "kind": "turn",
        "is_complete": measured.is_complete,
        "probability": round(measured.probability, 3),
        "ms": round(measured.e2e_processing_time_ms, 1),
    }


_METRICS: Final[dict[type[MetricsData], Callable[[Any], Data | None]]] = {
    TTFBMetricsData: lambda measured: _timed("ttfb", measured.value),
    TTFAMetricsData: lambda measured: _timed("ttfa", measured.ttfa),
    TTFATMetricsData: lambda measured: _timed("ttfat", measured.ttfat),
    ProcessingMetricsData: lambda measured: _timed("processing", measured.value),
    LLMUsageMetricsData: _llm_usage,
    STTUsageMetricsData: lambda measured: {"kind": "stt_usage", "audio_s": round(measured.value.audio_seconds, 3)},
    TTSUsageMetricsData: lambda measured: {"kind": "tts_usage", "characters": measured.value},
    TurnMetricsData: _turn,
}
