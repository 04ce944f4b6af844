"""What Pipecat's transports for rooms say of a room, as data of `transport` events: who and what, no text of anybody's.

By the handler's name in Pipecat, which is the event's `kind` without its `on_`. What is said again and again while
somebody speaks (active speakers, changed participants, transcriptions) isn't told; what the session's own events tell
(connected, disconnected, keys) isn't either.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

type Data = dict[str, Any]

_MAX_TEXT: Final = 200


def _mapping(data: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", data) if isinstance(data, Mapping) else {}


def _participant(participant: Any, why: Any = None) -> Data:
    # Daily has more of them, LiveKit their identity only.
    name = _mapping(participant).get("id", participant)
    return {"participant": str(name), **({"why": str(why)[:_MAX_TEXT]} if why else {})}


def _message(_message: Any, sender: Any) -> Data:
    return {"participant": str(sender)}


def _picked(*names: str) -> Callable[..., Data]:
    """Return what takes these out of what a provider says; there may be a participant's number beside them."""

    def pick(data: Any = None) -> Data:
        found = _mapping(data)
        return {name: str(found[name])[:_MAX_TEXT] for name in names if found.get(name) is not None}

    return pick


def _state(state: Any) -> Data:
    return {"state": str(state)}


def _sip_is_ready(_endpoint: Any) -> Data:
    return {}


def _transcribed(by: Any, by_error: Any) -> Data:
    return {"by": str(by), "by_error": bool(by_error)}


def _recorded(stream_id: Any) -> Data:
    return {"streamId": str(stream_id)}


def _not_recorded(stream_id: Any, message: Any) -> Data:
    return {**_recorded(stream_id), **_failed(message)}


def _failed(*words: Any) -> Data:
    return {"error": " ".join(str(word) for word in words)[:_MAX_TEXT]}


_CALL: Final = _picked("sessionId", "callState", "errorMsg", "code")

# By transport: Daily's first.
DAILY: Final[dict[str, Callable[..., Data]]] = {
    "on_participant_joined": _participant,
    "on_participant_left": _participant,
    "on_app_message": _message,
    "on_call_state_updated": _state,
    "on_network_connection_status_updated": _picked("threshold", "quality"),
    **{f"on_dialin_{news}": _CALL for news in ("connected", "stopped", "error", "warning")},
    **{f"on_dialout_{news}": _CALL for news in ("answered", "connected", "stopped", "error", "warning")},
    "on_dialin_ready": _sip_is_ready,
    "on_transcription_stopped": _transcribed,
    "on_transcription_error": _failed,
    "on_recording_started": _picked("streamId", "recordingId", "type"),
    "on_recording_stopped": _recorded,
    "on_recording_error": _not_recorded,
}
LIVEKIT: Final[dict[str, Callable[..., Data]]] = {
    "on_participant_connected": _participant,
    "on_participant_disconnected": _participant,
    "on_audio_track_subscribed": _participant,
    "on_audio_track_unsubscribed": _participant,
    "on_video_track_subscribed": _participant,
    "on_video_track_unsubscribed": _participant,
    "on_app_message": _message,
    "on_call_state_updated": _state,
}
