"""How a runner tells of itself."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, cast

import msgspec
import pytest

from greenroom.common.broker import Broker
from greenroom.common.clock import SystemClock
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.messages import Heartbeat, decode
from greenroom.runner import heartbeats
from greenroom.runner.heartbeats import Heartbeats
from greenroom.runner.settings import RunnerSettings

SETTINGS = RunnerSettings(instance_id="voice-1.example", pool="gpu", labels=("region=eu",))


class Ears:
    """A broker, as far as whoever publishes can tell."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Heartbeat]] = []
        self.away = False
        self.attempts = 0

    async def publish(self, subject: str, data: bytes, **_: Any) -> None:
        """Hear, or be away."""
        self.attempts += 1
        if self.away:
            raise BrokerUnavailable
        self.heard.append((subject, decode(data, Heartbeat)))

    async def until(self, attempts: int) -> None:
        """Wait until so many heartbeats were sent."""
        async with asyncio.timeout(20):
            while self.attempts < attempts:
                await asyncio.sleep(0.005)


def made(ears: Ears) -> Heartbeats:
    """Return heartbeats of a runner that has no start to see to."""
    return Heartbeats(SETTINGS, broker=cast("Broker", ears), clock=SystemClock(), in_a_hurry=lambda: False)


@contextlib.asynccontextmanager
async def sending(beats: Heartbeats) -> AsyncGenerator[None]:
    """Send for the time of the block."""
    task = asyncio.create_task(beats.send(lambda: beats.next(slots=4)))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_a_runner_stays_who_it_is() -> None:
    """Each heartbeat has its number and its time; who speaks is the same in all, and nothing of one is in the next."""
    beats = made(Ears())
    first, second = beats.next(slots=4, draining=True), beats.next(slots=2)
    assert (first.seq, second.seq) == (1, 2)
    assert (first.draining, second.draining, second.slots) == (True, False, 2)
    assert first.started_at <= first.at <= second.at
    assert (first.runner_id, first.pool, first.labels) == ("voice-1-example", "gpu", {"region": "eu"})
    assert first.claim is None
    same = {"seq": 0, "at": first.at, "slots": 0, "draining": False}
    assert msgspec.structs.replace(first, **same) == msgspec.structs.replace(second, **same)


async def test_what_is_new_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first heartbeat goes out by itself, the next with a change, many changes in one; long before one is due."""
    monkeypatch.setattr(heartbeats, "HEARTBEAT_S", 3600.0)
    ears = Ears()
    beats = made(ears)
    async with sending(beats):
        await ears.until(1)
        for _ in range(5):
            beats.changed()
        await ears.until(2)
        await asyncio.sleep(3 * heartbeats.COALESCE_S)
        assert [beat.seq for _, beat in ears.heard] == [1, 2]
    assert {subject for subject, _ in ears.heard} == {"gr.v1.runner.gpu.voice-1-example.heartbeat"}


async def test_it_goes_on_while_nobody_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a broker heartbeats are lost, and the next one is sent when it is due."""
    monkeypatch.setattr(heartbeats, "HEARTBEAT_S", 0.1)
    ears = Ears()
    ears.away = True
    async with sending(made(ears)):
        await ears.until(3)
        ears.away = False
        await ears.until(5)
    assert ears.heard[0][1].seq >= 3
