"""Examples for the schema: one session, seen by each route."""

from typing import Any, Final

SESSION_ID: Final = "0199b6a4-5d1e-7c3a-9a52-0c5a3b1e7f42"
_TRACE_ID: Final = "4bf92f3577b34da6a3ce929d0e0e4736"

CREATE: Final[dict[str, Any]] = {
    "agent": "frontdesk",
    "transport": "websocket",
    "body": {"language": "en"},
    "metadata": {"customer": "c-1042"},
    "limits": {"queue_timeout_s": 10},
    "prefers": {"region": "eu"},
    "accounts": ["openai/main"],
    "wait": "ready",
    "wait_timeout_s": 5,
}

MOVE: Final[dict[str, Any]] = {"transport_options": {"room_url": "https://acme.daily.co/standup"}}

STOP: Final = {"reason": "the caller pressed cancel"}

LIMITS: Final = {
    "queue_timeout_s": 10.0,
    "start_timeout_s": 30.0,
    "max_duration_s": 7200.0,
    "join_timeout_s": 120.0,
    "end_timeout_s": 10.0,
    "ending_soon_s": 30.0,
    "first_audio_timeout_s": 0.0,
    "no_progress_timeout_s": 60.0,
    "silence_timeout_s": 0.0,
    "rejoin_timeout_s": 0.0,
    "requeue_timeout_s": 0.0,
}

SESSION: Final[dict[str, Any]] = {
    "id": SESSION_ID,
    "state": "ready",
    "outcome": None,
    "reason": None,
    "ended_by": None,
    "detail": None,
    "agent": "frontdesk",
    "agent_version": 1,
    "pool": "default",
    "transport": {"type": "websocket", "url": None, "expires_at": None},
    "body": {"language": "en"},
    "metadata": {"customer": "c-1042"},
    "limits": LIMITS,
    "on_loss": "before_media",
    "attempt": 1,
    "requested_at": "2026-03-02T09:30:00.000000Z",
    "leased_at": "2026-03-02T09:30:00.003000Z",
    "started_at": "2026-03-02T09:30:00.006000Z",
    "ready_at": "2026-03-02T09:30:00.018000Z",
    "ending_at": None,
    "ended_at": None,
    "trace_id": _TRACE_ID,
    "links": {
        "self": f"/v1/sessions/{SESSION_ID}",
        "events": f"/v1/sessions/{SESSION_ID}/events",
        "stop": f"/v1/sessions/{SESSION_ID}/stop",
        "recording": f"/v1/sessions/{SESSION_ID}/recording",
    },
    "requires": {},
    "prefers": {"region": "eu"},
    "priority": "normal",
    "room": None,
    "carrier": None,
    "number": None,
    "accounts": ["openai/main"],
    "sticky_key": None,
    "user": None,
    "cold": False,
    "retry_after_s": None,
    "queue": None,
}

CREATED: Final[dict[str, Any]] = {
    **SESSION,
    "transport": {
        "type": "websocket",
        "url": "wss://voice.example.org/v1/media/Yp3kq0m8h2d5s7wXc1vB4nZaE6rTuJ9oLgKfQiMxHSA",
        "expires_at": "2026-03-02T09:35:00.000000Z",
    },
}

MOVED: Final[dict[str, Any]] = {
    **SESSION,
    "room": "https://acme.daily.co/standup",
    "transport": {
        "type": "daily",
        "url": "https://acme.daily.co/standup",
        "expires_at": "2026-03-02T12:31:10.000000Z",
        "token": "eyJhbGciOiJIUzI1NiJ9.eyJyIjoic3RhbmR1cCJ9.sFyqTJ0S4nGx7Q0pA2m1kz8bD5uVhYcE3wRtLoNiXj4",
        "info": {"room": "standup", "room_url": "https://acme.daily.co/standup", "privacy": "private"},
    },
}

PIPECAT_START: Final[dict[str, Any]] = {
    "transport": "webrtc",
    "enableDefaultIceServers": True,
    "body": {"language": "en"},
}

PIPECAT_STARTED: Final[dict[str, Any]] = {
    "sessionId": SESSION_ID,
    "iceConfig": {"iceServers": [{"urls": ["stun:stun.example.org:3478"]}]},
}

JOIN: Final[dict[str, Any]] = {
    "room_url": "https://acme.daily.co/standup",
    "persona": "receptionist",
    "voiceParameters": {"language": "en", "maxCallDuration": 600},
    "sessionUserId": "u-1042",
}

JOINED: Final[dict[str, Any]] = {
    "status": "queued",
    "session_id": SESSION_ID,
    "room_url": "https://acme.daily.co/standup",
}

WAITING: Final[dict[str, Any]] = {
    **CREATED,
    "state": "requested",
    "leased_at": None,
    "started_at": None,
    "ready_at": None,
    "queue": {"position": 3, "of": 7, "reason": "no-free-slot"},
}

