"""Places a call: asks for a session, holds the conversation, follows the events, and reports what was kept."""

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from greenroom.common.errors import GreenroomError
from greenroom.devtools import wav
from greenroom.devtools.caller import ANSWER_TIMEOUT_S, FRAME_S, LINGER_S, RATE, Caller, CallResult, Line
from greenroom.devtools.client import ApiClient, ServerEvent
from greenroom.runner.speech import espeak

# What follows the end of a call (the recording is sealed) takes a second or two.
_AFTERMATH_TIMEOUT_S: Final = 20.0


class NoMicrophone(GreenroomError):
    """`--mic` reads the microphone through ALSA's `arecord`: install alsa-utils, or use --say or --wav."""

    code = "no-microphone"
    status = 503
    title = "The microphone can't be read"


class CallReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a call was: the session as the API tells it afterwards, its events, and the caller's side."""

    session: dict[str, Any]
    events: list[ServerEvent]
    call: CallResult
    # Where the media WebSocket was, ticket included: used up by the call.
    media_url: str
    # From sending the POST to its answer with `wait=ready`.
    request_to_ready_ms: float

    def of_type(self, kind: str) -> list[ServerEvent]:
        """Return the events of one type, in order."""
        return [event for event in self.events if event.type == kind]


def spoken(texts: Sequence[str]) -> list[Line]:
    """Return lines for the caller to say; a text that begins with `!` barges in."""
    return [_line(text) for text in texts]


def _line(text: str) -> Line:
    words = text.removeprefix("!").strip()
    pcm = espeak.synthesize(words, voice=espeak.CALLER_VOICE, rate_wpm=espeak.CALLER_RATE_WPM)
    return Line(pcm=wav.resample(pcm, espeak.RATE, RATE), text=words, barge_in=text.startswith("!"))


def from_wav(path: Path) -> list[Line]:
    """Return a WAV file as one line.

    Raises:
        wav.NotUsable: it isn't 16 bit PCM.
    """
    return [Line(pcm=wav.read_mono(path, RATE), text=path.name)]


async def place(
    client: ApiClient,
    agent: str,
    lines: Sequence[Line],
    *,
    body: dict[str, Any] | None = None,
    source: AsyncIterator[bytes] | None = None,
    linger_s: float = LINGER_S,
    answer_s: float = ANSWER_TIMEOUT_S,
    on_event: Callable[[ServerEvent], None] | None = None,
    on_session: Callable[[dict[str, Any], float], None] | None = None,
) -> CallReport:
    """Hold one call from the request to the sealed recording; `linger_s` and `answer_s` are the caller's.

    Raises:
        ApiProblem, ApiUnreachable: the API refused, or doesn't answer.
        CallFailed: the media WebSocket was refused.
    """
    began = time.monotonic()
    request: dict[str, Any] = {"agent": agent, "wait": "ready", "wait_timeout_s": 30}
    if body:
        request["body"] = body
    session = await client.post("/v1/sessions", request)
    request_to_ready_ms = (time.monotonic() - began) * 1000
    if on_session is not None:
        on_session(session, request_to_ready_ms)
    session_id, media_url = str(session["id"]), str(session["transport"]["url"])
    events: list[ServerEvent] = []
    following = asyncio.create_task(_follow(client, session_id, events, on_event))
    try:
        result = await Caller(media_url, lines, source=source, linger_s=linger_s, answer_s=answer_s).run()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AFTERMATH_TIMEOUT_S):
                await asyncio.shield(following)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    final = await client.get(f"/v1/sessions/{session_id}")
    return CallReport(
        session=final, events=events, call=result, media_url=media_url, request_to_ready_ms=request_to_ready_ms
    )


async def _follow(
    client: ApiClient, session_id: str, events: list[ServerEvent], on_event: Callable[[ServerEvent], None] | None
) -> None:
    async for event in client.events(session_id):
        events.append(event)
        if on_event is not None:
            on_event(event)
        if event.type == "recording_saved":
            return


async def microphone() -> AsyncIterator[bytes]:
    """Yield 20 ms frames of the microphone, PCM16 mono at 16 kHz, until it is closed.

    Raises:
        NoMicrophone: `arecord` isn't there, or gives nothing.
    """
    program = shutil.which("arecord")
    if program is None:
        raise NoMicrophone("arecord isn't installed")
    process = await asyncio.create_subprocess_exec(
        program,
        *("-q", "-t", "raw", "-f", "S16_LE", "-c", "1", "-r", str(RATE)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None  # noqa: S101 - asked for just above
    try:
        while True:
            yield await process.stdout.readexactly(round(RATE * FRAME_S) * 2)
    except asyncio.IncompleteReadError as error:
        raise NoMicrophone("arecord gives no sound: is there a microphone?") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def save(report: CallReport, path: Path) -> None:
    """Write what was said (left) and heard (right) as a WAV file."""
    wav.write_stereo(path, report.call.said, report.call.heard, RATE)
