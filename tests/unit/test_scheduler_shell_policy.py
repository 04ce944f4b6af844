"""What operators decide: the shell on a memory broker."""

from datetime import datetime
from typing import Any

import pytest

from greenroom.common import lifecycle, messages, subjects
from greenroom.common.ledger import Entry
from greenroom.common.lifecycle import Ended, Limits, Outcome, Priority, Session, State
from greenroom.common.messages import BotOffer
from greenroom.common.policy import AtLimit, Limit, RolledBack, Rollout, Scope, Verdicts
from greenroom.scheduler.picture import Picture
from tests.support import scheduler_builders as builders
from tests.support.scheduler_builders import T0, lease
from tests.support.scheduler_rig import Rig
from tests.support.scheduler_scenarios import play, refusing

PATIENT = Limits(queue_timeout_s=900)
TWO = Limit(id="two", scope=Scope.TENANT, max_sessions=2)
CURRENT, VERDICTS = subjects.POLICY.format(name="current"), subjects.POLICY.format(name="verdicts")

# No runner can be in this pool.
RESERVED = (
    b'{"revision": 9, "reservations": [{"id": "r", "pool": "a.b", "warm": 1, '
    b'"starts_at": "2026-01-01T00:00:00Z", "ends_at": "2027-01-01T00:00:00Z"}]}'
)


async def active(rig: Rig, sessions: list[Session]) -> int:
    """Return how many sessions have a lease or run."""
    now = [await rig.now(session) for session in sessions]
    return sum(each.state not in {State.REQUESTED, State.ENDED} for each in now)


# ---------------------------------------------------------------------------- the policy


def test_a_limit_holds_from_the_moment_that_it_is_published() -> None:
    """Well within two seconds: what comes after it is counted by it, and what waited for it goes on without it."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.runner(slots=20)
        await rig.clock.sleep(1)
        await rig.decree(limits=(TWO,))
        await rig.clock.sleep(0.1)
        sessions = [await rig.request(limits=PATIENT) for _ in range(5)]
        await rig.clock.sleep(1)
        assert await active(rig, sessions) == 2
        assert (await rig.position(sessions[4].id)).reason == "3rd of 3: tenant t at 2/2"
        assert [(each.limit_id, each.active, each.waiting) for each in (await rig.pools()).usage] == [("two", 2, 3)]
        await rig.decree(limits=(Limit(id="two", scope=Scope.TENANT, max_sessions=4),))
        await rig.clock.sleep(0.1)
        assert await active(rig, sessions) == 4
        await rig.decree()
        await rig.clock.sleep(0.1)
        assert await active(rig, sessions) == 5
        assert (await rig.pools()).policy_revision == 3

    play(scenario)


def test_a_scheduler_that_starts_knows_the_limits_before_it_places_anybody() -> None:
    """Sessions that were there first don't slip in beyond one."""

    async def scenario(rig: Rig) -> None:
        await rig.decree(limits=(TWO,))
        sessions = [await rig.request(limits=PATIENT) for _ in range(10)]
        rig.scheduler()
        runner = await rig.runner(slots=20)
        await rig.clock.sleep(3)
        assert await active(rig, sessions) == runner.most == 2

    play(scenario)


