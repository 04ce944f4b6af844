"""`/v1/sessions/{session_id}/recording`: the sealed audio, and its manifest."""

import asyncio
from pathlib import Path
from typing import Annotated, Any, Final, cast

import structlog
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, HeaderParameter
from litestar.response import Stream

from greenroom.api import examples, ranges
from greenroom.api.auth import SESSIONS_READ, caller_of
from greenroom.api.ranges import RangeNotSatisfiable, Span
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.sessions import Sessions
from greenroom.api.store import Recording, Store
from greenroom.common.errors import RecordingNotFound, RecordingNotReady, SessionNotFound
from greenroom.common.ids import is_uuid

_log = structlog.get_logger()

_WAV: Final = "audio/wav"
_OK: Final = 200
_PARTIAL: Final = 206
_NOT_MODIFIED: Final = 304


def recording_routes(sessions: Sessions, store: Store, recordings_dir: Path) -> list[HTTPRouteHandler]:
    """Return the routes.

    Args:
        sessions: knows which there are.
        store: knows which recordings there are.
        recordings_dir: where the recorder keeps them.
    """
    root = recordings_dir.resolve()

    @get(
        "/v1/sessions/{session_id:str}/recording",
        operation_id="get_recording",
        tags=["recordings"],
        opt={"scope": SESSIONS_READ},
        media_type=_WAV,
        summary="Fetch the recording",
        response_description="WAV, PCM of 16 bit at 16 kHz: the caller on the left, the bot on the right",
        responses={
            _PARTIAL: ResponseSpec(bytes, generate_examples=False, description="The part asked for", media_type=_WAV),
            _NOT_MODIFIED: ResponseSpec(None, description="The caller has it already"),
            **problems(SessionNotFound, RecordingNotFound, RecordingNotReady, RangeNotSatisfiable),
        },
    )
    async def get_recording(
        request: AnyRequest,
        session_id: FromPath[str],
        part: Annotated[str | None, HeaderParameter(name="Range", description="One range of bytes")] = None,
        if_range: Annotated[str | None, HeaderParameter(name="If-Range")] = None,
        if_none_match: Annotated[str | None, HeaderParameter(name="If-None-Match")] = None,
    ) -> Response[bytes]:
        """Return the recording of a session, or a part of it. It is there a moment after the session has ended."""
        only_query(request)
        recording = await _recording(sessions, store, caller_of(request).tenant, session_id)
        etag = f'"{recording.sha256}"'
        headers = {"etag": etag, "accept-ranges": "bytes", "cache-control": "private, max-age=3600"}
        if if_none_match is not None and etag in if_none_match:
            return Response(b"", status_code=_NOT_MODIFIED, headers=headers, media_type=_WAV)
        path, size = await asyncio.to_thread(_file, root, recording)
        asked = ranges.parse(part, size) if if_range in {None, etag} else None
        span = asked or Span(start=0, stop=size)
        headers["content-length"] = str(span.stop - span.start)
        if asked:
            headers["content-range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
        else:
            headers["content-disposition"] = f'attachment; filename="{session_id}.{recording.format}"'
        stream: Any = Stream(
            ranges.read(path, span), status_code=_PARTIAL if asked else 200, headers=headers, media_type=_WAV
        )
        return stream

    @get(
        "/v1/sessions/{session_id:str}/recording/manifest",
        operation_id="get_recording_manifest",
        tags=["recordings"],
        opt={"scope": SESSIONS_READ},
        summary="Look at the recording's manifest",
        responses={
            _OK: answer(dict[str, Any], "What there is to know of the recording", examples.MANIFEST),
            **problems(SessionNotFound, RecordingNotFound, RecordingNotReady),
        },
    )
    async def get_recording_manifest(request: AnyRequest, session_id: FromPath[str]) -> Response[dict[str, Any]]:
        """Return the manifest of a session's recording: tracks, gaps, duration and SHA-256."""
        only_query(request)
        recording = await _recording(sessions, store, caller_of(request).tenant, session_id)
        return Response(cast("dict[str, Any]", bytes(recording.manifest)), media_type="application/json")

    return [get_recording, get_recording_manifest]


async def _recording(sessions: Sessions, store: Store, tenant: str, session_id: str) -> Recording:
    if not is_uuid(session_id):
        raise SessionNotFound
    stored = await store.session(tenant, session_id)
    if stored is None:
        await sessions.find(tenant, session_id)
        raise RecordingNotReady
    recording = await store.recording(session_id)
    if recording is None:
        raise RecordingNotFound if stored.sealed else RecordingNotReady
    return recording


def _file(root: Path, recording: Recording) -> tuple[Path, int]:
    """Return where a recording is, and its size in bytes."""
    path = (root / recording.path).resolve()
    if not path.is_relative_to(root):
        _log.error("recording_path_escapes", session_id=recording.session_id)
        raise RecordingNotFound
    try:
        return path, path.stat().st_size
    except OSError as error:
        _log.warning("recording_missing", session_id=recording.session_id, error=type(error).__name__)
        raise RecordingNotFound("The recording isn't where it was kept.") from error
