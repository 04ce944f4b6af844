"""What a runner has been told, and what follows."""

from hypothesis import given
from hypothesis import strategies as st

from greenroom.common.messages import BotOffer, Drain, Resume, SetStandby
from greenroom.runner.orders import MAX_STANDBY, Orders, obey, stop

OLD, NEW = BotOffer(name="desk", version=1), BotOffer(name="echo", version=2)
NEWER = BotOffer(name="echo", version=3)


def told(*orders: Drain | Resume | SetStandby, now: float = 0.0) -> Orders:
    """Return what holds after some orders."""
    holds = Orders()
    for order in orders:
        holds, done = obey(holds, order, now)
        assert done.done
    return holds


def test_a_drain_is_taken_back() -> None:
    """After `resume` everything is offered again, whatever was drained before."""
    assert told(Drain()).drains([OLD, NEW])
    assert not told(Drain(), Drain(agent_version=1), Resume()).drains([OLD, NEW])


def test_a_version_is_withdrawn() -> None:
    """Bots of that version aren't offered, the others are; a runner that has no others drains as a whole."""
    orders = told(Drain(agent_version=1))
    assert orders.offers([OLD, NEW]) == (NEW,)
    assert not orders.drains([OLD, NEW])
    assert orders.drains([OLD])
    assert not orders.drains([])


def test_a_bot_is_withdrawn() -> None:
    """In all its versions, or in one of them, which others may have as well."""
    everything = [OLD, NEW, NEWER]
    assert told(Drain(bot="echo")).offers(everything) == (OLD,)
    assert told(Drain(bot="echo", agent_version=2)).offers(everything) == (OLD, NEWER)
    assert told(Drain(bot="desk", agent_version=2)).offers(everything) == (OLD, NEW, NEWER)
    assert told(Drain(bot="echo", agent_version=2), Drain(bot="echo", agent_version=3)).offers(everything) == (OLD,)
    assert told(Drain(bot="echo"), Drain(agent_version=1)).drains(everything)


def test_a_runner_that_stops_goes_on_to_stop() -> None:
    """No order takes a stop back, and who tries is told."""
    orders, done = obey(stop(Orders()), Resume(), 0.0)
    assert orders.drains([OLD])
    assert (done.done, done.detail) == (False, "the runner is being stopped")


def test_the_target_of_waiting_processes_holds_for_its_time() -> None:
    """It is followed within the runner's bounds, and the runner's own holds again when nobody repeats it."""
    orders = told(SetStandby(target=10, for_s=60), now=100.0)
    assert orders.standby_target(4, most=24, now=159.0) == 10
    assert orders.standby_target(4, most=6, now=159.0) == 6
    assert orders.standby_target(4, most=24, now=160.0) == 4
    assert told(SetStandby(target=1000)).standby_target(4, most=512, now=1.0) == MAX_STANDBY


def test_a_senseless_target_is_refused() -> None:
    """It changes nothing, and says what it would have to be."""
    for order in (SetStandby(target=-1), SetStandby(target=1, for_s=0), SetStandby(target=1, for_s=1e9)):
        orders, done = obey(Orders(), order, 0.0)
        assert orders == Orders()
        assert not done.done


ORDERS = st.one_of(
    st.builds(Drain, agent_version=st.none() | st.integers(1, 3), bot=st.sampled_from([None, "desk", "echo", "none"])),
    st.builds(Resume),
    st.builds(SetStandby, target=st.integers(-5, 200), for_s=st.floats(-1, 1000)),
)


@given(st.lists(st.tuples(ORDERS, st.floats(0, 100)), max_size=30), st.integers(0, 64), st.integers(0, 512))
def test_whatever_is_told_the_bounds_hold(
    history: list[tuple[Drain | Resume | SetStandby, float]], own: int, most: int
) -> None:
    """The target is never beyond the slots, and a runner drains exactly if it was told to since the last resume."""
    holds, now, drained, withdrawn = Orders(), 0.0, False, set[BotOffer]()
    for order, passes in history:
        now += passes
        holds, _ = obey(holds, order, now)
        match order:
            case Drain(agent_version=None, bot=None):
                drained = True
            case Drain():
                withdrawn |= {
                    offer
                    for offer in (OLD, NEW)
                    if order.bot in (None, offer.name) and order.agent_version in (None, offer.version)
                }
            case Resume():
                drained = False
                withdrawn.clear()
            case SetStandby():
                pass
        assert 0 <= holds.standby_target(own, most=most, now=now) <= min(most, MAX_STANDBY)
        assert holds.drains([OLD, NEW]) == (drained or withdrawn == {OLD, NEW})
