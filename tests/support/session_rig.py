"""Everything around a session process in a test: a host that forks it, a runner's end of the control socket, a caller.

async with Sessions(host, nats_url) as sessions:
    run = await sessions.assign("echo")
    ready = await run.expect(PipelineReady)
    caller = await run.call()
    await caller.speak(tone(RATE))
    run.stop()
    finished = await run.expect(Finished)
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import pipecat.frames.protobufs.frames_pb2 as frame_protos

from greenroom.common import subjects, topology_admin
from greenroom.common.broker import Message
from greenroom.common.events import decode_event
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Limits, Outcome, Session, State
from greenroom.common.media_messages import ConnectMedia, MediaAccepted, MediaAnswer, MediaKind, MediaRefused
from greenroom.common.messages import AudioHeader, Event, encode
from greenroom.common.nats_broker import NatsBroker
from greenroom.runner import control, zygote_process
from greenroom.runner.control import Assign, Cancel, FromSession, Pong, Standby, Stop

ROOT: Final = Path(__file__).parents[2]
RATE: Final = 16_000
FRAME_SAMPLES: Final = 320
FRAME_S: Final = 0.02
# protoc writes classes that type checkers don't see.
_PROTOBUF: Final[Any] = vars(frame_protos)["Frame"]
_HEADER: Final = struct.Struct(">BI")
_START_TIMEOUT_S: Final = 80.0
# More than the longest end that a test gives a session; the machine may be busy with others.
_TIMEOUT_S: Final = 30.0


def new_session(bot: str, **fields: Any) -> Session:
    """Return the document of a session of `bot` that a runner has just claimed."""
    now = datetime.now(UTC)
    document: dict[str, Any] = {
        "id": uuid7(),
        "tenant": "default",
        "agent": bot,
        "bot": bot,
        "state": State.STARTED,
        "epoch": 1,
        "requested_at": now,
        "queue_deadline_at": now,
        "limits": Limits(end_timeout_s=5.0),
        **fields,
    }
    return Session(**document)


class HostProcess:
    """A process that forks session processes, as the zygote does; started once, used by many tests.

    Args:
        folder: for its log.
    """

    def __init__(self, folder: Path) -> None:
        self.log = folder / "session-host.log"
        self.exits: dict[int, int] = {}
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {**os.environ, **zygote_process._ENVIRONMENT, "GREENROOM_LOG_FORMAT": "json"}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        with theirs, self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.support.session_host", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        self.socket.settimeout(_START_TIMEOUT_S)
        word = self.socket.recv(64)
        assert word == b"ready", self.log.read_text()
        self.socket.setblocking(False)  # noqa: FBT003 the standard library's own signature

    def close(self) -> None:
        """End it, and see that it has ended."""
        self.socket.close()
        try:
            self._process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Sessions:
    """What a test does with a host.

    Args:
        host: forks.
        nats_url: of a server without streams.
        env: further settings for the session processes.
    """

    def __init__(self, host: HostProcess, nats_url: str, **env: str) -> None:
        self.host = host
        self.audio: list[Message] = []
        self._url = nats_url
        self._env = {"NATS_URL": nats_url} | env
        self._heard = asyncio.Event()
        self._pid: int | None = None
        self._runs: list[SessionRun] = []

    async def __aenter__(self) -> Self:
        self._log_from = self.host.log.stat().st_size
        asyncio.get_running_loop().add_reader(self.host.socket, self._read)
        self.broker = await NatsBroker.connect(self._url, name="test")
        await topology_admin.apply(self.broker)
        # The stream of audio is a work queue, which only its consumer may read; whoever listens hears it too.
        await self.broker.subscribe(subjects.SESSION_AUDIO.wildcard(), self._on_audio)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for run in self._runs:
            with contextlib.suppress(ProcessLookupError):
                if run.pid not in self.host.exits:
                    os.kill(run.pid, signal.SIGKILL)
            run.abandon()
        asyncio.get_running_loop().remove_reader(self.host.socket)
        await self.broker.close()
        if kind is not None:
            sys.stderr.write(self.log)

    @property
    def log(self) -> str:
        """What session processes have logged since the test began."""
        return self.host.log.read_bytes()[self._log_from :].decode()

    async def standby(self) -> "SessionRun":
        """Fork a process and wait until it stands by."""
        run = await self.fork()
        await run.expect(Standby)
        return run

    async def assign(self, bot: str, **fields: Any) -> "SessionRun":
        """Fork a process, and have it run a session of `bot`."""
        run = await self.standby()
        run.assign(bot, **fields)
        return run

    async def fork(self) -> "SessionRun":
        """Fork a process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self.host.socket, [json.dumps(self._env).encode()], [theirs.fileno()])
        self._pid = None
        async with asyncio.timeout(_TIMEOUT_S):
            while self._pid is None:
                self._heard.clear()
                await self._heard.wait()
        run = SessionRun(self, self._pid, ours)
        self._runs.append(run)
        return run

    async def exit_of(self, pid: int, timeout_s: float = _TIMEOUT_S) -> int:
        """Return the exit status of a forked process, once it has one."""
        async with asyncio.timeout(timeout_s):
            while pid not in self.host.exits:
                self._heard.clear()
                await self._heard.wait()
        return self.host.exits[pid]

    def _read(self) -> None:
        word, *rest = self.host.socket.recv(64).decode().split() or ("gone",)
        if word == "exit":
            self.host.exits[int(rest[0])] = int(rest[1])
        elif word == "pid":
            self._pid = int(rest[0])
        else:
            asyncio.get_running_loop().remove_reader(self.host.socket)
        self._heard.set()

    async def _on_audio(self, message: Message) -> None:
        self.audio.append(message)


