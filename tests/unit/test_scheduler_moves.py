"""Sessions that go to another room: what the leading scheduler decides, on a memory broker and in virtual time."""

import asyncio

import pytest

from greenroom.common import messages, subjects
from greenroom.common.broker import NoResponder, RequestTimeout
from greenroom.common.errors import BrokerUnavailable
from greenroom.common.lifecycle import Limits, Moved, Moving, OnLoss, Session, State, Stayed
from greenroom.common.move_messages import MoveAnswer, MoveQuery, MoveRefused, RoomKept
from tests.support.scheduler_rig import Rig
from tests.support.scheduler_scenarios import play


async def _ask(rig: Rig, session: Session, room: str, move_id: str = "m-1", tenant: str = "t") -> MoveAnswer:
    """Ask the leader to keep a room for a session."""
    info = {"room_url": room}
    query = MoveQuery(session_id=session.id, tenant=tenant, id=move_id, room=room, transport_info=info)
    subject = subjects.REQUEST.format(service="scheduler", name="move")
    reply = await rig.broker.request(subject, messages.encode(query), timeout_s=5)
    return messages.decode(reply.data, MoveAnswer)  # pyright: ignore[reportArgumentType]


async def _ready(rig: Rig, room: str | None = None, tenant: str = "t", on_loss: OnLoss = OnLoss.ALWAYS) -> Session:
    info = {"room_url": room} if room is not None else {}
    session = await rig.request(room=room, transport_info=info, tenant=tenant, on_loss=on_loss)
    return await rig.reach(session, State.READY)


def test_a_free_room_is_kept_for_who_asks_for_it_first() -> None:
    """Of two that ask at once one has it, and the ledger says so before it is answered; the other stays."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.runner()
        one, two = await _ready(rig, "lobby"), await _ready(rig, "attic")
        first, second = await asyncio.gather(_ask(rig, one, "hall", "m-1"), _ask(rig, two, "hall", "m-2"))
        assert first == RoomKept(id="m-1")
        assert second == MoveRefused(code="room-busy", detail=f"room hall has session {one.id}")
        moving = (await rig.now(one)).moving
        assert moving is not None
        assert (moving.id, moving.room, moving.transport_info) == ("m-1", "hall", {"room_url": "hall"})
        assert (await rig.now(two)).moving is None

    play(scenario)


def test_a_room_that_somebody_goes_to_is_taken_for_who_would_start_there_and_so_is_the_one_he_leaves() -> None:
    """Until it is known in which of the two he is; then the other one is free."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.runner()
        one = await _ready(rig, "lobby")
        await _ask(rig, one, "hall")
        for room in ("lobby", "hall"):
            refused = await rig.reach(await rig.request(room=room), State.ENDED)
            assert (refused.reason, refused.detail) == (
                "room-busy",
                f"room {room} has session {one.id}, which is ready",
            )
        await rig.ledger.move(one.tenant, one.id, lambda now: Moved(epoch=now.epoch, id="m-1"))
        await rig.reach(await rig.request(room="lobby"), State.READY)
        assert (await rig.reach(await rig.request(room="hall"), State.ENDED)).reason == "room-busy"

    play(scenario)


def test_who_has_stayed_has_one_room_again() -> None:
    """The room that he didn't get into is anybody's; he may ask for another one, or for the same."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.runner()
        one = await _ready(rig, "lobby")
        await _ask(rig, one, "hall")
        assert await _ask(rig, one, "attic", "m-2") == MoveRefused(code="session-moves")
        await rig.ledger.move(one.tenant, one.id, lambda now: Stayed(epoch=now.epoch, id="m-1"))
        other = await rig.reach(await rig.request(room="hall"), State.READY)
        await rig.until(lambda: _answers(rig, one, "attic", "m-3"))
        assert (await _ask(rig, one, "hall", "m-3")) == RoomKept(id="m-3"), "the same move again"
        assert other.room == "hall"

    async def _answers(rig: Rig, session: Session, room: str, move_id: str) -> bool:
        return isinstance(await _ask(rig, session, room, move_id), RoomKept)

    play(scenario)


def test_a_session_that_waits_for_a_slot_has_its_room() -> None:
    """It was asked for before; and a room of another tenant's is busy without a word of whose it is."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.runner(slots=1)
        one = await _ready(rig, "lobby")
        waits = await rig.request(room="hall", limits=Limits(queue_timeout_s=600))
        strange = await rig.request(
            room="x", transport_info={"room_url": "theirs"}, tenant="zen", limits=Limits(queue_timeout_s=600)
        )
        await rig.clock.sleep(1)
        refused = await _ask(rig, one, "hall")
        assert refused == MoveRefused(code="room-busy", detail=f"room hall has session {waits.id}")
        refused = await _ask(rig, one, "theirs")
        assert refused == MoveRefused(code="room-busy", detail="room theirs has a session of another tenant")
        assert strange.state is State.REQUESTED

    play(scenario)


