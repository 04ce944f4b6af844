"""What Pipecat measures and reports, as data of events."""

from typing import Any

import pytest
from pipecat.metrics.metrics import (
    LLMTokenUsage,
    LLMUsageMetricsData,
    MetricsData,
    ProcessingMetricsData,
    STTUsage,
    STTUsageMetricsData,
    TextAggregationMetricsData,
    TTFAMetricsData,
    TTFATMetricsData,
    TTFBMetricsData,
    TTSUsageMetricsData,
    TurnMetricsData,
)
from pipecat.observers.function_call_observer import FunctionCallEvent, FunctionCallEventKind
from pipecat.observers.user_bot_latency_observer import (
    LatencyBreakdown,
    LatencyContribution,
    LatencyOwnerKind,
    MeasuredFrom,
)
from pipecat.services.llm_service import LLMService
from pipecat.services.openai.llm import OpenAILLMService

from greenroom.runner.session import facts

P = "Service#0"


@pytest.mark.parametrize(
    ("measured", "data"),
    [
        (TTFBMetricsData(processor=P, model="m", value=0.1234), {"kind": "ttfb", "ms": 123.4, "model": "m"}),
        (TTFBMetricsData(processor=P, value=0.0), None),
        (TTFAMetricsData(processor=P, ttfa=0.2, ttfb=0.1, leading_silence=0.1), {"kind": "ttfa", "ms": 200.0}),
        (TTFATMetricsData(processor=P, ttfat=0.3, ttfb=0.1, thinking_time=0.2), {"kind": "ttfat", "ms": 300.0}),
        (ProcessingMetricsData(processor=P, value=1.5), {"kind": "processing", "ms": 1500.0}),
        (TTSUsageMetricsData(processor=P, value=42), {"kind": "tts_usage", "characters": 42}),
        (STTUsageMetricsData(processor=P, value=STTUsage(audio_seconds=1.5)), {"kind": "stt_usage", "audio_s": 1.5}),
        (
            LLMUsageMetricsData(processor=P, value=LLMTokenUsage(prompt_tokens=1, completion_tokens=2, total_tokens=3)),
            {"kind": "llm_usage", "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        ),
        (
            TurnMetricsData(processor=P, is_complete=True, probability=0.98765, e2e_processing_time_ms=21.04),
            {"kind": "turn", "is_complete": True, "probability": 0.988, "ms": 21.0},
        ),
        (TextAggregationMetricsData(processor=P, value=0.1), None),
    ],
)
def test_metrics(measured: MetricsData, data: dict[str, Any] | None) -> None:
    """Each kind of metric has a kind of event; zeros and unknown ones have none."""
    assert facts.metric(measured) == (None if data is None else {**data, "processor": P})


def test_what_is_paid_for_says_whom() -> None:
    """By the package of Pipecat that the service is of; nobody is paid for time."""

    class Mine(OpenAILLMService):
        """A bot's own."""

    service = Mine.__new__(Mine)
    usage = TTSUsageMetricsData(processor=P, value=42)
    assert facts.metric(usage, service) == {
        "kind": "tts_usage",
        "characters": 42,
        "processor": P,
        "provider": "openai",
    }
    assert "provider" not in (facts.metric(usage, object()) or {})
    assert "provider" not in (facts.metric(TTFBMetricsData(processor=P, value=1), service) or {})
    assert facts.provider(LLMService.__new__(LLMService)) is None


def test_latency_says_what_the_time_was_spent_on() -> None:
    """The wait for the bot is told in milliseconds, part by part."""
    part = LatencyContribution(
        key="llm_inference",
        label="LLM",
        owner="L#0",
        owner_kind=LatencyOwnerKind.SERVICE,
        start_time=0,
        duration_secs=0.4,
    )
    breakdown = LatencyBreakdown(contributions=[part], measured_from=MeasuredFrom.USER_SILENCE, total_secs=0.4)
    assert facts.latency(breakdown, 0.45) == {
        "kind": "user_bot_latency",
        "user_bot_latency_ms": 450.0,
        "parts": [{"part": "llm_inference", "owner": "L#0", "ms": 400.0}],
    }
    greeting = LatencyBreakdown(measured_from=MeasuredFrom.CLIENT_CONNECTED)
    assert facts.latency(greeting, 0.1) == {"kind": "first_speech", "first_speech_ms": 100.0, "parts": []}


def test_a_tool_call_tells_how_it_went() -> None:
    """Arguments, result, duration and status of a call are data of its event."""
    settled = FunctionCallEvent(
        kind=FunctionCallEventKind.COMPLETED,
        function_name="book",
        tool_call_id="1",
        timestamp=10.25,
        in_progress_at=10.0,
        result={"ok": True},
    )
    assert facts.tool_call(settled, {"party": 2}) == {
        "name": "book",
        "arguments": {"party": 2},
        "result": {"ok": True},
        "duration_ms": 250.0,
        "status": "completed",
    }


def test_a_call_that_never_ran_has_no_duration() -> None:
    """A call that was canceled before it ran took no time, and a failed one says why."""
    settled = FunctionCallEvent(
        kind=FunctionCallEventKind.FAILED, function_name="book", tool_call_id="1", timestamp=1.0, error="no table"
    )
    told = facts.tool_call(settled, None)
    assert (told["duration_ms"], told["status"], told["error"]) == (0, "failed", "no table")
