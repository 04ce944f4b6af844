"""`/v1/sessions/{session_id}/recording`: the sealed audio, and its manifest."""

from typing import Annotated, Any, Final, Literal, cast

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, HeaderParameter, QueryParameter
from litestar.response import Stream

from greenroom.api import examples, ranges
from greenroom.api.auth import SESSIONS_READ, caller_of
from greenroom.api.decrypting import Vault
from greenroom.api.ranges import RangeNotSatisfiable, Span
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.sessions import Sessions
from greenroom.api.shelf import file_of
from greenroom.api.store import Recording, Store
from greenroom.common.envelope import RecordingKeyMissing, RecordingTampered
from greenroom.common.errors import RecordingNotFound, RecordingNotReady, SessionNotFound
from greenroom.common.ids import is_uuid
from greenroom.common.objects import StorageUnavailable
from greenroom.common.recordings import MEDIA_TYPES

_WAV: Final = MEDIA_TYPES["wav"]
_OK: Final = 200
_PARTIAL: Final = 206
_NOT_MODIFIED: Final = 304
_ELSEWHERE: Final = 307


def recording_routes(sessions: Sessions, store: Store, vault: Vault) -> list[HTTPRouteHandler]:
    """Return the routes.

    Args:
        sessions: knows which there are.
        store: knows which recordings there are.
        vault: has their files.
    """

    @get(
        "/v1/sessions/{session_id:str}/recording",
        operation_id="get_recording",
        tags=["recordings"],
        opt={"scope": SESSIONS_READ},
        media_type=_WAV,
        summary="Fetch the recording",
        response_description="WAV, FLAC or Opus in Ogg, at 16 kHz, in the format and layout of the agent",
        responses={
            _PARTIAL: ResponseSpec(bytes, generate_examples=False, description="The part asked for", media_type=_WAV),
            _NOT_MODIFIED: ResponseSpec(None, description="The caller has it already"),
            _ELSEWHERE: ResponseSpec(None, description="It is in a bucket: a link that is good for a short time"),
            **problems(
                SessionNotFound,
                RecordingNotFound,
                RecordingNotReady,
                RangeNotSatisfiable,
                StorageUnavailable,
                RecordingKeyMissing,
                RecordingTampered,
            ),
        },
    )
    async def get_recording(
        request: AnyRequest,
        session_id: FromPath[str],
        *,
        part: Annotated[str | None, HeaderParameter(name="Range", description="One range of bytes")] = None,
        if_range: Annotated[str | None, HeaderParameter(name="If-Range")] = None,
        if_none_match: Annotated[str | None, HeaderParameter(name="If-None-Match")] = None,
        track: Annotated[
            Literal["user", "bot"] | None,
            QueryParameter(description="The file of one side, where each has its own; default: the first file"),
        ] = None,
    ) -> Response[bytes]:
        """Return the recording of a session, or a part of it. It is there a moment after the session has ended.

        Where recordings are kept in a bucket, the answer is a redirect to it.
        """
        only_query(request, "track")
        recording = await _recording(sessions, store, caller_of(request).tenant, session_id)
        file = file_of(recording, track)
        etag, media_type = f'"{file.sha256}"', MEDIA_TYPES.get(recording.format, "application/octet-stream")
        headers = {"etag": etag, "accept-ranges": "bytes", "cache-control": "private, max-age=3600"}
        if if_none_match is not None and etag in if_none_match:
            return Response(b"", status_code=_NOT_MODIFIED, headers=headers, media_type=media_type)
        place = vault.place(caller_of(request).tenant, session_id, file)
        if (link := await place.link(file.path)) is not None:
            # Never kept by anybody on the way: whoever has the link has the recording.
            return Response(b"", status_code=_ELSEWHERE, headers={"location": link, "cache-control": "no-store"})
        # As a header: the type of the route stands over that of the answer.
        headers["content-type"] = media_type
        size = await place.size(file.path)
        asked = ranges.parse(part, size) if if_range in {None, etag} else None
        span = asked or Span(start=0, stop=size)
        headers["content-length"] = str(span.stop - span.start)
        if asked:
            headers["content-range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
        else:
            headers["content-disposition"] = f'attachment; filename="{_name(session_id, track, recording)}"'
        stream: Any = Stream(
            place.read(file.path, span), status_code=_PARTIAL if asked else 200, headers=headers, media_type=media_type
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


def _name(session_id: str, track: str | None, recording: Recording) -> str:
    return ".".join(filter(None, (session_id, track, recording.format)))
