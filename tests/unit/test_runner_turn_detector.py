"""The process in which turns are judged, and what sessions see of it; its connections are real, its model is a stub."""

import contextlib
import functools
import math
import os
import select
import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from greenroom.runner import turn_detector
from greenroom.runner.host import Host
from greenroom.runner.isolation.confinement import Bounds
from greenroom.runner.session import shared_turns
from greenroom.runner.session.shared_turns import TurnDetectorClient
from greenroom.runner.turn_detector import ANSWER, MAX_SAMPLES, QUESTION, TurnDetectors, serve

_PATIENCE_S = 10.0


class Detector:
    """Runs `serve` in a thread; `judge` returns the mean of the samples."""

    def __init__(self) -> None:
        self.zygote, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.lengths: list[int] = []
        self._sockets = [self.zygote]
        self._served = threading.Event()
        threading.Thread(target=self._serve, args=(theirs,), daemon=True).start()

    def connect(self) -> socket.socket:
        """Return a session's end of a new connection."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self.zygote, [b"+"], [theirs.fileno()])
        self._sockets.append(ours)
        return ours

    def leave(self) -> bool:
        """Be gone, as the zygote; tell whether the detector ends."""
        self.zygote.close()
        return self._served.wait(_PATIENCE_S)

    def close(self) -> None:
        """Be gone, as the sessions."""
        for each in self._sockets:
            each.close()

    def _serve(self, zygote: socket.socket) -> None:
        with zygote:
            serve(zygote, self._judge)
        self._served.set()

    def _judge(self, samples: NDArray[np.float32]) -> float:
        self.lengths.append(len(samples))
        if samples[0] > 1:
            raise ValueError(samples[0])
        return float(samples.mean())


@pytest.fixture
def detector() -> Iterator[Detector]:
    """A detector that ends with the test."""
    running = Detector()
    yield running
    assert running.leave()
    running.close()


def _samples(value: float, count: int = 160) -> NDArray[np.float32]:
    return np.full(count, value, np.float32)


def _is_closed(connection: socket.socket) -> bool:
    connection.settimeout(_PATIENCE_S)
    try:
        return connection.recv(64) == b""
    except ConnectionResetError:
        return True


def test_each_session_is_answered(detector: Detector) -> None:
    """Several sessions ask at the same time, again and again: each hears about its own samples."""
    wrong: list[tuple[float, float | None]] = []

    def ask(value: float) -> None:
        client = TurnDetectorClient(detector.connect())
        for number in range(20):
            answer = client.ask(_samples(value + number / 100))
            if answer is None or not math.isclose(answer, value + number / 100, rel_tol=1e-5):
                wrong.append((value, answer))

    threads = [threading.Thread(target=ask, args=(value / 10,)) for value in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_PATIENCE_S)
    assert not wrong
    assert len(detector.lengths) == 6 * 20


def test_the_last_eight_seconds_count(detector: Detector) -> None:
    """No more is sent than the model takes, and it is the end of the turn."""
    client = TurnDetectorClient(detector.connect())
    assert client.ask(np.concatenate((_samples(1.0, 1000), _samples(0.5, MAX_SAMPLES)))) == 0.5
    assert detector.lengths == [MAX_SAMPLES]


@pytest.mark.parametrize("samples", [_samples(2.0), _samples(0.0, 0)])
def test_who_asks_what_cannot_be_judged_is_hung_up_on(detector: Detector, samples: NDArray[np.float32]) -> None:
    """The model fails, or there is nothing to judge: that is logged once for a session, and others are answered."""
    client = TurnDetectorClient(detector.connect())
    with capture_logs() as logs:
        assert [client.ask(samples), client.ask(_samples(0.25))] == [None, None]
        assert TurnDetectorClient(detector.connect()).ask(_samples(0.25)) == 0.25
    assert [entry["event"] for entry in logs] == ["turn_not_judged", "turn_detector_lost"]


def test_a_connection_that_does_not_come_through_ends_nothing(detector: Detector) -> None:
    """With as many files open as it may have, the detector gets a session's packet without its connection."""
    client = TurnDetectorClient(detector.connect())
    assert client.ask(_samples(0.25)) == 0.25
    detector.zygote.send(b"+")
    assert client.ask(_samples(0.5)) == 0.5
    assert TurnDetectorClient(detector.connect()).ask(_samples(0.25)) == 0.25


