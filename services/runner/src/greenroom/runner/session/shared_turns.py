"""Smart Turn in a session's process asks the turn detector that all sessions share (`runner.turn_detector`).

What is asked is what Pipecat's analyzer would give to its model, and the answer the model's, so bots see no difference
but the time it takes. If the detector is gone, hangs or is too busy, the analyzer judges for itself, as it does where
there is no detector. It waits in the analyzer's own thread.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3

from greenroom.runner.turn_detector import ANSWER, MAX_SAMPLES, QUESTION, model

_log = structlog.get_logger()

# Of an answer; a judgement takes 40 ms of a free processor.
_TIMEOUT_S: Final = 0.5
# So often in a row it isn't waited for any longer.
_MOST_MISSES: Final = 3
_ORIGINAL: Final = "_greenroom_original"

type Samples = NDArray[np.float32]


class TurnDetectorClient:
    """A connection to the detector.

    Args:
        connection: `SOCK_SEQPACKET`; see `turn_detector`.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection: socket.socket | None = connection
        self._lock = threading.Lock()
        self._asked = 0
        self._misses = 0

    def ask(self, samples: Samples) -> float | None:
        """Return the probability that the turn is over; None: nobody says.

        Args:
            samples: of the turn, 16 kHz; the last 8 s of them count.
        """
        with self._lock:
            return self._ask_alone(samples)

    def _ask_alone(self, samples: Samples) -> float | None:
        if self._connection is None:
            return None
        try:
            answer = self._ask(self._connection, samples[-MAX_SAMPLES:])
        except TimeoutError:
            self._misses += 1
            if self._misses == _MOST_MISSES:
                self._give_up("it doesn't answer in time")
            return None
        except OSError as error:
            self._give_up(error.strerror or type(error).__name__)
            return None
        self._misses = 0
        return answer

    def _ask(self, connection: socket.socket, samples: Samples) -> float:
        self._asked += 1
        deadline = time.monotonic() + _TIMEOUT_S
        # A file of its own for each question: nothing has to be agreed on who may write when.
        file = os.memfd_create("turn")
        try:
            os.write(file, np.ascontiguousarray(samples, np.float32))
            connection.settimeout(_TIMEOUT_S)
            socket.send_fds(connection, [QUESTION.pack(self._asked)], [file])
        finally:
            os.close(file)
        while True:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            packet = connection.recv(ANSWER.size)
            if len(packet) != ANSWER.size:
                raise ConnectionResetError
            number, probability = ANSWER.unpack(packet)
            if number == self._asked:  # and not what came too late
                return probability

    def _give_up(self, why: str) -> None:
        _log.warning("turn_detector_lost", detail=why)
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def share_turns(connection: socket.socket) -> None:
    """Have all analyzers in this process that use Pipecat's own model ask the detector; a conformance test pins how."""
    owner: Any = LocalSmartTurnAnalyzerV3
    original: Callable[..., dict[str, Any]] = getattr(owner, _ORIGINAL, owner._predict_endpoint)  # noqa: SLF001
    client = TurnDetectorClient(connection)
    usual = model().session

    def predict_endpoint(self: Any, audio_array: Samples) -> dict[str, Any]:
        if self._session is usual and not self._log_data:
            probability = client.ask(self._resample_to_model_rate(audio_array))
            if probability is not None:
                return {"prediction": int(probability > 0.5), "probability": probability}  # noqa: PLR2004 as Pipecat's
        return original(self, audio_array)

    setattr(owner, _ORIGINAL, original)
    owner._predict_endpoint = predict_endpoint  # noqa: SLF001