def test_only_who_is_ready_goes_anywhere() -> None:
    """Not who has ended, and nobody at another tenant's word."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        runner = await rig.runner()
        one = await _ready(rig, "lobby")
        assert await _ask(rig, one, "hall", tenant="zen") == MoveRefused(
            code="session-not-live", detail="It has ended."
        )
        await rig.stop(one)
        await rig.clock.sleep(0.1)
        assert await _ask(rig, one, "hall") == MoveRefused(code="session-not-live", detail="It is ending.")
        await runner.end(one.id)
        await rig.clock.sleep(0.1)
        assert await _ask(rig, one, "hall") == MoveRefused(code="session-not-live", detail="It has ended.")

    play(scenario)


def test_another_leader_knows_who_is_on_his_way() -> None:
    """What was granted is in the ledger, which is what it knows; the same move is granted by it again."""

    async def scenario(rig: Rig) -> None:
        leader = rig.scheduler("one")
        await rig.runner()
        one, two = await _ready(rig, "lobby"), await _ready(rig, "attic")
        await _ask(rig, one, "hall")
        await leader.crash()
        rig.scheduler("two")
        await rig.until(lambda: _leads(rig))
        assert await _ask(rig, one, "hall") == RoomKept(id="m-1")
        assert isinstance(await _ask(rig, two, "hall", "m-2"), MoveRefused)
        assert isinstance(await _ask(rig, two, "lobby", "m-3"), MoveRefused)

    async def _leads(rig: Rig) -> bool:
        try:
            await rig.pools()
        except (NoResponder, RequestTimeout):
            return False
        return True

    play(scenario)


def test_a_session_whose_runner_is_lost_on_the_way_begins_where_the_ledger_says() -> None:
    """On another runner, in the room that it hadn't left for good; the other one is free."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        first = await rig.runner("r1")
        one = await _ready(rig, "lobby")
        await _ask(rig, one, "hall")
        await first.kill()
        second = await rig.runner("r2")
        await rig.until(lambda: _begun(one, second.started))
        now = await rig.reach(one, State.READY)
        assert (now.room, now.transport_info, now.moving, now.epoch) == ("lobby", {"room_url": "lobby"}, None, 2)
        await rig.reach(await rig.request(room="hall"), State.READY)

    async def _begun(session: Session, started: list[tuple[str, int]]) -> bool:
        return any(session_id == session.id for session_id, _ in started)

    play(scenario)


def test_a_claim_that_may_have_been_written_keeps_the_room_until_that_is_known() -> None:
    """While the ledger can't be asked nobody else gets it; once it can, it says whose it is."""

    async def scenario(rig: Rig) -> None:
        running = rig.scheduler()
        await rig.runner()
        one, two = await _ready(rig, "lobby"), await _ready(rig, "attic")
        append = running.broker.append

        async def lost(subject: str, data: bytes, **options: object) -> int:
            await append(subject, data, **options)  # pyright: ignore[reportArgumentType]
            running.broker.append = append
            raise BrokerUnavailable("the acknowledgement is lost")

        running.broker.append = lost
        assert await _ask(rig, one, "hall") == RoomKept(id="m-1")
        assert isinstance(await _ask(rig, two, "hall", "m-2"), MoveRefused)
        entries = [each for each in await rig.history(one) if isinstance(each.transition, Moving)]
        assert len(entries) == 1

    play(scenario)


@pytest.mark.parametrize("room", ["lobby", "hall"])
def test_nobody_is_in_his_own_way(room: str) -> None:
    """A session may ask for the room that it is in: it is the only one that has it."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.runner()
        one = await _ready(rig, "lobby")
        assert await _ask(rig, one, room) == RoomKept(id="m-1")

    play(scenario)