@pytest.mark.parametrize("packet", [b"", b"?", b"12345678", QUESTION.pack(1)])
def test_who_sends_something_else_is_hung_up_on(detector: Detector, packet: bytes) -> None:
    """A packet of another length, or without samples: that session judges for itself, others are answered."""
    broken = detector.connect()
    broken.send(packet)
    assert _is_closed(broken)
    assert TurnDetectorClient(detector.connect()).ask(_samples(0.25)) == 0.25


def test_files_that_are_no_samples_hurt_nobody(detector: Detector) -> None:
    """A pipe can't be read at a place, and a file may be larger than any turn."""
    reading, writing = os.pipe()
    large = os.memfd_create("large")
    os.truncate(large, MAX_SAMPLES * 40)
    piped, larger = detector.connect(), detector.connect()
    for connection, file in ((piped, reading), (larger, large)):
        socket.send_fds(connection, [QUESTION.pack(1)], [file])
    assert _is_closed(piped)
    larger.settimeout(_PATIENCE_S)
    assert ANSWER.unpack(larger.recv(ANSWER.size)) == (1, 0.0)
    for file in (reading, writing, large):
        os.close(file)
    assert detector.lengths == [MAX_SAMPLES]


def test_who_does_not_read_is_hung_up_on(detector: Detector) -> None:
    """A session that asks and asks, and takes no answer, doesn't hold up the others."""
    flood = detector.connect()
    file = os.memfd_create("turn")
    os.write(file, _samples(0.5))
    flood.settimeout(_PATIENCE_S)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for number in range(100_000):
            socket.send_fds(flood, [QUESTION.pack(number)], [file])
    os.close(file)
    assert TurnDetectorClient(detector.connect()).ask(_samples(0.25)) == 0.25
    poll = select.poll()
    poll.register(flood, 0)
    assert poll.poll(_PATIENCE_S * 1000)


def test_a_detector_that_is_gone(detector: Detector) -> None:
    """Nobody says any more, at once."""
    client = TurnDetectorClient(detector.connect())
    assert client.ask(_samples(0.25)) == 0.25
    assert detector.leave()
    assert [client.ask(_samples(0.25)) for _ in range(3)] == [None, None, None]


def test_a_detector_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for three times, and not again."""
    monkeypatch.setattr(shared_turns, "_TIMEOUT_S", 0.01)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client = TurnDetectorClient(ours)
    assert [client.ask(_samples(0.5)) for _ in range(4)] == [None] * 4
    with theirs:
        asked = 0
        while socket.recv_fds(theirs, QUESTION.size, 1)[0]:
            asked += 1
    assert asked == 3


def test_an_answer_that_comes_too_late_is_not_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers have the number of their question."""
    monkeypatch.setattr(shared_turns, "_TIMEOUT_S", 0.01)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client = TurnDetectorClient(ours)
    assert client.ask(_samples(0.5)) is None
    with ours, theirs:
        theirs.send(ANSWER.pack(1, 0.75))
        theirs.send(ANSWER.pack(2, 0.25))
        assert client.ask(_samples(0.5)) == 0.25


@pytest.mark.parametrize(
    ("processors", "wanted", "loaded", "started"),
    [
        (2.0, None, True, 1),
        (4.0, None, True, 1),
        (9.5, None, True, 3),
        (2.0, 5, True, 5),
        (2.0, 0, True, 0),
        (2.0, None, False, 0),
        (2.0, 5, False, 0),
    ],
)
def test_as_many_as_there_are_processors_for(
    monkeypatch: pytest.MonkeyPatch, processors: float, wanted: int | None, started: int, *, loaded: bool
) -> None:
    """One for four that this process may use, or as many as are wanted; none where no bot has the model."""
    forked: list[int] = []
    model = functools.cache(object)
    if loaded:
        model()
    monkeypatch.setattr(turn_detector, "model", model)
    monkeypatch.setattr(Host, "processors", lambda _: processors)
    monkeypatch.setattr(TurnDetectors, "_fork", lambda _: forked.append(len(forked)) or len(forked))
    detectors = TurnDetectors(Bounds(), (), wanted)
    assert len(detectors.start()) == len(forked) == started
    assert detectors.connect() is None