@pytest.mark.parametrize("clean", [True, False], ids=["stopped", "crashed"])
def test_a_new_leader_lets_nobody_beyond_a_limit(clean: bool) -> None:  # noqa: FBT001
    """It counts what the former one let in, and what comes and goes while nobody leads."""

    async def scenario(rig: Rig) -> None:
        await rig.decree(limits=(TWO,))
        first = rig.scheduler("one")
        await rig.clock.sleep(1)
        rig.scheduler("two")
        runner = await rig.runner(slots=20, call_s=3.0)
        sessions = [await rig.request(limits=PATIENT) for _ in range(10)]
        await rig.clock.sleep(1)
        await (first.stop() if clean else first.crash())
        for session in sessions:
            await rig.reach(session, State.ENDED)
        assert runner.most == 2

    play(scenario)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"{",
        b'{"limits": [{"id": "x", "scope": "nothing"}]}',
        b'{"revision": 9, "pools": [{"name": "two words"}]}',
        RESERVED,
    ],
    ids=["no JSON", "unknown scope", "impossible pool", "impossible pool of a reservation"],
)
def test_a_policy_that_is_none_leaves_the_last_one_in_force(nonsense: bytes) -> None:
    """No policy would be no limits; and the scheduler lives on."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.runner(slots=20)
        await rig.decree(limits=(TWO,))
        await rig.clock.sleep(1)
        await rig.broker.append(CURRENT, nonsense)
        await rig.clock.sleep(0.5)
        sessions = [await rig.request(limits=PATIENT) for _ in range(5)]
        await rig.clock.sleep(10)
        assert await active(rig, sessions) == 2
        assert (await rig.pools()).policy_revision == 1

    play(scenario)


def test_a_limit_that_refuses_says_when_to_come_again() -> None:
    """From how long calls take: of two that take ten seconds each, one ends within some five."""

    async def scenario(rig: Rig) -> None:
        running = rig.scheduler()
        await rig.runner(slots=20, call_s=10.0)
        await rig.decree(limits=(Limit(id="two", scope=Scope.TENANT, max_sessions=2, at_limit=AtLimit.REFUSE),))
        await rig.clock.sleep(1)
        await rig.reach(await rig.request(), State.ENDED)
        sessions = [await rig.request() for _ in range(4)]
        await rig.clock.sleep(0.5)
        for session in sessions[2:]:
            refused = await rig.now(session)
            assert (refused.outcome, refused.reason, refused.ended_by) == (
                Outcome.REJECTED,
                "limit-reached",
                "scheduler",
            )
            assert refused.detail == "limit two: tenant t at 2/2"
            assert refused.retry_after_s == pytest.approx(5.0, abs=1.0)
            assert await rig.decided(session) == ["refuse limit-reached"]
            (refusal,) = await rig.decisions(session)
            assert refusal.inputs["limits"] == {"two t": "2/2"}
            assert refusal.policy_revision == 1
        assert await active(rig, sessions) == 2
        assert running.counters.ended.value(outcome="rejected", reason="limit-reached") == 2

    play(scenario)


def test_what_is_refused_counts_once_among_the_arrivals() -> None:
    """The scheduler writes the end itself and reads it again: that's one caller all the same."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await rig.decree(limits=(Limit(id="none", scope=Scope.TENANT, max_sessions=0, at_limit=AtLimit.REFUSE),))
        await rig.runner()
        await rig.clock.sleep(2)
        for _ in range(6):
            await rig.reach(await rig.request(), State.ENDED)
        await rig.clock.sleep(1.5)
        # Six in the fast counter are 0.6/s less two standard deviations of it.
        assert (await rig.pool()).arrivals_per_s == pytest.approx(0.25 * 0.85, abs=0.06)

    play(scenario)