class SessionRun:
    """One forked session process and its session."""

    def __init__(self, sessions: Sessions, pid: int, control_socket: socket.socket) -> None:
        self.sessions = sessions
        self.pid = pid
        self.session: Session
        self.said: list[FromSession] = []
        self.pongs: list[Pong] = []
        self.assigned_at = 0.0
        self._socket = control_socket
        self._socket.setblocking(False)  # noqa: FBT003 the standard library's own signature

    def assign(self, bot: str, **fields: Any) -> None:
        """Assign a session of `bot`."""
        self.assign_this(new_session(bot, **fields))

    def assign_this(self, session: Session) -> None:
        """Assign a session."""
        self.session = session
        self.assigned_at = time.monotonic()
        self.tell(Assign(session=self.session))

    def tell(self, message: control.ToSession) -> None:
        """Send a control message."""
        self._socket.send(control.encode(message))

    def stop(self, deadline_s: float = 3.0, reason: str = "client-stop") -> None:
        """Tell it to end in order."""
        self.tell(Stop(outcome=Outcome.COMPLETED, reason=reason, deadline_s=deadline_s))

    def cancel(self, reason: str = "fenced") -> None:
        """Tell it to end at once."""
        self.tell(Cancel(reason=reason))

    def abandon(self) -> None:
        """Close the runner's end, as its death does."""
        self._socket.close()

    async def expect[M: FromSession](self, *kinds: type[M], timeout_s: float = _TIMEOUT_S) -> M:
        """Return the next message of one of some kinds; others on the way are kept in `said`."""
        async with asyncio.timeout(timeout_s):
            while True:
                packet = await asyncio.get_running_loop().sock_recv(self._socket, control.MAX_PACKET_BYTES)
                assert packet, f"the process closed its end while {kinds} was expected"
                message = control.decode_from_session(packet)
                if isinstance(message, kinds):
                    return message
                if isinstance(message, Pong):
                    self.pongs.append(message)
                else:
                    self.said.append(message)

    async def exit_status(self, timeout_s: float = _TIMEOUT_S) -> int:
        """Return its exit status, negative for a signal."""
        return await self.sessions.exit_of(self.pid, timeout_s)

    async def call(self, **query: str) -> "Caller":
        """Connect a caller."""
        caller = Caller(self)
        await caller.connect(query)
        return caller

    async def chunks(self, track: str) -> list["StoredChunk"]:
        """Return a track's audio chunks, in order; all of them are in the stream."""
        subject = subjects.SESSION_AUDIO.format(tenant=self.session.tenant, session_id=self.session.id, track=track)
        stored = await self.sessions.broker.count("AUDIO", subject)
        chunks = [StoredChunk.of(message) for message in self.sessions.audio if message.subject == subject]
        assert len(chunks) == stored
        return chunks

    async def stored_chunks(self) -> dict[str, int]:
        """Return how many chunks of each track are in the stream."""
        tokens = {"tenant": self.session.tenant, "session_id": self.session.id}
        return {
            track: await self.sessions.broker.count("AUDIO", subjects.SESSION_AUDIO.format(track=track, **tokens))
            for track in ("user", "bot")
        }

    async def events(self) -> list[Event]:
        """Return the session's events in the stream, in order."""
        subject = subjects.SESSION_EVENT.wildcard(tenant=self.session.tenant, session_id=self.session.id)
        count = await self.sessions.broker.count("SESSIONS", subject)
        reader = await self.sessions.broker.read("SESSIONS", [subject], after=0)
        found: list[Event] = []
        async with asyncio.timeout(_TIMEOUT_S):
            if count:
                async for message in reader:
                    found.append(decode_event(message))
                    if len(found) == count:
                        break
        await reader.close()
        return found


