"""What is due by rules and holds: examples, and what is true of any of them."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common.retention import EACH, Hold, Kept, Rule, What, due, held, horizon, rule_of

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
NAMES = ("a", "b")
DAY = timedelta(days=1)

days = st.none() | st.integers(0, 10)
whose = st.sampled_from((*NAMES, EACH))
rules = st.lists(
    st.builds(Rule, tenant=whose, agent=whose, recordings_days=days, events_days=days, sessions_days=days),
    max_size=9,
    unique_by=lambda rule: (rule.tenant, rule.agent),
)
holds = st.lists(st.builds(Hold, tenant=whose, agent=whose), max_size=2)
ages = st.timedeltas(timedelta(0), 12 * DAY) | st.integers(0, 12).map(lambda number: number * DAY)
sessions = st.builds(
    Kept,
    session_id=st.just("s"),
    tenant=st.sampled_from(NAMES),
    agent=st.sampled_from(NAMES),
    ended_at=ages.map(lambda age: NOW - age),
    held=st.booleans(),
    recording=st.booleans(),
    events=st.booleans(),
)


def kept(old_days: float, **fields: bool) -> Kept:
    """Return a session of tenant and agent `a` that ended so many days ago."""
    return Kept(session_id="s", tenant="a", agent="a", ended_at=NOW - old_days * DAY, **fields)


@given(sessions, rules, holds)
def test_a_hold_always_wins(session: Kept, given_rules: list[Rule], given_holds: list[Hold]) -> None:
    """Of what is held nothing is due, whether the session is, its tenant, its agent or all."""
    concerned = session.held or any(
        hold.tenant in (session.tenant, EACH) and hold.agent in (session.agent, EACH) for hold in given_holds
    )
    assert held(session, given_holds) == concerned
    if concerned:
        assert due(session, given_rules, given_holds, NOW) == ()


@given(sessions, rules, holds)
def test_nothing_younger_than_its_rule_is_due(session: Kept, given_rules: list[Rule], given_holds: list[Hold]) -> None:
    """What is due ended at least as long ago as the rule says, and is what there is."""
    rule = rule_of(given_rules, session.tenant, session.agent)
    for what in due(session, given_rules, given_holds, NOW):
        assert rule is not None
        limit = rule.days(what)
        assert limit is not None
        assert NOW - session.ended_at >= timedelta(days=limit)
        assert {What.RECORDING: session.recording, What.EVENTS: session.events}.get(what, True)


@given(sessions, rules)
def test_what_is_old_enough_and_not_held_is_due(session: Kept, given_rules: list[Rule]) -> None:
    """Nothing stays behind: what the rule's time is over for is due, or the whole session is."""
    free = msgspec.structs.replace(session, held=False, recording=True, events=True)
    rule = rule_of(given_rules, free.tenant, free.agent)
    found = due(free, given_rules, (), NOW)
    for what in What:
        limit = rule.days(what) if rule is not None else None
        over = limit is not None and NOW - free.ended_at >= timedelta(days=limit)
        assert (what in found) == (over and (what is What.SESSION or What.SESSION not in found))


@given(sessions, rules, st.randoms())
def test_the_most_specific_rule_wins(session: Kept, given_rules: list[Rule], random: object) -> None:
    """Rules are tried from the tenant's agent to all, in whatever order they stand; the first is all that counts."""
    by_whose = {(rule.tenant, rule.agent): rule for rule in given_rules}
    order = ((session.tenant, session.agent), (session.tenant, EACH), (EACH, session.agent), (EACH, EACH))
    expected = next((by_whose[each] for each in order if each in by_whose), None)
    shuffled = sorted(given_rules, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert rule_of(shuffled, session.tenant, session.agent) == expected
    alone = (expected,) if expected is not None else ()
    assert due(session, shuffled, (), NOW) == due(session, alone, (), NOW)


@given(sessions, rules, holds)
def test_nothing_behind_the_horizon_is_due(session: Kept, given_rules: list[Rule], given_holds: list[Hold]) -> None:
    """Whoever looks only at what ended before the horizon misses nothing."""
    if due(session, given_rules, given_holds, NOW):
        until = horizon(given_rules, NOW)
        assert until is not None
        assert session.ended_at <= until


@pytest.mark.parametrize(
    ("old_days", "expected"),
    [
        (29.99, ()),
        (30, (What.RECORDING,)),
        (90, (What.RECORDING, What.EVENTS)),
        (365, (What.SESSION,)),
    ],
)
def test_parts_go_one_after_the_other(old_days: float, expected: tuple[What, ...]) -> None:
    """Recordings and events go by times of their own, and the session takes with it what is left."""
    rule = Rule(recordings_days=30, events_days=90, sessions_days=365)
    assert due(kept(old_days), [rule], [], NOW) == expected


def test_a_specific_rule_keeps_for_ever() -> None:
    """A rule without days keeps what a general one would delete."""
    assert due(kept(1000), [Rule(sessions_days=1), Rule(tenant="a", agent="a")], [], NOW) == ()


def test_without_rules_nothing_is_due() -> None:
    """A fresh installation deletes nothing."""
    assert due(kept(100_000), [], [], NOW) == ()
    assert horizon([], NOW) is None
