"""Everything around a session process in a test: a host that forks it, a runner's end of the control socket, a caller.

    async with SessionHost(nats_url) as host:
        run = await host.assign("echo")
        ready = await run.expect(PipelineReady)
        caller = await run.call()
        await caller.speak(tone(RATE))
        await run.stop()
        finished = await run.expect(Finished)
"""

import asyncio
import os
import socket
import struct
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
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
from greenroom.common.messages import AudioHeader, ConnectMedia, Event, MediaAccepted, MediaAnswer, MediaKind, decode, encode
from greenroom.common.nats_broker import NatsBroker
from greenroom.runner import control, zygote_process
from greenroom.runner.control import Assign, Cancel, FromSession, Pong, Standby, Stop

ROOT: Final = Path(__file__).parents[2]
RATE: Final = 16_000
FRAME_SAMPLES: Final = 320
FRAME_S: Final = 0.02
_HEADER: Final = struct.Struct(">BI")
_START_TIMEOUT_S: Final = 40.0
_TIMEOUT_S: Final = 10.0


class SessionHost:
    """A process that forks session processes, as the zygote does."""

    def __init__(self, nats_url: str, **env: str) -> None:
        self._url = nats_url
        settings = {"NATS_URL": nats_url, "GREENROOM_LOG_FORMAT": "json", **env}
        self._env = {**os.environ, **zygote_process._ENVIRONMENT, **settings}
        self._env.pop("PYTHONDONTWRITEBYTECODE", None)
        self._lock = asyncio.Lock()
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._words: asyncio.Queue[str] = asyncio.Queue()
        self.audio: list[Message] = []
        self.log = ""

    async def __aenter__(self) -> Self:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "ignore", "-m", "tests.support.session_host", str(theirs.fileno()),
            pass_fds=[theirs.fileno()], env=self._env, cwd=ROOT, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        theirs.close()
        self._socket.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._read)
        self._reader = asyncio.create_task(self._read_log())
        async with asyncio.timeout(_START_TIMEOUT_S):
            assert await self._words.get() == "ready", self.log
        self.broker = await NatsBroker.connect(self._url, name="test")
        await topology_admin.apply(self.broker)
        # The stream of audio is a work queue, which only its consumer may read; whoever listens hears it too.
        await self.broker.subscribe(subjects.SESSION_AUDIO.wildcard(), self._on_audio)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._process.wait()
        finally:
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            await self._reader
            await self.broker.close()
            if kind is not None:
                sys.stderr.write(self.log)

    async def standby(self) -> "SessionRun":
        """Fork a process and wait until it stands by."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        async with self._lock:
            socket.send_fds(self._socket, [b"fork"], [theirs.fileno()])
            theirs.close()
            async with asyncio.timeout(_TIMEOUT_S):
                word, pid = (await self._words.get()).split()
        assert word == "pid"
        run = SessionRun(self, int(pid), ours)
        await run.expect(Standby)
        return run

    async def assign(self, bot: str, **fields: Any) -> "SessionRun":
        """Fork a process, and have it run a session of `bot`."""
        run = await self.standby()
        await run.assign(bot, **fields)
        return run

    def exit_of(self, pid: int) -> asyncio.Future[int]:
        """Return the exit status of a forked process, once it has one."""
        return self._exits.setdefault(pid, asyncio.get_running_loop().create_future())

    async def _on_audio(self, message: Message) -> None:
        self.audio.append(message)

    def _read(self) -> None:
        packet = self._socket.recv(64).decode()
        if not packet:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._words.put_nowait("gone")
        elif packet.startswith("exit"):
            _, pid, status = packet.split()
            self.exit_of(int(pid)).set_result(int(status))
        else:
            self._words.put_nowait(packet)

    async def _read_log(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.log += line.decode()


class SessionRun:
    """One forked session process and its session."""

    def __init__(self, host: SessionHost, pid: int, control_socket: socket.socket) -> None:
        self.host = host
        self.pid = pid
        self.session: Session
        self.said: list[FromSession] = []
        self.pongs: list[Pong] = []
        self.assigned_at = 0.0
        self._socket = control_socket
        self._socket.setblocking(False)

    async def assign(self, bot: str, **fields: Any) -> None:
        """Assign a session of `bot`."""
        now = datetime.now(UTC)
        self.session = Session(
            **{
                "id": uuid7(), "tenant": "default", "agent": bot, "bot": bot, "state": State.STARTED, "epoch": 1,
                "requested_at": now, "queue_deadline_at": now, "limits": Limits(end_timeout_s=5.0), **fields,
            }  # fmt: skip
        )
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

    async def expect[M: FromSession](self, kind: type[M], timeout_s: float = _TIMEOUT_S) -> M:
        """Return the next message of a kind; others on the way are kept in `said`."""
        async with asyncio.timeout(timeout_s):
            while True:
                packet = await asyncio.get_running_loop().sock_recv(self._socket, control.MAX_PACKET_BYTES)
                assert packet, f"the process closed its end while {kind.__name__} was expected"
                message = control.decode_from_session(packet)
                if isinstance(message, kind):
                    return message
                if isinstance(message, Pong):
                    self.pongs.append(message)
                else:
                    self.said.append(message)

    async def exit_status(self, timeout_s: float = _TIMEOUT_S) -> int:
        """Return its exit status, negative for a signal."""
        async with asyncio.timeout(timeout_s):
            return await self.host.exit_of(self.pid)

    async def call(self, **query: str) -> "Caller":
        """Connect a caller."""
        caller = Caller(self)
        await caller.connect(query)
        return caller

    async def chunks(self, track: str) -> list["StoredChunk"]:
        """Return a track's audio chunks, in order; all of them are in the stream."""
        subject = subjects.SESSION_AUDIO.format(tenant=self.session.tenant, session_id=self.session.id, track=track)
        stored = await self.host.broker.count("AUDIO", subject)
        chunks = [StoredChunk.of(message) for message in self.host.audio if message.subject == subject]
        assert len(chunks) == stored
        return chunks

    async def events(self) -> list[Event]:
        """Return the session's events in the stream, in order."""
        subject = subjects.SESSION_EVENT.wildcard(tenant=self.session.tenant, session_id=self.session.id)
        count = await self.host.broker.count("SESSIONS", subject)
        reader = await self.host.broker.read("SESSIONS", [subject], after=0)
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
        self.frames = 0
        self._sequence = 0
        self._expected = 0
        self._heard = asyncio.Event()

    async def connect(self, query: dict[str, str]) -> None:
        """Ask the session process to take us."""
        await self.run.host.broker.subscribe(self._media("out"), self._on_frame)
        answer = await self.ask(uuid7(), query)
        assert isinstance(answer, MediaAccepted), answer

    async def ask(self, connection_id: str, query: dict[str, str] | None = None) -> MediaAnswer:
        """Send `cmd.connect` and return the answer."""
        session = self.run.session
        subject = subjects.SESSION_CMD.format(tenant=session.tenant, session_id=session.id, name="connect")
        request = ConnectMedia(connection_id=connection_id, headers={"User-Agent": "test"}, query=query or {})
        reply = await self.run.host.broker.request(subject, encode(request), timeout_s=5)
        return decode(reply.data, MediaAnswer)

    async def send(self, kind: MediaKind, payload: bytes, *, skip: int = 0) -> None:
        """Send one frame; `skip` sequence numbers are left out before it."""
        self._sequence += skip
        await self.run.host.broker.publish(self._media("in"), _HEADER.pack(kind, self._sequence) + payload)
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
        assert sequence == self._expected
        self._expected += 1
        payload = message.data[_HEADER.size :]
        if kind == MediaKind.CLOSE:
            self.closed = struct.unpack(">H", payload[:2])[0], payload[2:].decode()
        elif kind == MediaKind.BINARY:
            frame = frame_protos.Frame.FromString(payload)
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
    frame = frame_protos.Frame()
    frame.audio.audio = pcm
    frame.audio.sample_rate = RATE
    frame.audio.num_channels = 1
    return frame.SerializeToString()


@asynccontextmanager
async def session_host(nats_url: str, **env: str) -> AsyncGenerator[SessionHost]:
    """Run a host for the time of the block."""
    async with SessionHost(nats_url, **env) as host:
        yield host
