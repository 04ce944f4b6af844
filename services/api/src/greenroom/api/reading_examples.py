"""Examples of what there is to read, for the schema."""

from typing import Any, Final

from greenroom.api.examples import SESSION, SESSION_ID

TRANSCRIPT: Final[dict[str, Any]] = {
    "session_id": SESSION_ID,
    "complete": True,
    "truncated": False,
    "duration_ms": 5200,
    "entries": [
        {
            "speaker": "bot",
            "text": "Good morning, how can I help?",
            "start_ms": 240,
            "end_ms": 2100,
            "interrupted": False,
            "estimated": False,
            "node": "greeting",
            "epoch": 1,
        },
        {
            "speaker": "user",
            "text": "A table for two.",
            "start_ms": 2900,
            "end_ms": 4100,
            "interrupted": False,
            "estimated": False,
            "node": "greeting",
            "epoch": 1,
        },
    ],
}

TIMELINE: Final[dict[str, Any]] = {
    "session_id": SESSION_ID,
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "state": "ended",
    "outcome": "completed",
    "reason": "goodbye",
    "attempt": 1,
    "began_at": "2026-03-02T09:30:00.210000Z",
    "duration_ms": 5200,
    "truncated": False,
    "stages": [
        {
            "state": "ready",
            "attempt": 1,
            "epoch": 1,
            "since": "2026-03-02T09:30:00.120000Z",
            "until": "2026-03-02T09:30:05.900000Z",
            "duration_ms": 5780,
        }
    ],
    "turns": [
        {
            "number": 2,
            "start_ms": 2900,
            "end_ms": 5200,
            "epoch": 1,
            "node": "booking",
            "user": {"text": "A table for two.", "start_ms": 2900, "end_ms": 4100, "interrupted": False},
            "bot": {"text": "For when?", "start_ms": 4620, "end_ms": 5200, "interrupted": False},
            "response_ms": 520,
            "latency": {
                "kind": "user_bot_latency",
                "ms": 523.4,
                "parts": [{"part": "llm", "owner": "OpenAILLMService#0", "ms": 310.0}],
            },
        }
    ],
    "moments": [
        {
            "kind": "tool",
            "type": "tool_called",
            "at": "2026-03-02T09:30:04.500000Z",
            "at_ms": 4290,
            "turn": 2,
            "epoch": 1,
            "source": "session",
            "data": {"name": "find_table", "arguments": {"people": 2}, "status": "completed", "duration_ms": 120.0},
        }
    ],
}

FOUND: Final[dict[str, Any]] = {
    "hits": [
        {
            "session_id": SESSION_ID,
            "agent": "frontdesk",
            "requested_at": "2026-03-02T09:30:00.000000Z",
            "snippet": "Good morning, how can I help? / A <mark>table</mark> for two.",
            "start_ms": 2900,
        }
    ],
    "next": None,
}

EXPORTED: Final[dict[str, Any]] = {"session": SESSION, "recording": None}
