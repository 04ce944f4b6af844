"""What a processor does in a millisecond, here and now: processor times are told in units of it, to be compared.

A processor second is worth more on one machine than on another, and less beside neighbours that share its caches. The
yardstick is a piece of work of the kind that sessions do (calls of Python, dictionaries, bytes, some arithmetic on
arrays) in the same run, so what makes sessions slow makes it slow too.
"""

import json
import struct
import time
from typing import Final

import numpy as np

_ROUNDS: Final = 40
_FRAME: Final = np.arange(960, dtype=np.float32) / 960
_MESSAGE: Final = {"type": "audio", "seq": 1, "labels": [f"label {number}" for number in range(20)], "pcm": "0" * 640}


def lay() -> float:
    """Do the work once, and return the processor milliseconds that it took."""
    began = time.thread_time()
    for number in range(_ROUNDS):
        message = json.loads(json.dumps(_MESSAGE | {"seq": number}))
        fields = {name: struct.pack(">Q", index) for index, name in enumerate(message["labels"])}
        sorted(fields.items(), key=_last)
        b"".join(fields.values()).hex()
        spectrum = np.fft.rfft(_FRAME * number)
        float(np.abs(spectrum).sum())
    return (time.thread_time() - began) * 1000


def _last(field: tuple[str, bytes]) -> bytes:
    return field[1]
