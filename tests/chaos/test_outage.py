"""What does this test do? It takes the broker away from a live call for a minute.

How? A real session process runs a bot that says a number each second; nats-server is killed with -9 and started again
60 s later on the same files. Invariant: the call goes on, and afterwards each of its events is in the stream once, in
order, and each chunk of its recording too.
"""

from pathlib import Path

import pytest

from greenroom.devtools.embedded.nats import EmbeddedNats
from tests.support.outages import call_through_outage, spoken_numbers
from tests.support.session_rig import HostProcess

AWAY_S = 60


@pytest.mark.timeout(240)
async def test_a_minute_without_the_broker(tmp_path: Path, own_nats: EmbeddedNats) -> None:
    """Sixty seconds are no reason to end a call, to lose an event of it, or to tell one twice."""
    host = HostProcess(tmp_path)
    try:
        last, events, audio_complete = await call_through_outage(host, own_nats, AWAY_S)
    finally:
        host.close()
    assert (last.reason, last.lost) == ("silence-timeout", 0)
    assert [event.seq for event in events] == list(range(1, last.events + 1))
    assert len({event.id for event in events}) == last.events
    assert spoken_numbers(events) == [f"This is number {number}." for number in range(AWAY_S + 2)]
    assert audio_complete
