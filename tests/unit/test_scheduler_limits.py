"""Limits: what they count by, what becomes of what is beyond, and rooms."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common import lifecycle
from greenroom.common.lifecycle import Ended, Outcome, Requeued, Session
from greenroom.common.policy import AtLimit, Limit, Policy, Scope
from greenroom.common.reasons import Reason
from greenroom.scheduler.actions import Lease, Refuse
from greenroom.scheduler.core import Tracked
from greenroom.scheduler.history import ENOUGH, History
from greenroom.scheduler.limits import Starts, key_of, retry_after_s
from tests.support.scheduler_builders import (
    T0,
    Decided,
    at,
    board_of,
    decide,
    fleet,
    heartbeat,
    lease,
    running,
    session,
)

ROOMY: dict[str, Any] = {"slots": 99, "standby": 99}


def limited(*limits: Limit) -> Policy:
    """Return a policy with some limits."""
    return Policy(limits=limits)


def asked(count: int, prefix: str = "s", **fields: Any) -> list[Session]:
    """Return so many sessions that wait."""
    return [session(f"{prefix}{number}", requested=number / 10, **fields) for number in range(count)]


def refused(decided: Decided) -> list[Ended]:
    """Return the ends of those that are refused."""
    return [each.transition for each in decided.actions if isinstance(each, Refuse)]


# ---------------------------------------------------------------------------- what is counted


@pytest.mark.parametrize(
    ("scope", "keys"),
    [
        (Scope.TENANT, ("t",)),
        (Scope.AGENT, ("a",)),
        (Scope.AGENT_VERSION, ("a@3",)),
        (Scope.CARRIER, ("twilio",)),
        (Scope.NUMBER, ("+1",)),
        (Scope.ACCOUNT, ("openai/main", "cartesia")),
    ],
)
def test_a_session_has_a_key_in_each_scope(scope: Scope, keys: tuple[str, ...]) -> None:
    """An account that it names twice is one."""
    accounts = ("openai/main", "cartesia", "openai/main")
    known = session("s", agent_version=3, carrier="twilio", number="+1", accounts=accounts)
    assert key_of(scope, known) == keys


def test_each_tenant_is_counted_by_itself() -> None:
    """With `*`; those at the limit hold up nobody else, and are told."""
    waiting = [*asked(3, tenant="acme"), *asked(3, "z", tenant="zen")]
    decided = decide(
        1, fleet(heartbeat(**ROOMY)), *waiting, policy=limited(Limit(id="t", scope=Scope.TENANT, max_sessions=2))
    )
    assert sorted(decided.leased_to) == ["s0", "s1", "z0", "z1"]
    assert decided.texts == ["1st of 2: tenant acme at 2/2", "2nd of 2: tenant zen at 2/2"]
    assert {each.reason for each in decided.waiting} == {Reason.TENANT_LIMIT}


def test_a_tenants_own_limit_and_that_of_all_hold_together() -> None:
    """The tighter one decides."""
    policy = limited(
        Limit(id="all", scope=Scope.TENANT, max_sessions=3),
        Limit(id="acme", scope=Scope.TENANT, tenant="acme", max_sessions=1),
    )
    waiting = [*asked(4, tenant="acme"), *asked(4, "z", tenant="zen")]
    decided = decide(1, fleet(heartbeat(**ROOMY)), *waiting, policy=policy)
    assert sorted(decided.leased_to) == ["s0", "z0", "z1", "z2"]


@pytest.mark.parametrize(
    ("scope", "field", "value"),
    [
        (Scope.ACCOUNT, "accounts", ("openai",)),
        (Scope.CARRIER, "carrier", "openai"),
        (Scope.NUMBER, "number", "openai"),
    ],
)
def test_what_tenants_share_is_counted_over_all_of_them(scope: Scope, field: str, value: Any) -> None:
    """Twenty sessions at one provider are twenty, whoever has them; of one tenant's limit only its own count."""
    waiting = [*asked(2, tenant="acme", **{field: value}), *asked(2, "z", tenant="zen", **{field: value})]
    shared = decide(1, fleet(heartbeat(**ROOMY)), *waiting, policy=limited(Limit(id="x", scope=scope, max_sessions=3)))
    assert len(shared.leased_to) == 3
    assert shared.texts == [f"1st of 1: {scope} openai at 3/3"]
    own = limited(Limit(id="x", scope=scope, tenant="acme", key="openai", max_sessions=1))
    assert sorted(decide(1, fleet(heartbeat(**ROOMY)), *waiting, policy=own).leased_to) == ["s0", "z0", "z1"]


