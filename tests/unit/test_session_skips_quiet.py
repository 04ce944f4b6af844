"""`GREENROOM_VAD_SKIPS_QUIET`: whether Silero is asked about audio that is too quiet to count as a voice."""

import subprocess
import sys

import pytest

from greenroom.common.errors import SettingsInvalid
from greenroom.common.settings import load
from greenroom.runner.settings import RunnerSettings

_PATIENCE_S = 100
# Four seconds of silence, in pieces of 60 ms.
_PIECES = 66
# What a session process does with its settings before it has a session; its exit code is how many windows of 32 ms the
# model was asked about.
_SESSION = f"""
import os
from greenroom.common.settings import load
from greenroom.runner.session import process
from greenroom.runner.session.context import SessionContext
from greenroom.runner.settings import RunnerSettings
from pipecat.audio.vad.silero import SileroVADAnalyzer

class Listens:
    def __init__(self, *_):
        pass

    async def main(self):
        analyzer = SileroVADAnalyzer(sample_rate=16_000)
        analyzer.set_sample_rate(16_000)
        asked, confidence = [], analyzer.voice_confidence
        analyzer.voice_confidence = lambda buffer: asked.append(buffer) or confidence(buffer)
        for _ in range({_PIECES}):
            await analyzer.analyze_audio(bytes(1920))
        print(len(asked))
        return 0

process._SessionProcess = Listens
process.warm()
context = SessionContext(runner_id="r", settings=load(RunnerSettings, dict(os.environ)), bots={{}})
raise SystemExit(process.run(-1, context))
"""


def _asked(**env: str) -> int:
    """Return how many windows of four silent seconds the model is asked about in a session process."""
    command = [sys.executable, "-W", "ignore", "-c", _SESSION]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def test_sessions_do_as_the_runner_is_told() -> None:
    """Unless it is switched off the model hears nothing of silence; else it hears all of it."""
    assert _asked(GREENROOM_VAD_SKIPS_QUIET="false") == _PIECES * 960 // 512
    assert _asked() == 0


def test_what_is_neither_on_nor_off_is_refused() -> None:
    """A runner doesn't start with a value that it can't read."""
    with pytest.raises(SettingsInvalid, match="GREENROOM_VAD_SKIPS_QUIET"):
        load(RunnerSettings, {"GREENROOM_VAD_SKIPS_QUIET": "sometimes"})
