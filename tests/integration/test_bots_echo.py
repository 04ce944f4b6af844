"""The echo bot."""

import numpy as np
import pytest

from greenroom.runner.bots import echo
from tests.support.bot_line import RATE, call_to, spoken


async def test_the_caller_hears_their_own_voice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said comes back unchanged; when the caller leaves, the bot ends."""
    said = spoken("hello is anybody there")
    async with call_to(echo, monkeypatch) as call:
        await call.play(said)
        await call.until(lambda: len(call.heard) > len(said) + RATE)
        await call.hang_up()
        await call.closed.wait()
    heard = np.frombuffer(bytes(call.heard), dtype="<i2")
    voice = np.frombuffer(said, dtype="<i2")
    # An eighth of a second of it as it was said, samples of zero included.
    begins = int(np.flatnonzero(voice)[0])
    middle = voice[begins + 1_000 : begins + 3_000].tobytes()
    assert middle in heard.tobytes()
    assert [type(end).__name__ for end in call.seen.ends] == ["CancelFrame"]
    assert call.seen.errors == []
