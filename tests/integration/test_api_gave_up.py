"""A caller that hangs up while it waits: its session, which nobody knows of then, is stopped."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from greenroom.common.errors import BrokerUnavailable
from greenroom.common.ledger import Entry, Ledger
from greenroom.common.lifecycle import Ending, Ready, Started, State
from greenroom.common.messages import BotOffer
from tests.support.api_world import LEASED, RUNNER, ApiWorld, eventually, running_api


@pytest.fixture
async def world(nats_url: str, database: str) -> AsyncGenerator[ApiWorld]:
    """A running api with the agent `echo`."""
    async with running_api(nats_url, database) as running:
        await running.beat(BotOffer(name="echo"))
        yield running


class Caller:
    """A socket on which a request for a session was sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session_id: str) -> None:
        self.reader = reader
        self.session_id = session_id
        self._writer = writer

    async def hang_up(self) -> None:
        """Close the connection."""
        self._writer.close()
        await self._writer.wait_closed()

    def vanish(self) -> None:
        """Cut the connection off, with a reset."""
        self._writer.transport.abort()


async def a_caller(world: ApiWorld, wait: str, *headers: str) -> Caller:
    """Return a caller whose request is in the ledger."""
    ledger = await world.ledger.watch()
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = msgspec.json.encode({"agent": "echo", "wait": wait, "wait_timeout_s": 30})
    head = ["POST /v1/sessions HTTP/1.1", "host: x", f"authorization: Bearer {await world.key()}", *headers]
    head.append(f"content-length: {len(body)}")
    writer.write("\r\n".join([*head, "", ""]).encode() + body)
    await writer.drain()
    try:
        async with asyncio.timeout(5):
            entry = await anext(aiter(ledger))
    finally:
        await ledger.close()
    return Caller(reader, writer, entry.session.id)


async def ending(world: ApiWorld, session_id: str) -> Entry:
    """Return the entry with which a session ends, once it is there."""

    async def look() -> Entry | None:
        return await world.ledger.last("default", session_id)

    entry = await eventually(look, lambda found: found and found.session.state in {State.ENDING, State.ENDED})
    assert entry is not None
    return entry


@pytest.mark.parametrize("wait", ["leased", "ready"])
async def test_a_waiting_session_ends_with_its_callers_connection(world: ApiWorld, wait: str) -> None:
    """Nobody holds it yet, so it has ended at once; so it does when the connection is cut off."""
    for leave in ("hang_up", "vanish"):
        caller = await a_caller(world, wait)
        if leave == "hang_up":
            await caller.hang_up()
        else:
            caller.vanish()
        session = (await ending(world, caller.session_id)).session
        assert (session.state, session.outcome, session.reason) == ("ended", "canceled", "caller-gave-up")
        assert session.ended_by == "client"


async def test_it_ends_although_the_broker_is_away_just_then(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is there to ask again."""
    move, away = Ledger.move, 2

    async def moves(ledger: Ledger, *what: Any) -> Entry:
        nonlocal away
        away -= 1
        if away >= 0:
            raise BrokerUnavailable
        return await move(ledger, *what)

    caller = await a_caller(world, "leased")
    monkeypatch.setattr(Ledger, "move", moves)
    await caller.hang_up()
    assert (await ending(world, caller.session_id)).session.reason == "caller-gave-up"


@pytest.mark.parametrize("steps", [(LEASED,), (LEASED, Started(runner_id=RUNNER, epoch=1))])
async def test_a_session_that_is_being_started_ends_in_order(world: ApiWorld, steps: tuple[Started, ...]) -> None:
    """Its runner sees that in the ledger."""
    caller = await a_caller(world, "ready")
    await world.advance(caller.session_id, *steps)
    await caller.hang_up()
    entry = await ending(world, caller.session_id)
    assert isinstance(entry.transition, Ending)
    assert (entry.session.state, entry.session.outcome, entry.session.reason) == (
        "ending",
        "canceled",
        "caller-gave-up",
    )


async def test_with_an_idempotency_key_the_caller_may_come_back(world: ApiWorld) -> None:
    """Whoever has a key can ask again for the same session, so it stays."""
    caller = await a_caller(world, "ready", "idempotency-key: order-7")
    await caller.hang_up()
    await asyncio.sleep(0.3)
    entry = await world.ledger.last("default", caller.session_id)
    assert entry is not None
    assert entry.session.state is State.REQUESTED


async def test_whoever_has_the_answer_may_hang_up(world: ApiWorld) -> None:
    """A connection that closes behind its answer says nothing; the session goes on."""
    caller = await a_caller(world, "ready")
    await world.advance(caller.session_id, LEASED, Started(runner_id=RUNNER, epoch=1), Ready(epoch=1))
    assert b" 201 " in await asyncio.wait_for(caller.reader.readline(), 5)
    await caller.hang_up()
    await asyncio.sleep(0.3)
    entry = await world.ledger.last("default", caller.session_id)
    assert entry is not None
    assert entry.session.state is State.READY


async def test_whoever_does_not_wait_may_hang_up(world: ApiWorld) -> None:
    """A request without a wait is answered at once, read or not."""
    caller = await a_caller(world, "requested")
    await caller.hang_up()
    await asyncio.sleep(0.3)
    entry = await world.ledger.last("default", caller.session_id)
    assert entry is not None
    assert entry.session.state is State.REQUESTED
