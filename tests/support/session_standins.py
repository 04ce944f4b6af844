"""What a fork runs in the tests of the runner: the session process's side of the control socket, without a pipeline.

What it does is told by `body` of the session: `{"ready_after_s": 0.1, "finish_after_s": 1, "exit_code": 3, …}`.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from greenroom.common.call_data import CallData
from greenroom.common.lifecycle import Outcome
from greenroom.runner import control
from greenroom.runner.control import (
    Answered,
    Assign,
    Cancel,
    EndingNotice,
    Finished,
    FromSession,
    MediaConnected,
    PipelineReady,
    Pong,
    Standby,
    Stop,
    ToSession,
)
from greenroom.runner.session.context import SessionContext

_PONG_S = 0.5
# What whoever connects says of his call.
CALL = CallData(carrier="twilio", direction="inbound", call_id="CA1", stream_id="MZ1", from_="+4930123456")
# What a session has eaten of its memory.
eaten: list[bytes] = []


def block() -> None:
    """Be where no message is heard."""
    time.sleep(600)


class Link:
    """The control socket, blocking."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)

    def say(self, message: FromSession) -> None:
        """Send."""
        self._socket.send(control.encode(message))

    def hear(self, timeout_s: float | None) -> ToSession | None:
        """Return the next message, None when there is none in time; leaves with 75 when the runner is gone."""
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return None
        packet = self._socket.recv(control.MAX_PACKET_BYTES)
        if not packet:
            sys.exit(75)
        return control.decode_to_session(packet)


def run(control_fd: int, _context: SessionContext) -> int:
    """Stand by, take a session, and play what its body says."""
    link = Link(control_fd)
    if os.environ.get("STANDIN_DIES"):
        return 9
    link.say(Standby())
    assigned = _wait(link)
    if not isinstance(assigned, Assign):
        return 64
    script: dict[str, Any] = assigned.session.body
    if script.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if script.get("grandchild"):
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=script["grandchild"] == "escaping"
        )
    if script.get("die"):
        os.kill(os.getpid(), signal.Signals[script["die"]])
    if script.get("hang"):
        time.sleep(600)
    time.sleep(script.get("ready_after_s", 0))
    link.say(PipelineReady(stages_ms={"bot": 1.0, "worker": 2.0, "pipeline": 3.0}))
    if script.get("connect"):
        link.say(MediaConnected(call=CALL))
        link.say(Answered(took_ms=150.0, greeting=True))
        link.say(Answered(took_ms=350.0))
    _misbehave(script)
    told = _until_told(link, script)
    if "raise" in script:
        raise RuntimeError(script["raise"])
    return _end(link, script, told)


def _wait(link: Link) -> ToSession:
    """Wait for the session, and say so all the time."""
    while (message := link.hear(_PONG_S)) is None:
        link.say(Pong(loop_lag_ms=0.0))
    return message


def _misbehave(script: dict[str, Any]) -> None:
    """Do what a runner has to find out by itself."""
    if script.get("blocks"):
        block()
    if (megabytes := script.get("eats_mb")) is not None:
        # Bite by bite: who looks meanwhile doesn't find the bite and what it becomes at once.
        eaten.extend(b"x" * 2**20 for _ in range(megabytes))
    if script.get("stops"):
        os.kill(os.getpid(), signal.SIGSTOP)


def _until_told(link: Link, script: dict[str, Any]) -> Stop | Cancel | None:
    deadline = time.monotonic() + script.get("finish_after_s", 600)
    while (left := deadline - time.monotonic()) > 0:
        if script.get("pongs"):
            link.say(Pong(loop_lag_ms=0.0))
        message = link.hear(min(left, _PONG_S) if script.get("pongs") else left)
        if isinstance(message, Stop | Cancel) and not script.get("deaf"):
            return message
    return None


def _end(link: Link, script: dict[str, Any], told: Stop | Cancel | None) -> int:
    if isinstance(told, Stop):
        outcome, reason = told.outcome, told.reason
    else:
        outcome, reason = Outcome(script.get("outcome", "completed")), script.get("reason", "goodbye")
        link.say(EndingNotice(outcome=outcome, reason=reason))
    if script.get("linger"):
        while True:
            link.hear(600)
    if "exit_code" not in script:
        link.say(Finished(outcome=outcome, reason=reason, events=3))
    return script.get("exit_code", 0)
