"""What is loaded before a fork works after it."""

import os
import subprocess
import sys
import textwrap

# Loads everything, forks, and lets each child hear, speak and detect speech; all print what they got.
_SCRIPT = textwrap.dedent(
    """
    import hashlib, os, sys
    from greenroom.runner.bots import assistant, frontdesk
    from greenroom.runner.speech import espeak
    from tests.support.bot_line import RATE, spoken

    def threads():
        return len(os.listdir("/proc/self/task"))

    def work():
        pcm = spoken("for four people")
        speech = espeak.synthesize("Good evening.")
        text = frontdesk._recognizer().transcribe(pcm)
        vad = frontdesk._turns().vad_analyzer
        vad.set_sample_rate(RATE)
        size = 2 * vad.num_frames_required()
        voiced = any((vad.voice_confidence(pcm[at : at + size]) > 0.9).all() for at in range(0, len(pcm) - size, size))
        return f"{text}|{voiced}|{hashlib.sha256(speech).hexdigest()}"

    frontdesk.warm()
    assistant.warm()
    print("threads", threads(), flush=True)
    for _ in range(3):
        child = os.fork()
        if child == 0:
            print(work(), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
    print(work(), flush=True)
    """
)


def test_forks_share_what_was_warmed() -> None:
    """`warm()` leaves one thread, and every fork hears, speaks and detects like its parent."""
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env=environment,
    )
    first, *children, parent = result.stdout.splitlines() or [result.stderr]
    assert first == "threads 1", result.stderr
    assert len(children) == 3
    assert set(children) == {parent}
    assert parent.startswith("for four people|True|")
