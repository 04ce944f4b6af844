"""Turn detectors as a zygote has them: real processes with the real model, whose answers are Pipecat's own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.processes import assert_gone

_PATIENCE_S = 60
# What a zygote does with its detectors, and a session with its connection, each step printed as a line.
_ZYGOTE = """
import json, os, select, signal, sys
import numpy as np
from greenroom.runner import childlife, turn_detector, warmup
warmup.share_models()
from greenroom.runner.isolation.confinement import Bounds, confine
from greenroom.runner.session.shared_turns import TurnDetectorClient, share_turns
from greenroom.runner.session.spectra import compute_spectra_piecewise
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3

def say(**fact):
    print(json.dumps(fact), flush=True)

def ended(pidfd):
    return bool(select.select([pidfd], [], [], 30)[0])

def pid_of(detectors):
    [running] = detectors._running.values()
    return running.pid

confine(Bounds())
compute_spectra_piecewise()
turn_detector.model()
detectors = turn_detector.TurnDetectors(Bounds(), childlife.open_files(), 1)
[pidfd] = detectors.start()
turns = [np.random.default_rng(seed).standard_normal(16_000 * seed).astype(np.float32) / 10 for seed in (1, 3, 8)]
alone = LocalSmartTurnAnalyzerV3(sample_rate=16_000)
alone.set_sample_rate(16_000)
own = [alone._predict_endpoint(turn) for turn in turns]
connection = detectors.connect()
client = TurnDetectorClient(connection)
say(step="alike", own=[each["probability"] for each in own], asked=[client.ask(turn) for turn in turns])

share_turns(connection)
runs = []
model = turn_detector.model().session
run = type(model).run
type(model).run = lambda *arguments: runs.append(arguments) or run(*arguments)
shared = [alone._predict_endpoint(turn) for turn in turns]
narrow = LocalSmartTurnAnalyzerV3(sample_rate=8_000)
narrow.set_sample_rate(8_000)
narrow_shared = narrow._predict_endpoint(turns[0][::2])
say(step="shared", alike=shared == own, runs=len(runs))

first = pid_of(detectors)
say(step="name", name=open(f"/proc/{first}/comm").read().strip(), group=os.getpgid(first) == first)
os.kill(first, signal.SIGKILL)
ended(pidfd)
fallen_back = [alone._predict_endpoint(turn) for turn in turns], narrow._predict_endpoint(turns[0][::2])
say(step="alone", alike=fallen_back == (own, narrow_shared), runs=len(runs), next=detectors.replace(pidfd),
    connection=detectors.connect() is not None)

turn_detector._MIN_LIFE_S = 0.0
[pidfd] = detectors.start()
os.kill(pid_of(detectors), signal.SIGKILL)
ended(pidfd)
pidfd = detectors.replace(pidfd)
answer = TurnDetectorClient(detectors.connect()).ask(turns[0])
say(step="replaced", alike=answer == own[0]["probability"], pid=pid_of(detectors))
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.timeout(120)
def test_detectors_answer_as_the_model_does_and_end_with_their_zygote(tmp_path: Path) -> None:
    """Bit for bit, through the analyzer or not; if one dies sessions judge for themselves, new ones have another."""
    log = tmp_path / "log"
    with log.open("w") as file:
        zygote = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _ZYGOTE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={"OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"},
        )
    assert zygote.stdout is not None
    said: list[dict[str, Any]] = []
    for line in zygote.stdout:
        if line.startswith("{"):
            said.append(json.loads(line))
        if said and said[-1]["step"] == "replaced":
            break
    assert [each["step"] for each in said] == ["alike", "shared", "name", "alone", "replaced"], log.read_text()
    alike, shared, name, alone, replaced = said
    assert alike["asked"] == alike["own"]
    assert len(set(alike["own"])) == 3
    # Nothing was judged here while there was a detector, and all of it afterwards.
    assert (shared["alike"], shared["runs"]) == (True, 0)
    assert (name["name"], name["group"]) == ("turn-detector", True)
    # One that didn't live for long isn't followed by another.
    assert (alone["alike"], alone["runs"], alone["next"], alone["connection"]) == (True, 4, None, False)
    assert replaced["alike"] is True
    detector = psutil.Process(replaced["pid"])
    zygote.communicate(timeout=_PATIENCE_S)
    assert_gone(detector)