def test_a_session_counts_for_each_of_its_accounts() -> None:
    """It needs a place at all of them, and takes none while one has none."""
    policy = limited(
        Limit(id="a", scope=Scope.ACCOUNT, key="a", max_sessions=5),
        Limit(id="b", scope=Scope.ACCOUNT, key="b", max_sessions=1),
    )
    board = board_of(fleet(heartbeat(**ROOMY)), (), policy=policy)
    for each in asked(3, accounts=("a", "b")):
        board.session_changed(Tracked(session=each, seen_at=T0))
    assert [type(each) for each in board.plan(at(1)).actions] == [Lease]
    assert [(each.limit_id, each.active, each.waiting) for each in board.usage()] == [("a", 0, 3), ("b", 0, 3)]


def test_a_limit_frees_its_next_place_at_once() -> None:
    """When a session under it ends, the next plan has the next lease."""
    held = running("x", "r1")
    policy = limited(Limit(id="t", scope=Scope.TENANT, max_sessions=1))
    board = board_of(fleet(heartbeat(held=(held,))), [Tracked(session=held, seen_at=T0)], policy=policy)
    board.session_changed(Tracked(session=session("s"), seen_at=T0))
    assert board.plan(at(1)).actions == ()
    board.forget("x")
    assert [type(each) for each in board.plan(at(1)).actions] == [Lease]
    board.policy_changed(limited(Limit(id="t", scope=Scope.TENANT, max_sessions=0)), ())
    assert board.plan(at(1)).actions == ()


# ---------------------------------------------------------------------------- refusals


def test_a_limit_may_refuse_what_is_beyond() -> None:
    """At once, by name and with its use; and when asking again may go better is worked out from how long calls take."""
    history = History()
    for _ in range(3):
        history.durations.add("default", 120.0)
    policy = limited(Limit(id="acme-20", scope=Scope.TENANT, max_sessions=4, at_limit=AtLimit.REFUSE))
    decided = decide(1, fleet(heartbeat(**ROOMY)), *asked(6, tenant="acme"), policy=policy, history=history)
    assert sorted(decided.leased_to) == ["s0", "s1", "s2", "s3"]
    ends = refused(decided)
    assert [(each.outcome, each.reason, each.retry_after_s) for each in ends] == [
        (Outcome.REJECTED, "limit-reached", 30.0)
    ] * 2
    assert ends[0].detail == "limit acme-20: tenant acme at 4/4"
    assert decided.waiting == []


def test_when_to_ask_again_is_worked_out_from_the_limits_own_sessions() -> None:
    """Ten of a key say more of it than all of the pool; fewer don't."""
    policy = limited(
        Limit(id="fax", scope=Scope.TENANT, tenant="fax", max_sessions=2, at_limit=AtLimit.REFUSE),
        Limit(id="openai", scope=Scope.ACCOUNT, key="openai", max_sessions=2, at_limit=AtLimit.REFUSE),
    )
    board = board_of(fleet(heartbeat(**ROOMY)), (), policy=policy)

    def end(count: int, after_s: float, **fields: Any) -> None:
        ended = Ended(by="runner", epoch=1, outcome=Outcome.COMPLETED, reason="goodbye")
        for number in range(count):
            over = lifecycle.apply(running(f"o{number}", "r1", **fields), ended, at(after_s))
            board.witnessed(ended, over)

    end(40, 200.0, tenant="desk", accounts=("openai",))
    end(ENOUGH - 1, 20.0, tenant="fax")
    sessions = [*asked(3, "f", tenant="fax"), *asked(3, "d", tenant="desk", accounts=("openai",))]

    def after_s() -> dict[str, float | None]:
        decided = decide(1, fleet(heartbeat(**ROOMY)), *sessions, policy=policy, history=board.history)
        return {each.session_id: each.transition.retry_after_s for each in decided.actions if isinstance(each, Refuse)}

    pool_s = board.history.mean_s("default")
    assert pool_s is not None
    assert after_s() == {"f2": pytest.approx(pool_s / 2), "d2": 100.0}
    end(1, 20.0, tenant="fax")
    assert after_s() == {"f2": 10.0, "d2": 100.0}