def test_a_room_has_one_session() -> None:
    """The second is refused at once, and may come when the first has ended."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        runner = await rig.runner()
        first = await rig.request(room="daily")
        await rig.reach(first, State.READY)
        second = await rig.request(room="daily")
        refused = await rig.reach(second, State.ENDED, within_s=1)
        assert (refused.outcome, refused.reason) == (Outcome.REJECTED, "room-busy")
        await rig.clock.sleep(0.2)
        assert await rig.decided(second) == ["refuse room-busy"]
        assert (await rig.decisions(second))[0].inputs["held_by"] == first.id
        await runner.end(first.id)
        await rig.reach(await rig.request(room="daily"), State.READY, within_s=1)

    play(scenario)


def test_a_leader_that_was_replaced_writes_no_lease_any_more() -> None:
    """The next one counts by the ledger; what the former one still had in hand would go beyond a limit."""

    async def scenario(rig: Rig) -> None:
        await rig.decree(limits=(Limit(id="one", scope=Scope.TENANT, max_sessions=1),))
        first = rig.scheduler("one")
        await rig.clock.sleep(1)
        rig.scheduler("two")
        await rig.runner(slots=4)
        await rig.clock.sleep(1)
        append = first.broker.append

        async def cut(subject: str, *arguments: Any, **more: Any) -> int:
            if subject.endswith(".lifecycle"):
                first.broker.connected = False
            return await append(subject, *arguments, **more)

        first.broker.append = cut
        sessions = [await rig.request(limits=PATIENT)]
        await rig.clock.sleep(0.5)
        sessions.append(await rig.request(limits=PATIENT, priority=Priority.HIGH))
        await rig.reach(sessions[1], State.READY, within_s=5)
        first.broker.append, first.broker.connected = append, True
        await rig.clock.sleep(5)
        assert await active(rig, sessions) == 1

    play(scenario)


def test_an_end_that_is_known_before_the_watch_comes_to_it_is_an_end() -> None:
    """What is read of the session until then is old news: it neither comes back nor counts as another one."""
    picture = Picture()
    asked = builders.session("s")
    leased = lifecycle.apply(asked, lease("r1"), T0)
    ended = lifecycle.apply(leased, failed(leased), T0)
    entries = [
        Entry(session=known, transition=lease("r1"), at=T0, revision=revision)
        for revision, known in enumerate((asked, leased, ended), start=1)
    ]
    assert picture.watched(entries[0], T0)
    picture.fold(entries[2], T0)
    assert picture.knows("s")
    assert not picture.watched(entries[1], T0)
    assert not picture.sessions
    assert not picture.pools
    assert not picture.watched(entries[2], T0)
    picture.ticked(T0, connected=True)
    assert not picture.knows("s")
    assert not picture.sessions


# ---------------------------------------------------------------------------- versions


def failed(session: Session) -> Ended:
    """Return how a session ends whose bot fails before it is ready."""
    return Ended(by="runner", epoch=session.epoch, outcome=Outcome.FAILED, reason="bot-failed")


async def canary(rig: Rig, *, share: float = 0.5, **runner: Any) -> None:
    """Have an agent with a canary, and runners for both versions."""
    rollout = Rollout(agent="a", current=1, canary=2, canary_share=share, min_starts=5, max_failure_rate=0.2)
    await rig.decree(rollouts=(rollout,))
    await rig.runner("r1", slots=200, bots=(BotOffer(name="echo", version=1),))
    await rig.runner("r2", slots=200, bots=(BotOffer(name="echo", version=2),), **runner)


def test_a_canary_gets_its_share_and_a_key_stays_with_its_version() -> None:
    """About half of the callers, and the same ones each time."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        await canary(rig)
        await rig.clock.sleep(1)
        versions: list[dict[str, int]] = []
        for _ in range(2):
            asked = {f"caller-{number}": await rig.request(sticky_key=f"caller-{number}") for number in range(40)}
            reached = {key: await rig.reach(session, State.READY) for key, session in asked.items()}
            versions.append({key: session.agent_version for key, session in reached.items()})
        assert versions[0] == versions[1]
        assert 10 <= sum(version == 2 for version in versions[0].values()) <= 30

    play(scenario)


def test_a_canary_whose_starts_fail_is_rolled_back_and_every_leader_knows() -> None:
    """Those that it failed for go to the current version, and the next leader doesn't try it again."""

    async def scenario(rig: Rig) -> None:
        first = rig.scheduler("one")
        await canary(rig, share=1.0, whim=refusing("bot-import-failed", times=100))
        await rig.clock.sleep(1)
        rig.scheduler("two")
        sessions = [await rig.request(limits=PATIENT) for _ in range(8)]
        for session in sessions:
            ready = await rig.reach(session, State.READY, within_s=5)
            assert ready.agent_version == 1
        await rig.clock.sleep(1)
        (verdict,) = (await rig.pools()).rolled_back
        assert (verdict.tenant, verdict.agent, verdict.version) == ("*", "a", 2)
        assert verdict.failures >= 2
        (told,) = await rig.pool_decisions("all")
        assert (told.decision, told.reason) == ("roll_back", "canary-failed")
        assert told.inputs["version"] == 2
        stored = await rig.broker.last("POLICY", VERDICTS)
        assert stored is not None
        assert messages.decode(stored.data, Verdicts).rolled_back == (verdict,)
        await first.stop()
        rig.scheduler("three")
        await rig.clock.sleep(2)
        assert (await rig.pools()).rolled_back == (verdict,)
        assert (await rig.reach(await rig.request(), State.READY)).agent_version == 1
        assert len(await rig.pool_decisions("all")) == 1

    play(scenario)


