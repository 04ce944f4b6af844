"""What one recorder does: events beside COPY, live audio on one core, and how long a call of an hour takes to seal.

Each part has servers of its own, as durable as they are by default, and the real recorder as a process.
"""

from tests.bench import recorder_audio, recorder_events, recorder_seal
from tests.bench.recorder_place import Place
from tests.bench.report import Report


async def run(report: Report) -> None:
    """Measure the three, one after the other."""
    await recorder_events.run(report)
    for part in (recorder_audio.run, recorder_seal.run):
        async with Place.prepared() as place:
            await part(report, place)
