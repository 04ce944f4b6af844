"""Which reached limits somebody is told of, and how often."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from greenroom.common import messages, subjects
from greenroom.common.lifecycle import State
from greenroom.common.notices import LimitNotice
from greenroom.common.policy import AtLimit, Limit, Scope
from greenroom.scheduler.held import Held
from greenroom.scheduler.limit_alarms import MOST_AT_ONCE, QUIET, LimitAlarms
from tests.support.scheduler_rig import Rig
from tests.support.scheduler_scenarios import play

T0 = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
CLOSED = Limit(id="none", scope=Scope.TENANT, max_sessions=0, at_limit=AtLimit.REFUSE)


def held(key: str = "a", tenant: str = "t") -> Held:
    """Return that an agent's limit holds a tenant's session back."""
    return Held(Limit(id="l", scope=Scope.AGENT, max_sessions=2), tenant, key, tenant, 2, "limit-reached")


# What is seen at each look: how long after the last one, who holds somebody back, what is used up.
looks = st.lists(
    st.tuples(st.integers(1, 400), st.sets(st.sampled_from("abc")), st.sets(st.sampled_from("abc"))), max_size=40
)


@given(looks)
def test_a_limit_is_said_when_it_holds_back_and_was_left_for_a_while(
    history: list[tuple[int, set[str], set[str]]],
) -> None:
    """And then only: a notice is the first moment of a time that goes on without five minutes of peace."""
    alarms, now = LimitAlarms(), T0
    last: dict[str, datetime] = {}
    for after_s, holding, used_up in history:
        now += after_s * SECOND
        told = {notice.key for notice in alarms.look(now, map(held, holding), {held(key).place for key in used_up})}
        going_on = {key for key, at in last.items() if now - at < QUIET}
        assert told == holding - going_on
        last |= dict.fromkeys(holding | (used_up & going_on), now)


@given(looks)
def test_two_that_look_at_the_same_say_the_same(history: list[tuple[int, set[str], set[str]]]) -> None:
    """What is said has the same id wherever and however often, and another one each time that it is news."""
    one, other, now = LimitAlarms(), LimitAlarms(), T0
    ids: list[str] = []
    for after_s, holding, used_up in history:
        now += after_s * SECOND
        places = {held(key).place for key in used_up}
        said = one.look(now, map(held, holding), places)
        assert said == other.look(now, [held(key) for key in sorted(holding) * 3], places)
        ids += [notice.id for notice in said]
    assert len(set(ids)) == len(ids)


def test_a_limit_of_many_keys_is_said_of_each_bit_by_bit() -> None:
    """What is too much for one look comes with the next; nothing is said twice, nothing left out."""
    alarms = LimitAlarms()
    everybody = [held(f"{number:04}") for number in range(2 * MOST_AT_ONCE + 1)]
    told = [alarms.look(T0 + number * SECOND, everybody, set()) for number in range(4)]
    assert [len(each) for each in told] == [MOST_AT_ONCE, MOST_AT_ONCE, 1, 0]
    assert {notice.key for each in told for notice in each} == {each.key for each in everybody}


def test_each_tenant_is_told_of_a_limit_that_all_share() -> None:
    """And of its key and its use, as whoever waits is."""
    shared = Limit(id="carrier", scope=Scope.CARRIER, max_sessions=20)
    both = [Held(shared, "*", "twilio", tenant, 20, "limit-reached") for tenant in ("t", "u")]
    told = LimitAlarms().look(T0, both, {("carrier", "*", "twilio")})
    assert [(each.tenant, each.key, each.active, each.max_sessions) for each in told] == [
        ("t", "twilio", 20, 20),
        ("u", "twilio", 20, 20),
    ]


async def said(rig: Rig) -> list[LimitNotice]:
    """Return what was said so far."""
    reader = await rig.broker.read("NOTICES", [subjects.NOTICE.wildcard()], after=0)
    found: list[LimitNotice] = []
    if await rig.broker.count("NOTICES", subjects.NOTICE.wildcard()):
        async for message in reader:
            found.append(messages.decode(message.data, LimitNotice))
            if reader.caught_up.is_set():
                break
    await reader.close()
    return found


def test_a_thousand_refusals_are_one_notice() -> None:
    """However long they take; a second burst is said when there was peace for five minutes, and not before."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.runner()
        await rig.decree(limits=(CLOSED,))
        await rig.clock.sleep(1)

        async def burst(count: int) -> None:
            for session in [await rig.request() for _ in range(count)]:
                await rig.reach(session, State.ENDED)
            await rig.clock.sleep(2)

        await burst(1000)
        (first,) = await said(rig)
        assert (first.kind, first.tenant, first.limit, first.key) == ("limit.reached", "t", "none", "t")
        assert (first.active, first.max_sessions, first.at_limit) == (0, 0, AtLimit.REFUSE)
        await burst(10)
        assert await said(rig) == [first]
        # A limit of none is reached as long as there is one: only its end lets it be left.
        await rig.decree(limits=())
        await rig.clock.sleep(QUIET.total_seconds() + 2)
        await rig.decree(limits=(CLOSED,))
        await rig.clock.sleep(1)
        await burst(10)
        assert [notice.limit for notice in await said(rig)] == ["none", "none"]

    play(scenario)


def test_whoever_waits_because_of_a_limit_is_told_of_too() -> None:
    """Also where it lets wait, and where nobody but the one asks; what waits for a slot is no limit's business."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.runner(slots=2, call_s=600.0)
        await rig.decree(limits=(Limit(id="one", scope=Scope.AGENT, max_sessions=1),))
        await rig.clock.sleep(1)
        await rig.reach(await rig.request(), State.READY)
        await rig.clock.sleep(3)
        assert await said(rig) == []
        await rig.request()
        await rig.clock.sleep(3)
        (notice,) = await said(rig)
        assert (notice.limit, notice.at_limit, notice.active, notice.reason) == ("one", "queue", 1, "limit-reached")

    play(scenario)
