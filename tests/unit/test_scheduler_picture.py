"""What the scheduler knows, whatever order it learns it in."""

import pytest

from greenroom.common import lifecycle
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Ended, Outcome, Requeued, Session, Started, State, Transition
from greenroom.common.messages import BotOffer
from greenroom.scheduler.picture import Picture
from tests.support.scheduler_builders import T0, at, heartbeat, lease, session


def entry(known: Session, revision: int, transition: Transition | None = None) -> Entry:
    """Return a ledger entry with a session as it is."""
    return Entry(session=known, transition=transition or lease("r1"), at=T0, revision=revision)


REQUESTED = session("s")
LEASED = lifecycle.apply(REQUESTED, lease("r1"), T0)
STARTED = lifecycle.apply(LEASED, Started(runner_id="r1", epoch=1), T0)
ENDED = lifecycle.apply(STARTED, Ended(by="runner", epoch=1, outcome=Outcome.COMPLETED, reason="goodbye"), T0)


def shown(picture: Picture) -> list[tuple[str, State, bool]]:
    """Return which sessions the picture shows, in which state, and whether they are busy."""
    return [(each.session.id, each.session.state, each.busy) for each in picture.sessions]


def test_what_was_written_shows_before_its_echo_and_the_echo_changes_nothing() -> None:
    """The next plan needn't wait for the watch."""
    picture = Picture()
    assert picture.watched(entry(REQUESTED, 1), T0)
    picture.fold(entry(LEASED, 2), at(1))
    assert shown(picture) == [("s", State.LEASED, False)]
    assert not picture.watched(entry(LEASED, 2), at(2))
    assert [each.seen_at for each in picture.sessions] == [at(1)]


def test_an_answer_that_comes_after_what_followed_it_is_old_news() -> None:
    """Acknowledgements and echoes travel separately: a session that has ended meanwhile doesn't come back."""
    picture = Picture()
    picture.watched(entry(REQUESTED, 1), T0)
    for revision, known in enumerate((LEASED, STARTED, ENDED), start=2):
        picture.watched(entry(known, revision), T0)
    assert not picture.fold(entry(LEASED, 2), T0)
    assert shown(picture) == []


def test_a_lease_under_way_has_its_slot_already_and_gives_it_back() -> None:
    """Planned with as it will be; if it comes to nothing the session is as it was."""
    picture = Picture()
    picture.watched(entry(REQUESTED, 1), T0)
    assert picture.begin("s", LEASED) == entry(REQUESTED, 1)
    assert shown(picture) == [("s", State.LEASED, True)]
    picture.finish("s")
    assert shown(picture) == [("s", State.REQUESTED, False)]


def test_what_others_write_meanwhile_shows_and_the_session_stays_busy() -> None:
    """One action at a time, even on a session that has moved on under it."""
    picture = Picture()
    picture.watched(entry(REQUESTED, 1), T0)
    picture.begin("s", LEASED)
    picture.watched(entry(STARTED, 3), T0)
    assert shown(picture) == [("s", State.STARTED, True)]
    picture.finish("s")
    assert shown(picture) == [("s", State.STARTED, False)]
    picture.watched(entry(ENDED, 4), T0)
    picture.finish("s")
    assert shown(picture) == []
    assert picture.begin("s") is None


def test_that_a_runner_was_asked_holds_for_one_lease() -> None:
    """The next lease has to be asked for anew."""
    picture = Picture()
    picture.watched(entry(LEASED, 2), T0)
    picture.asked(LEASED)
    assert [each.asked for each in picture.sessions] == [True]
    requeued = lifecycle.apply(LEASED, Requeued(epoch=1, reason="lease-expired"), T0)
    picture.watched(entry(requeued, 3), T0)
    picture.watched(entry(lifecycle.apply(requeued, lease("r1", epoch=2), T0), 4), T0)
    assert [each.asked for each in picture.sessions] == [False]


def test_a_picture_of_one_pool_shows_nothing_of_others() -> None:
    """Its scheduler has no say in them."""
    picture = Picture(pool="gpu")
    assert not picture.watched(entry(REQUESTED, 1), T0)
    assert picture.watched(entry(session("g", pool="gpu"), 2), T0)
    assert not picture.heard(heartbeat("r1"), T0)
    assert picture.heard(heartbeat("r2", pool="gpu"), T0)
    assert [each.session.id for each in picture.sessions] == ["g"]
    assert list(picture.fleet.runners) == [("gpu", "r2")]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, False),
        ({"slots": 5}, True),
        ({"standby": 0}, True),
        ({"draining": True}, True),
        ({"bots": (BotOffer(name="other"),)}, True),
        ({"held": (STARTED,)}, True),
    ],
)
def test_a_heartbeat_that_says_nothing_new_wakes_nobody(changed: dict[str, object], told: bool) -> None:  # noqa: FBT001
    """A thousand runners at rest cause no plans."""
    picture = Picture()
    assert picture.heard(heartbeat("r1"), T0)
    fields: dict[str, object] = {"seq": 2} | changed
    assert picture.heard(heartbeat("r1", **fields), at(1)) is told  # pyright: ignore[reportArgumentType]


def test_a_runner_that_had_no_slot_may_be_asked_again_after_its_next_heartbeat() -> None:
    """That it can be is news."""
    picture = Picture()
    picture.heard(heartbeat("r1"), T0)
    picture.closed(("default", "r1"))
    assert picture.heard(heartbeat("r1", seq=2), at(1))
