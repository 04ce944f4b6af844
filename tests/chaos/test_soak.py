"""Many short sessions in a row leave nothing behind but what is kept on purpose."""

from pathlib import Path

import pytest

from tests.support.soak import growth, soaking

# Before the first measurement: caches are filled, connections made.
_WARM_UP = 20
# `make bench only=soak` holds 1,000.
_SESSIONS = 200
# A process of Python's allocates in pieces of 1 MB, and nats-server collects garbage when it likes.
_MEMORY_MB = {"runner": 4.0, "zygote": 2.0, "nats": 40.0}


@pytest.mark.timeout(300)  # half a minute on a machine that does nothing else
async def test_sessions_leave_nothing_behind(tmp_path: Path) -> None:
    """200 calls later there is as much of everything that is counted as before, and no more memory."""
    async with soaking(tmp_path) as soak:
        await soak.sessions(_WARM_UP)
        before = await soak.usage()
        await soak.sessions(_SESSIONS)
        after = await soak.usage()
    grown = growth(before, after)
    memory = {name: grown.pop(f"memory_mb.{name}") for name in _MEMORY_MB}
    # nats-server opens files of its streams and starts threads as its work asks for, and closes them later.
    assert grown.pop("threads.nats") <= 4
    assert grown.pop("files.nats") <= 4
    assert {name: count for name, count in grown.items() if count} == {}
    assert {name: mb for name, mb in memory.items() if mb > _MEMORY_MB[name]} == {}
    # Of each session: four transitions at least, and what happened in it, but no more than a short call has to tell.
    kept = after.messages["SESSIONS"] - before.messages["SESSIONS"]
    assert 5 * _SESSIONS <= kept <= 20 * _SESSIONS
