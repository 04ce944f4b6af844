"""What does this test do? It kills recorders, PostgreSQL, nats-server and the storage of recordings while calls go on.

How does it accomplish this? Twenty calls at once are published as session processes publish them, through the same
emitter and spool; recorders run as processes of their own on real servers. A plan, drawn from a seed, says who is
killed with -9 when, and for how long it stays away. Nothing that publishes is killed, so nothing at all may be missing:
afterwards each event is stored once and in order, each recording has the samples that were sent, bit for bit, and
nothing is there beside that: no parked message, no strange session, no file that no recording names.

The seed replays the plan, not the microsecond at which something was hit. `make chaos runs=200 seed=1` plays many.
What the product does after 10 s (to deliver again what was in dead hands, to look for what couldn't be sealed) is done
after one here.
"""

from collections.abc import AsyncGenerator

import pytest

from tests.support.chaos.field import Field, running_field
from tests.support.chaos.plan import plan_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

# With a bucket, and with a folder.
SEEDS = (4, 24)


@pytest.fixture(scope="module")
async def field(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Field]:
    """The servers of all runs."""
    async with running_field(tmp_path_factory.mktemp("chaos")) as running:
        yield running


@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_is_lost_whoever_is_killed(field: Field, seed: int) -> None:
    """Every event is stored once and in order, and every recording has all of its samples, whoever was killed."""
    report = await field.run(plan_of(seed))
    assert report.problems == ()
    assert report.events > 20 * 10
    assert report.audio_s > 20