def test_who_waits_for_a_slot_below_a_refusing_limit_waits() -> None:
    """A limit refuses when it is reached, not when slots are short; when it is, also those who waited."""
    policy = limited(Limit(id="x", scope=Scope.TENANT, max_sessions=2, at_limit=AtLimit.REFUSE))
    few = decide(1, fleet(heartbeat(slots=1)), *asked(3), policy=policy)
    assert (len(few.leased_to), refused(few), len(few.waiting)) == (1, [], 2)
    more = decide(1, fleet(heartbeat(slots=2)), *asked(3), policy=policy)
    assert (len(more.leased_to), len(refused(more))) == (2, 1)


@pytest.mark.parametrize(
    ("mean_s", "active", "after_s"),
    [(120.0, 20, 6.0), (120.0, 0, 120.0), (1.0, 20, 1.0), (7200.0, 1, 300.0), (None, 6, 10.0)],
)
def test_when_to_ask_again_is_when_the_next_session_is_expected_to_end(
    mean_s: float | None, active: int, after_s: float
) -> None:
    """Mean length over sessions, within 1 to 300 s; a minute a call while nothing is known."""
    assert retry_after_s(mean_s, active) == after_s


# ---------------------------------------------------------------------------- starts per second


def test_starts_beyond_the_rate_wait_for_the_next_token() -> None:
    """One second's worth at once; each token comes back a second after it was taken. They wait even if it refuses."""
    limit = Limit(id="r", scope=Scope.TENANT, max_starts_per_s=2, at_limit=AtLimit.REFUSE)
    board = board_of(fleet(heartbeat(**ROOMY)), (), policy=limited(limit))
    waiting = {each.id: each for each in asked(5)}
    for each in waiting.values():
        board.session_changed(Tracked(session=each, seen_at=T0))
    leased: list[tuple[float, str]] = []
    for tenth in range(30):
        for action in board.plan(at(1 + tenth / 10)).actions:
            assert isinstance(action, Lease)
            leased.append((tenth / 10, action.session_id))
            after = running(action.session_id, "r1", requested=1 + tenth / 10)
            board.session_changed(Tracked(session=after, seen_at=T0))
        if tenth == 0:
            row = board.outlook().waiting()[0]
            assert row.reason is Reason.STARTS_LIMIT
            assert str(row) == "1st of 3: tenant t starts as fast as it may, 2/s; next slot expected in ~1 s"
    assert leased == [(0.0, "s0"), (0.0, "s1"), (1.0, "s2"), (1.0, "s3"), (2.0, "s4")]


def test_a_start_counts_although_its_session_is_over() -> None:
    """Whoever ends at once, or is put back into the queue, has started all the same."""
    policy = limited(Limit(id="r", scope=Scope.TENANT, max_starts_per_s=1))
    for after in (None, session("x", lease("r1"), Requeued(epoch=1, reason="no-free-slot"), requested=1)):
        granted = session("x", lease("r1"), requested=1)
        board = board_of(fleet(heartbeat()), [Tracked(session=granted, seen_at=T0)], policy=policy)
        board.session_changed(Tracked(session=session("s"), seen_at=T0))
        if after is None:
            board.forget("x")
        else:
            board.session_changed(Tracked(session=after, seen_at=T0))
        assert board.plan(at(1.9)).actions == ()
        assert len(board.plan(at(2)).actions) == 1


def test_a_lease_that_was_never_written_is_no_start() -> None:
    """And one that was is counted from when it was written, not from when it was about to be."""
    policy = limited(Limit(id="r", scope=Scope.TENANT, max_starts_per_s=1))
    board = board_of(fleet(heartbeat()), (), policy=policy)
    under_way = session("x", lease("r1"), requested=1)
    board.session_changed(Tracked(session=under_way, seen_at=T0, busy=True))
    board.session_changed(Tracked(session=session("x", requested=1), seen_at=T0))
    assert len(board.plan(at(1)).actions) == 1
    board.session_changed(Tracked(session=under_way, seen_at=T0, busy=True))
    written = msgspec.structs.replace(under_way, leased_at=at(1.5))
    board.session_changed(Tracked(session=written, seen_at=T0, asked=True))
    board.session_changed(Tracked(session=session("s"), seen_at=T0))
    assert board.plan(at(2.4)).actions == ()
    assert len(board.plan(at(2.5)).actions) == 1