LIMIT_REACHED: Final[dict[str, Any]] = {
    "type": "/errors/limit-reached",
    "title": "The session ended before it was ready",
    "status": 429,
    "detail": "openai-main: 20 of 20 sessions of account openai/main",
    "code": "limit-reached",
    "retryable": True,
    "instance": "/v1/sessions",
    "retry_after_s": 13.2,
    "session_id": SESSION_ID,
    "outcome": "rejected",
    "trace_id": _TRACE_ID,
}

STOPPING: Final[dict[str, Any]] = {
    **SESSION,
    "state": "ending",
    "outcome": "completed",
    "reason": "client-stop",
    "ended_by": "client",
    "detail": "the caller pressed cancel",
    "ending_at": "2026-03-02T09:31:12.400000Z",
}

ENDED: Final[dict[str, Any]] = {**STOPPING, "state": "ended", "ended_at": "2026-03-02T09:31:13.100000Z"}

EVENTS: Final[dict[str, Any]] = {
    "events": [
        {
            "stream_seq": 812,
            "id": "0199b6a4-5d2f-7b10-8f5a-6f2f6f2f6f2f",
            "session_id": SESSION_ID,
            "type": "user_spoke",
            "at": "2026-03-02T09:30:04.210000Z",
            "seq": 7,
            "epoch": 1,
            "source": "session",
            "data": {"text": "a table for two please", "start_ms": 2150, "end_ms": 3480},
        }
    ],
    "next": None,
}

MANIFEST: Final[dict[str, Any]] = {
    "session_id": SESSION_ID,
    "format": "wav",
    "layout": "stereo",
    "duration_s": 31.1,
    "channels": ["user", "bot"],
    "rate": 16000,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "tracks": [{"track": "user", "chunks": 32, "filled_s": 0.4, "drift_ppm": -12.5}],
    "gaps": [],
    "overlaps": [],
}

AGENTS: Final[dict[str, Any]] = {
    "agents": [
        {
            "name": "frontdesk",
            "version": 1,
            "description": "Books tables and tells the time.",
            "bot": "frontdesk",
            "pool": "default",
            "transports": ["websocket"],
            "body_schema": {"type": "object", "properties": {"language": {"type": "string"}}},
            "limits": LIMITS,
            "on_loss": "before_media",
            "recording": {"format": "flac"},
            "runnable": True,
        }
    ]
}

RUNNERS: Final[dict[str, Any]] = {
    "runners": [
        {
            "id": "voice-1-4711",
            "pool": "default",
            "state": "serving",
            "age_s": 0.4,
            "slots": 24,
            "free": 23,
            "standby": 2,
            "sessions": [
                {
                    "session_id": SESSION_ID,
                    "tenant": "default",
                    "phase": "ready",
                    "since": "2026-03-02T09:30:00.006000Z",
                }
            ],
            "bots": [
                {
                    "name": "frontdesk",
                    "error": None,
                    "version": 1,
                    "resources": "voice",
                    "cores": 0.021,
                    "memory": 18_874_368,
                    "more": 23,
                }
            ],
            "cpu": 0.07,
            "memory_available": 6_442_450_944,
            "loop_lag_ms": 0.6,
            "host": "voice-1",
            "version": "0.1.0",
            "started_at": "2026-03-02T08:00:00.000000Z",
            "brake": None,
            "labels": {"region": "eu"},
            "instance": "9a7f42c1-1be3-4d5c-8d1e-0c5a3b1e7f42",
            "claim": None,
        }
    ]
}

STATUS: Final[dict[str, Any]] = {
    "version": "0.1.0",
    "instance": "edge-1-20",
    "ready": True,
    "problems": {},
    "schema_version": "0006_numbers",
    "sessions": {"ready": 1},
    "runners": {"serving": 1, "draining": 0, "lost": 0, "slots": 24, "held": 1},
    "scheduler": {"leader": "sched-1-31", "term": 4},
    "transports": ["daily", "smallwebrtc", "twilio", "websocket"],
}

OFFER: Final = {"sdp": "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\n…", "type": "offer"}
OFFER_ANSWER: Final = {
    "sdp": "v=0\r\no=- 3996709620 3996709620 IN IP4 0.0.0.0\r\n…",
    "type": "answer",
    "pc_id": "PeerConnection#0-3f8e1bb60e5c4b7d8b4b1c2a9d0e7f16",
}
CANDIDATES: Final = {
    "pc_id": "PeerConnection#0-3f8e1bb60e5c4b7d8b4b1c2a9d0e7f16",
    "candidates": [
        {
            "candidate": "candidate:1 1 udp 2122260223 192.0.2.7 54321 typ host",
            "sdp_mid": "0",
            "sdp_mline_index": 0,
        }
    ],
}
