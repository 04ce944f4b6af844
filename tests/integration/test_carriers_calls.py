"""Phone calls over each carrier: its own wire format, our api, and real session processes."""

from collections.abc import AsyncGenerator, Generator

import numpy as np
import pytest

from greenroom.common.lifecycle import Outcome
from tests.support.api_world import until
from tests.support.carriers.exchange import CARRIERS
from tests.support.carriers.phone import RATE
from tests.support.carriers.world import CarrierWorld, carrier_world
from tests.support.session_rig import HostProcess
from tests.support.telephony_bots import GREETING_S

# Those that can be told to wait and ask again.
HOLDING = tuple(name for name in CARRIERS if name != "exotel")
# Those with an API that ends calls.
HANGING_UP = HOLDING


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Generator[HostProcess]:
    """What forks session processes."""
    host = HostProcess(tmp_path_factory.mktemp("session-host"))
    yield host
    host.close()


@pytest.fixture(params=CARRIERS)
async def world(
    request: pytest.FixtureRequest, host: HostProcess, nats_url: str, database: str
) -> AsyncGenerator[CarrierWorld]:
    """Each carrier, and us."""
    async with carrier_world(request.param, host, nats_url, database) as world:
        yield world


def hertz(pcm: bytes) -> float:
    """Return the strongest frequency of some audio."""
    samples = np.frombuffer(pcm, dtype="<i2").astype(float)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * RATE / len(samples))


def voiced(pcm: bytes | bytearray) -> float:
    """Return for how long something is heard, in seconds."""
    samples = np.abs(np.frombuffer(bytes(pcm), dtype="<i2").astype(int))
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    return float((frames.max(axis=1) > 500).sum() * 0.02)


async def test_a_call_is_answered_heard_and_hung_up_by_the_caller(world: CarrierWorld) -> None:
    """The bot greets, keys reach it and are told in events, and the session ends when the caller puts it down."""
    await world.number()
    phone = await world.exchange.call(world.api.url)
    await until(lambda: voiced(phone.heard) > GREETING_S * 0.9)
    assert abs(hertz(bytes(phone.heard)) - 200) < 10
    await phone.press("4")
    await phone.hang_up()
    session = await world.ended((await world.only_session()).id)
    assert (session.outcome, session.reason) == (Outcome.COMPLETED, "client-left")
    assert session.transport_info["call_id"] == phone.leg.call_id
    assert session.carrier == world.name
    (pressed,) = await world.events(session, "dtmf")
    assert (pressed.data["digits"], pressed.data["direction"]) == ("4", "in")
