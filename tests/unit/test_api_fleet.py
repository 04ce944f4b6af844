"""The fleet as heartbeats show it."""

from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from greenroom.api.fleet import Fleet
from greenroom.api.store import Store
from greenroom.common import messages, subjects
from greenroom.common.broker import Message
from greenroom.common.errors import DatabaseUnavailable
from greenroom.common.messages import BotOffer, Heartbeat
from tests.support.memory_broker import MemoryServer
from tests.unit.test_api_auth import HandClock

BEGAN = datetime(2026, 3, 2, tzinfo=UTC)


class AgentStore:
    """Remembers what was announced."""

    def __init__(self) -> None:
        self.announced: list[tuple[str, str]] = []
        self.away = False

    async def announce_agent(self, pool: str, offer: BotOffer) -> None:
        """Take an announcement."""
        if self.away:
            raise DatabaseUnavailable
        self.announced.append((pool, offer.name))


def make() -> tuple[Fleet, AgentStore, HandClock]:
    """Return a fleet and what it stands on."""
    store, clock = AgentStore(), HandClock()
    return Fleet(MemoryServer().connect(), cast("Store", store), clock=clock), store, clock


async def beat(fleet: Fleet, *bots: str, runner_id: str = "r-1", pool: str = "default", **fields: Any) -> None:
    """Let the fleet hear a heartbeat."""
    offers = tuple(BotOffer(name=bot) for bot in bots)
    values: dict[str, Any] = {"seq": 1, "slots": 4, "started_at": BEGAN, "bots": offers, **fields}
    heartbeat = Heartbeat(runner_id=runner_id, pool=pool, at=BEGAN, **values)
    subject = subjects.RUNNER_HEARTBEAT.format(pool=pool, runner_id=runner_id)
    await fleet._on_heartbeat(Message(subject=subject, data=messages.encode(heartbeat)))


async def test_a_silent_runner_is_lost_and_then_forgotten() -> None:
    """After six seconds it runs nothing, after a minute it isn't shown."""
    fleet, _, clock = make()
    await beat(fleet, "echo")
    assert [runner.lost for runner in fleet.runners()] == [False]
    assert set(fleet.offers()) == {"echo"}
    clock.seconds = 6.5
    assert [runner.lost for runner in fleet.runners()] == [True]
    assert fleet.offers() == {}
    clock.seconds = 61
    assert fleet.runners() == []


async def test_an_old_heartbeat_changes_nothing() -> None:
    """What overtook it is newer; a restarted runner counts from 1 again and is newer all the same."""
    fleet, _, _ = make()
    await beat(fleet, seq=5, slots=5)
    await beat(fleet, seq=4, slots=4)
    assert fleet.runners()[0].heartbeat.slots == 5
    await beat(fleet, seq=1, slots=1, started_at=datetime(2026, 3, 3, tzinfo=UTC))
    assert fleet.runners()[0].heartbeat.slots == 1


async def test_what_is_no_heartbeat_is_passed_over() -> None:
    """Nonsense on the subject takes nobody with it."""
    fleet, _, _ = make()
    await fleet._on_heartbeat(Message(subject="gr.v1.runner.default.r-1.heartbeat", data=b"{"))
    assert fleet.runners() == []


async def test_a_bot_of_several_pools_belongs_to_the_default_one() -> None:
    """Every instance of the api says the same, whatever it heard first."""
    fleet, _, _ = make()
    await beat(fleet, "a", "b", runner_id="r-1", pool="gpu")
    await beat(fleet, "a", runner_id="r-2", pool="default")
    await beat(fleet, "b", runner_id="r-3", pool="eu")
    assert {name: pool for name, (pool, _) in fleet.offers().items()} == {"a": "default", "b": "eu"}
    await beat(fleet, "a", runner_id="r-2", pool="default", seq=2, draining=True)
    assert {name: pool for name, (pool, _) in fleet.offers().items()} == {"a": "gpu", "b": "eu"}


async def test_several_versions_are_one_agent() -> None:
    """The newest says what it is, whoever was heard first; a schema that they don't share refuses nobody."""
    fleet, _, _ = make()
    first = BotOffer(name="a", description="first", transports=("websocket", "twilio"), body_schema={"type": "object"})
    second = msgspec.structs.replace(first, version=2, description="second", transports=("websocket", "daily"))
    other = msgspec.structs.replace(second, version=3, body_schema={"type": "object", "required": ["name"]})
    await beat(fleet, runner_id="r-1", bots=(first, second))
    merged = msgspec.structs.replace(second, transports=("websocket", "daily", "twilio"))
    assert fleet.offers() == {"a": ("default", merged)}
    await beat(fleet, runner_id="r-0", bots=(other,))
    assert fleet.offers()["a"][1].version == 3
    assert fleet.offers()["a"][1].body_schema is None


async def test_bots_are_announced_when_they_are_new_or_changed() -> None:
    """Not at each heartbeat; and again later if they couldn't be."""
    fleet, store, _ = make()
    await beat(fleet, "echo")
    store.away = True
    assert not await fleet._announce()
    store.away = False
    assert await fleet._announce()
    assert await fleet._announce()
    assert store.announced == [("default", "echo")]
    await beat(fleet, "echo", "new", seq=2)
    assert await fleet._announce()
    assert store.announced == [("default", "echo"), ("default", "new")]


async def test_secrets_that_are_missing_everywhere_are_known() -> None:
    """A bot lacks secrets in a pool while each of its runners there lacks some; where none has it, nobody knows."""
    fleet, _, clock = make()
    assert fleet.missing_secrets("default", "echo") == ()
    lacks = BotOffer(name="echo", secrets=("A", "B"), missing_secrets=("B",))
    await beat(fleet, runner_id="r-1", bots=(lacks,))
    await beat(fleet, runner_id="r-2", bots=(msgspec.structs.replace(lacks, missing_secrets=("A",)),))
    assert fleet.missing_secrets("default", "echo") == ("A", "B")
    assert fleet.missing_secrets("gpu", "echo") == ()
    assert set(fleet.offers()) == {"echo"}
    await beat(fleet, runner_id="r-2", bots=(msgspec.structs.replace(lacks, missing_secrets=()),), seq=2)
    assert fleet.missing_secrets("default", "echo") == ()
    clock.seconds = 6.5
    await beat(fleet, runner_id="r-1", bots=(lacks,), seq=2)
    assert fleet.missing_secrets("default", "echo") == ("B",)