class StoredChunk(msgspec.Struct, frozen=True, kw_only=True):
    """An audio chunk with its headers."""

    seq: int
    epoch: int
    position: int
    origin_ns: int
    rate: int
    pcm: bytes

    @property
    def samples(self) -> int:
        """How many samples it has."""
        return len(self.pcm) // 2

    @classmethod
    def of(cls, message: Message) -> Self:
        """Return the chunk of a message."""
        header = message.headers
        return cls(
            seq=int(header[AudioHeader.SEQ]),
            epoch=int(header[AudioHeader.EPOCH]),
            position=int(header[AudioHeader.POSITION]),
            origin_ns=int(header[AudioHeader.ORIGIN_NS]),
            rate=int(header[AudioHeader.RATE]),
            pcm=message.data,
        )


class Caller:
    """The edge and the client behind it: sends audio in real time, and keeps what comes back."""

    def __init__(self, run: SessionRun) -> None:
        self.run = run
        self.audio = bytearray()
        # When the first sound came, by the monotonic clock.
        self.first_sound_at: float | None = None
        self.closed: tuple[int, str] | None = None
        self.frames = self.missing = 0
        self._sequence = 0
        self._expected = 0
        self._heard = asyncio.Event()

    async def connect(self, query: dict[str, str]) -> None:
        """Ask the session process to take us."""
        await self.run.sessions.broker.subscribe(self._media("out"), self._on_frame)
        answer = await self.ask(uuid7(), query)
        assert isinstance(answer, MediaAccepted), answer

    async def ask(self, connection_id: str, query: dict[str, str] | None = None) -> MediaAnswer:
        """Send `cmd.connect` and return the answer."""
        session = self.run.session
        subject = subjects.SESSION_CMD.format(tenant=session.tenant, session_id=session.id, name="connect")
        request = ConnectMedia(connection_id=connection_id, headers={"User-Agent": "test"}, query=query or {})
        reply = await self.run.sessions.broker.request(subject, encode(request), timeout_s=5)
        return msgspec.json.decode(reply.data, type=MediaAccepted | MediaRefused)

    async def send(self, kind: MediaKind, payload: bytes, *, skip: int = 0) -> None:
        """Send one frame; `skip` sequence numbers are left out before it."""
        self._sequence += skip
        await self.run.sessions.broker.publish(self._media("in"), _HEADER.pack(kind, self._sequence) + payload)
        self._sequence += 1

    async def speak(self, pcm: bytes) -> None:
        """Send audio at 16 kHz, in frames of 20 ms, in real time."""
        due = time.monotonic()
        for start in range(0, len(pcm), FRAME_SAMPLES * 2):
            await self.send(MediaKind.BINARY, _audio_frame(pcm[start : start + FRAME_SAMPLES * 2]))
            due += FRAME_S
            await asyncio.sleep(max(due - time.monotonic(), 0))

    async def be_silent(self, seconds: float) -> None:
        """Send silence, as an open microphone does."""
        await self.speak(bytes(2 * round(RATE * seconds)))

    async def hang_up(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection."""
        await self.send(MediaKind.CLOSE, struct.pack(">H", code) + reason.encode())

    async def until_heard(self, seconds: float, timeout_s: float = _TIMEOUT_S) -> None:
        """Wait until that much audio has come."""
        async with asyncio.timeout(timeout_s):
            while len(self.audio) < seconds * RATE * 2:
                self._heard.clear()
                await self._heard.wait()

    async def until_closed(self, timeout_s: float = _TIMEOUT_S) -> tuple[int, str]:
        """Wait until the bot closes, and return code and reason."""
        async with asyncio.timeout(timeout_s):
            while self.closed is None:
                self._heard.clear()
                await self._heard.wait()
        return self.closed

    async def _on_frame(self, message: Message) -> None:
        kind, sequence = _HEADER.unpack_from(message.data)
        # What the broker loses while it is away is lost for good; the order is never another one.
        assert sequence >= self._expected
        self.missing += sequence - self._expected
        self._expected = sequence + 1
        payload = message.data[_HEADER.size :]
        if kind == MediaKind.CLOSE:
            self.closed = struct.unpack(">H", payload[:2])[0], payload[2:].decode()
        elif kind == MediaKind.BINARY:
            frame = _PROTOBUF.FromString(payload)
            if frame.WhichOneof("frame") == "audio":
                self.frames += 1
                self.audio += frame.audio.audio
                if self.first_sound_at is None and any(frame.audio.audio):
                    self.first_sound_at = time.monotonic()
        self._heard.set()

    def _media(self, direction: str) -> str:
        session = self.run.session
        return subjects.SESSION_MEDIA.format(tenant=session.tenant, session_id=session.id, direction=direction)


def _audio_frame(pcm: bytes) -> bytes:
    frame = _PROTOBUF()
    frame.audio.audio = pcm
    frame.audio.sample_rate = RATE
    frame.audio.num_channels = 1
    return frame.SerializeToString()