def test_two_canaries_that_fail_together_are_rolled_back_once_each() -> None:
    """That the verdict on the first comes back alone doesn't bring the second one back."""

    async def scenario(rig: Rig) -> None:
        rig.scheduler()
        rollouts = [Rollout(agent=agent, current=1, canary=2, canary_share=1.0, min_starts=1) for agent in "ab"]
        await rig.decree(rollouts=tuple(rollouts))
        await rig.runner("r1", slots=200)
        await rig.runner("r2", slots=200, version=2, whim=refusing("bot-import-failed", times=100))
        await rig.clock.sleep(1)
        sessions = [await rig.request(agent=agent, limits=PATIENT) for agent in "ab"]
        for session in sessions:
            await rig.reach(session, State.READY, within_s=5)
        await rig.clock.sleep(1)
        assert sorted(each.agent for each in (await rig.pools()).rolled_back) == ["a", "b"]
        assert len(await rig.pool_decisions("all")) == 2

    play(scenario)


def test_a_restart_does_not_roll_a_good_canary_back() -> None:
    """Of what is over only the last word is read again: successes must be among them as well as failures."""

    async def scenario(rig: Rig) -> None:
        first = rig.scheduler("one")
        await canary(rig, share=1.0, call_s=0.5, start_s=0.1)
        await rig.clock.sleep(1)
        good = [await rig.request() for _ in range(30)]
        for session in good:
            await rig.reach(session, State.ENDED)
        bad = [await rig.request() for _ in range(4)]
        for session in bad:
            await rig.reach(session, State.LEASED, State.STARTED)
            await rig.ledger.move("t", session.id, failed)
        await rig.clock.sleep(1)
        assert (await rig.pools()).rolled_back == ()
        await first.stop()
        rig.scheduler("two")
        await rig.clock.sleep(3)
        assert (await rig.pools()).rolled_back == ()

    play(scenario)


def test_a_verdict_that_is_none_stands_in_nobodys_way() -> None:
    """Neither the scheduler nor the next verdict."""

    async def scenario(rig: Rig) -> None:
        await rig.broker.append(VERDICTS, b"{nonsense")
        rig.scheduler()
        await canary(rig, share=1.0, whim=refusing("bot-import-failed", times=100))
        await rig.clock.sleep(1)
        session = await rig.request(limits=PATIENT)
        others = [await rig.request(limits=PATIENT) for _ in range(5)]
        for each in (session, *others):
            await rig.reach(each, State.READY, within_s=5)
        await rig.clock.sleep(1)
        stored = await rig.broker.last("POLICY", VERDICTS)
        assert stored is not None
        assert len(messages.decode(stored.data, Verdicts).rolled_back) == 1

    play(scenario)


def test_what_was_found_of_others_is_kept_with_a_new_verdict() -> None:
    """Verdicts are written by compare-and-set, on top of what is there."""

    async def scenario(rig: Rig) -> None:
        at = datetime.fromisoformat("2026-01-01T00:00:00Z")
        former = RolledBack(tenant="*", agent="other", version=7, at=at, starts=10, failures=10)
        await rig.broker.append(VERDICTS, messages.encode(Verdicts(rolled_back=(former,))))
        rig.scheduler()
        await canary(rig, share=1.0, whim=refusing("bot-import-failed", times=100))
        await rig.clock.sleep(1)
        for each in [await rig.request(limits=PATIENT) for _ in range(5)]:
            await rig.reach(each, State.READY, within_s=5)
        await rig.clock.sleep(1)
        assert [each.agent for each in (await rig.pools()).rolled_back] == ["other", "a"]

    play(scenario)
