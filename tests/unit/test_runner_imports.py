"""What the runner process itself doesn't load."""

import subprocess
import sys

PROBE = """
import sys
import greenroom.runner.__main__
print(sorted({name.partition(".")[0] for name in sys.modules} & {"pipecat", "numpy", "onnxruntime", "loguru"}))
"""


def test_the_runner_itself_stays_small() -> None:
    """Pipecat and what comes with it are loaded in the zygote only: the runner mustn't share its fate."""
    result = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, timeout=30)
    assert result.stdout.strip() == "[]"
