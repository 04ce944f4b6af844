"""`/v1/sessions/{session_id}/transcript`, `/timeline` and `/bundle`: what there is to read of one session."""

import contextlib
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from greenroom.api import reading_examples as examples
from greenroom.api.auth import SESSIONS_READ, caller_of
from greenroom.api.decrypting import Vault
from greenroom.api.reading import bundle as bundles
from greenroom.api.reading import recording_file
from greenroom.api.reading.parts import Reading
from greenroom.api.reading.places import TooManyDownloads
from greenroom.api.routes.common import AnyRequest, answer, only_query, problems
from greenroom.api.sessions import Sessions
from greenroom.api.store import Store
from greenroom.common import transcript
from greenroom.common.call_timeline import CallTimeline, Happenings
from greenroom.common.envelope import RecordingKeyMissing, RecordingTampered
from greenroom.common.errors import SessionNotFound
from greenroom.common.lifecycle import Session
from greenroom.common.messages import Event
from greenroom.common.objects import StorageUnavailable
from greenroom.common.transcript import Speech, Transcript

_OK: Final = 200
_ZIP: Final = "application/zip"

type Format = Literal["json", "text", "vtt"]
_BY_TYPE: Final[dict[str, Format]] = {"application/json": "json", "text/plain": "text", "text/vtt": "vtt"}
_TYPES: Final[dict[Format, str]] = {"text": "text/plain", "vtt": "text/vtt"}


def reading_routes(sessions: Sessions, store: Store, reading: Reading, vault: Vault) -> list[HTTPRouteHandler]:
    """Return the routes.

    Args:
        sessions: knows which there are.
        store: knows which recordings there are.
        reading: has what happened.
        vault: has their files.
    """

    @get(
        "/v1/sessions/{session_id:str}/transcript",
        operation_id="get_transcript",
        tags=["sessions"],
        opt={"scope": SESSIONS_READ},
        summary="Read what was said",
        responses={
            _OK: answer(Transcript, "JSON, text (`text/plain`) or subtitles (`text/vtt`)", examples.TRANSCRIPT),
            **problems(SessionNotFound),
        },
    )
    async def get_transcript(
        request: AnyRequest,
        session_id: FromPath[str],
        kind: Annotated[
            Format | None, QueryParameter(name="format", description="Default: as `Accept` says, else JSON")
        ] = None,
    ) -> Response[Transcript]:
        """Return what was said in a session; of one that goes on, what was said so far.

        An utterance is there when it is over. Its times are milliseconds from the beginning of the call, as in the
        recording, so that the subtitles fit it.
        """
        only_query(request, "format")
        session = await sessions.find(caller_of(request).tenant, session_id)
        speech = Speech()
        await _fold(reading, session, speech.add)
        spoken = transcript.transcript(session.id, speech, complete=session.ended)
        chosen = kind or _BY_TYPE[request.accept.best_match([*_BY_TYPE], default="application/json")]
        headers = {"vary": "accept", "cache-control": "no-store"}
        if chosen == "json":
            return Response(spoken, headers=headers)
        lines = transcript.as_text(spoken) if chosen == "text" else transcript.as_vtt(spoken)
        text: Any = "".join(lines).encode()
        return Response(text, media_type=_TYPES[chosen], headers=headers)

    @get(
        "/v1/sessions/{session_id:str}/timeline",
        operation_id="get_timeline",
        tags=["sessions"],
        opt={"scope": SESSIONS_READ},
        summary="Look at how it went",
        responses={_OK: answer(CallTimeline, "The timeline", examples.TIMELINE), **problems(SessionNotFound)},
    )
    async def get_timeline(request: AnyRequest, session_id: FromPath[str]) -> CallTimeline:
        """Return how a session went: stages of its lifecycle, turns with latencies, moments (tools, nodes, errors, …).

        `response_ms` of a turn is what lies between the caller's last word and the bot's first in the recording;
        `latency` is what the pipeline measured, with what the time was spent on.
        """
        only_query(request)
        session = await sessions.find(caller_of(request).tenant, session_id)
        happenings = Happenings()
        await _fold(reading, session, happenings.add)
        return happenings.timeline(session)

    @get(
        "/v1/sessions/{session_id:str}/bundle",
        operation_id="get_bundle",
        tags=["sessions"],
        opt={"scope": SESSIONS_READ},
        media_type=_ZIP,
        summary="Fetch everything of a session",
        responses={
            _OK: ResponseSpec(bytes, generate_examples=False, description="A zip archive", media_type=_ZIP),
            **problems(SessionNotFound, TooManyDownloads, StorageUnavailable, RecordingKeyMissing, RecordingTampered),
        },
    )
    async def get_bundle(request: AnyRequest, session_id: FromPath[str]) -> Response[bytes]:
        """Return everything of a session in one archive: what is what is said in its `README.txt`.

        It is made while it is sent, so it has no `Content-Length`; if something fails on the way, the answer is cut off
        and the archive has no directory.
        """
        only_query(request)
        session = await sessions.find(caller_of(request).tenant, session_id)
        reading.places.check()
        recording = await store.recording(session.id)
        audio = await recording_file.find(vault, session.tenant, recording) if recording is not None else ()
        contents = bundles.Contents(session=session, recording=recording, audio=audio)
        stream: Any = Stream(
            reading.places.occupy(bundles.bundle(reading.history, contents)),
            media_type=_ZIP,
            headers={
                "content-disposition": f'attachment; filename="{session.id}.zip"',
                "cache-control": "no-store",
                "x-accel-buffering": "no",
            },
        )
        return stream

    return [get_transcript, get_timeline, get_bundle]


async def _fold(reading: Reading, session: Session, add: Callable[[Event], None]) -> None:
    async with contextlib.aclosing(reading.history.read(session.tenant, session.id)) as happened:
        async for one in happened:
            add(one.event)
