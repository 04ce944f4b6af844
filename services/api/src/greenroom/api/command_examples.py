"""Examples of commands for the schema."""

from typing import Any, Final

from greenroom.api.examples import SESSION_ID

COMMAND_ID: Final = "0199b6a5-03c1-7d52-8e0f-3b9d5a7c1e20"

SEND: Final[dict[str, dict[str, Any]]] = {
    "say": {"id": COMMAND_ID, "command": {"type": "say", "text": "One moment, please.", "interrupt": False}},
    "inject": {"command": {"type": "inject", "text": "The customer's order has shipped.", "role": "developer"}},
    "interrupt": {"command": {"type": "interrupt"}},
    "configure": {"command": {"type": "configure", "version": 3, "voice": "anna", "llm": {"temperature": 0.2}}},
    "mute": {"command": {"type": "mute", "side": "user"}},
    "transfer": {"command": {"type": "transfer", "target": "sip:desk@example.org"}},
    "dtmf": {"command": {"type": "dtmf", "digits": "1042#"}},
    "snapshot": {"command": {"type": "snapshot"}},
    "call": {"command": {"type": "call", "function": "set_topic", "arguments": {"topic": "billing"}}},
    "whisper": {"command": {"type": "whisper", "text": "You may offer ten percent."}},
    "barge_in": {"command": {"type": "barge_in", "text": "This is Anna, I'll take over."}},
    "stop": {"command": {"type": "stop", "now": False, "reason": "the shift is over"}},
}

DONE: Final[dict[str, Any]] = {
    "id": COMMAND_ID,
    "session_id": SESSION_ID,
    "command": "say",
    "status": "done",
    "result": {"queued": True},
}

QUEUED: Final[dict[str, Any]] = {**DONE, "status": "queued", "result": {}}

LISTEN: Final[dict[str, Any]] = {"tracks": "mixed", "barge_in": False}

LISTENING: Final[dict[str, Any]] = {
    "session_id": SESSION_ID,
    "url": "wss://voice.example.org/v1/listen/Yp3kq0m8h2d5s7wXc1vB4nZaE6rTuJ9oLgKfQiMxHSA",
    "expires_at": "2026-03-02T09:31:00.000000Z",
    "tracks": "mixed",
    "barge_in": False,
    "rate": 16_000,
    "channels": 1,
}
