"""A live call doesn't depend on the broker."""

from pathlib import Path

from greenroom.devtools.embedded.nats import EmbeddedNats
from tests.support.outages import call_through_outage, spoken_numbers
from tests.support.session_rig import HostProcess


async def test_a_call_goes_on_without_its_broker(tmp_path: Path, own_nats: EmbeddedNats) -> None:
    """The broker is away for longer than the limits of silence: the bot talks on, and nothing is missing or doubled."""
    host = HostProcess(tmp_path)
    try:
        last, events, audio_complete = await call_through_outage(host, own_nats, 8)
    finally:
        host.close()
    assert (last.reason, last.lost) == ("silence-timeout", 0)
    assert [event.seq for event in events] == list(range(1, last.events + 1))
    assert len({event.id for event in events}) == last.events
    assert spoken_numbers(events) == [f"This is number {number}." for number in range(10)]
    assert audio_complete