@given(st.permutations([(number / 4, (f"s{number}", 1)) for number in range(8)]), st.sampled_from([0.5, 1.0, 2.0, 3.7]))
def test_what_is_left_of_a_rate_does_not_depend_on_the_order_of_learning(
    leases: list[tuple[float, tuple[str, int]]], per_s: float
) -> None:
    """As many tokens are out as leases were granted within the window, whichever was heard of first."""
    starts = Starts(per_s)
    for seconds, hold in leases:
        starts.put(hold, at(0))
        starts.put(hold, at(seconds))
    starts.discard(("s7", 1))
    for now in (0.9, 1.5, 3.0):
        window = starts.window / timedelta(seconds=1)
        assert starts.taken(at(now)) == sum(abs(now - seconds) < window for seconds, hold in leases if hold[0] != "s7")


# ---------------------------------------------------------------------------- rooms


def test_a_room_has_one_session_at_a_time() -> None:
    """Of two that wait the first has it, although it isn't placed yet; the other is refused and may ask again."""
    first, second = session("a", room="lobby"), session("b", room="lobby", requested=0.5)
    others = [session("c", room="hall"), session("d", room="lobby", tenant="other")]
    decided = decide(1, fleet(heartbeat(slots=0)), second, first, *others)
    (end,) = refused(decided)
    assert (end.outcome, end.reason) == (Outcome.REJECTED, "room-busy")
    assert end.detail == "room lobby has session a, which is requested"
    assert len(decided.waiting) == 3


def test_a_room_at_a_provider_has_one_session_whichever_tenant_brings_it() -> None:
    """Whatever else a request calls it; and the second tenant isn't told whose or which session that is."""
    brought = {"room": "standup", "room_url": "https://acme.daily.co/standup"}
    url = brought["room_url"]
    first = session("a", tenant="acme", room=url, transport_info=brought)
    others = [
        session("b", tenant="other", room=url, transport_info=brought, requested=0.5),
        session("c", tenant="other", room="called otherwise", transport_info=brought, requested=0.6),
    ]
    decided = decide(1, fleet(heartbeat()), first, *others)
    assert decided.leased_to == {"a": "r1"}
    refused = [each for each in decided.actions if isinstance(each, Refuse)]
    assert [(each.session_id, each.transition.reason) for each in refused] == [("b", "room-busy"), ("c", "room-busy")]
    assert refused[0].transition.detail == f"room {url} has a session of another tenant"
    assert refused[0].why.inputs == {"room": url}


def test_a_room_that_is_only_said_to_be_one_holds_no_other_tenant_up() -> None:
    """Else anybody could keep a tenant out of its rooms by naming them; nor do tenants without rooms meet."""
    url = "https://acme.daily.co/standup"
    said = [session("a", tenant="other", room=url), session("b", tenant="acme", room=url, requested=0.5)]
    none = [session("c", tenant="acme"), session("d", tenant="other")]
    assert len(decide(1, fleet(heartbeat()), *said, *none).leased_to) == 4


def test_a_room_at_a_provider_is_free_again_when_its_session_has_ended() -> None:
    """For every tenant."""
    brought = {"room_url": "https://acme.daily.co/standup"}
    held = running("x", "r1", tenant="acme", room="a", transport_info=brought)
    waits = session("y", tenant="other", room="b", transport_info=brought, requested=1)
    board = board_of(fleet(heartbeat(held=(held,))), [Tracked(session=held, seen_at=T0)])
    board.forget("x")
    board.session_changed(Tracked(session=waits, seen_at=T0))
    (found,) = board.plan(at(2)).actions
    assert isinstance(found, Lease)


def test_a_room_is_free_again_when_its_session_has_ended() -> None:
    """Until then whoever wants it is refused, whenever he asked."""
    held = running("x", "r1", room="lobby", requested=5)
    board = board_of(fleet(heartbeat(held=(held,))), [Tracked(session=held, seen_at=T0)])
    board.session_changed(Tracked(session=session("a", room="lobby"), seen_at=T0))
    assert [type(each) for each in board.plan(at(5)).actions] == [Refuse]
    board.forget("x")
    assert [type(each) for each in board.plan(at(5)).actions] == [Lease]
