"""`greenroom fleet`, `queue`, `why`, `limits` and `pins`, against a running api."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from io import StringIO
from typing import Any

import msgspec
import pytest
from rich.console import Console

from greenroom.common import subjects
from greenroom.common.clock import utcnow
from greenroom.common.errors import SessionNotFound
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import State
from greenroom.common.messages import (
    BotOffer,
    Decision,
    HeldSession,
    LimitUsage,
    PoolsAnswer,
    PoolState,
    WaitingSession,
)
from greenroom.common.pins import PinSlotState, PinState
from greenroom.devtools import fleet, why
from greenroom.devtools.client import ApiProblem
from tests.support.api_scheduler import LeadingScheduler
from tests.support.api_world import ApiWorld, problem_of, until
from tests.support.shell import command, commanded_api


@pytest.fixture
async def world(nats_url: str, database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[ApiWorld]:
    """A running api that the commands talk to."""
    async with commanded_api(nats_url, database, monkeypatch) as running:
        yield running


async def decide(world: ApiWorld, session_id: str, **fields: Any) -> None:
    """Publish a decision about a session, as the scheduler does."""
    decision = Decision(at=utcnow(), **fields)
    await world.publish(session_id, "scheduler.decision", msgspec.json.encode({"data": decision}))


# ---------------------------------------------------------------------------- why


async def test_why_tells_a_week_later(world: ApiWorld) -> None:
    """Decisions with their inputs and transitions, in order, from PostgreSQL alone; conversation isn't part of it."""
    session_id = (await world.request()).session.id
    inputs = {"active": 20, "limit": "acme-all"}
    await decide(
        world,
        session_id,
        decision="wait",
        reason="tenant-limit",
        text="2nd of 9: tenant at 20/20",
        inputs=inputs,
        policy_revision=17,
    )
    await world.publish(session_id, "user_spoke", b'{"data":{"text":"a secret"}}')
    await decide(world, session_id, decision="lease", reason="placed", text="slot of runner-1, the fullest of 3")
    await world.make_ready(session_id)
    await world.end(session_id)
    await world.record()
    await world.broker.purge("SESSIONS", subjects.SESSION_ALL.wildcard(tenant="default", session_id=session_id))
    out = StringIO()
    await why.why(Console(file=out, width=200), session_id, as_json=False)
    lines = out.getvalue().splitlines()
    assert lines[0] == f"{session_id}  echo in default: completed (goodbye)"
    told = [
        "requested",
        "2nd of 9: tenant at 20/20",
        "reason=tenant-limit active=20 limit=acme-all policy=17",
        "the fullest of 3",
    ]
    told += ["leased", "started", "ready", "outcome=completed reason=goodbye"]
    places = [next(i for i, line in enumerate(lines) if text in line) for text in told]
    assert places == sorted(places)
    assert "a secret" not in out.getvalue()
    printed = await command("why", session_id, "--json")
    types = [msgspec.json.decode(line)["type"] for line in printed.output.splitlines()]
    assert types.count("scheduler.decision") == 2
    assert types[-1] == "session.ended"


async def test_why_reads_all_pages_and_what_waits_now(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long histories are read to their end; a session that still waits says for what."""
    monkeypatch.setattr(why, "_PAGE", 2)
    session_id = (await world.request()).session.id
    for i in range(5):
        await decide(world, session_id, decision="wait", reason="no-free-slot", text=f"try {i}")
    await world.record()
    printed = (await command("why", session_id)).output
    assert [f"try {i}" in printed for i in range(5)] == [True] * 5
    assert "now it waits, scheduler-unavailable" in printed


async def test_why_of_nobody_is_an_error(world: ApiWorld) -> None:
    """An id that nobody has isn't a session without decisions."""
    del world
    with pytest.raises(ApiProblem) as refused:
        await command("why", uuid7())
    assert refused.value.api_code == SessionNotFound.code


# ---------------------------------------------------------------------------- fleet


def a_pool(**fields: Any) -> PoolState:
    """Return how a busy pool stands."""
    plain: dict[str, Any] = {"name": "default", "runners": 3, "draining": 1, "braking": 0, "slots": 24, "busy": 20}
    plain |= {"warm": 4, "waiting": 7, "target": 12, "launcher": "nomad"}
    return PoolState(**(plain | fields))


async def test_the_fleet_is_pools_and_runners(world: ApiWorld) -> None:
    """Once for a script; what holds a pool back is a line of its own."""
    held = HeldSession(session_id="s-1", tenant="acme", epoch=1, phase=State.READY, since=utcnow())
    traceback = 'Traceback …\n  File "a.py", line 1, in bot\n    b()\n  File "b.py", line 2, in b\nno module'
    odd = BotOffer(name="odd[1]", error="no module", traceback=traceback, version=2)
    await world.beat(BotOffer(name="echo"), odd, sessions=(held,), host="h-1")
    await world.beat(odd, runner_id="runner-2", brake="loop lag 80 ms")
    await until(lambda: len(world.parts.fleet.runners()) > 1)
    alone = (await command("fleet", "--once")).output
    assert "no scheduler leads" in alone
    state = a_pool(
        held_back="no capacity: memory exhausted on 3 nodes",
        held_back_until=utcnow(),
        cold_start_p50_s=11.8,
        cold_start_p95_s=19.44,
        instances=4,
    )
    pools = PoolsAnswer(policy_revision=0, leader="sched-1", pools=(state,))
    async with LeadingScheduler(world.broker, pools=pools):
        # Not on a terminal, so nobody watches.
        shown = (await command("fleet")).output
        as_json = msgspec.json.decode((await command("fleet", "--once", "--json")).output)
    for text in (
        "sched-1 leads",
        "3 (1 draining, of 4)",
        "11.8/19.4 s",
        "default is held back: no capacity: memory exhausted on 3 nodes, until",
        "runner-1",
        "1/4",
        "odd[1]",
        "h-1",
        "brakes: loop lag 80 ms",
        'odd[1] (version 2) can\'t run on runner-1, runner-2: no module (File "b.py", line 2, in b)',
    ):
        assert text in shown.replace("\n", " ")
    assert as_json["pools"]["pools"][0]["state"]["waiting"] == 7
    assert as_json["runners"][0]["id"] == "runner-1"
    assert as_json["runners"][0]["bots"][1]["traceback"] == traceback


async def test_the_fleet_stays_on_the_screen(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal it is drawn again as things change."""
    monkeypatch.setattr(fleet, "_REFRESH_S", 0.02)
    out = StringIO()
    console = Console(file=out, width=200, force_terminal=True)
    async with LeadingScheduler(world.broker) as scheduler:
        watching = asyncio.create_task(fleet.fleet(console, once=False, as_json=False))
        await until(lambda: "sched-1 leads" in out.getvalue())
        scheduler.pools = PoolsAnswer(policy_revision=3, leader="sched-2", pools=(a_pool(name="gpu"),))
        await until(lambda: "gpu" in out.getvalue())
        assert "older policy" in out.getvalue()
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching


async def test_a_tenant_sees_pools_only(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runners show the sessions of others, so a tenant's key gets a table without them."""
    monkeypatch.setenv("GREENROOM_API_KEY", await world.key("sessions:read", tenant="acme"))
    assert "the key may not see runners" in (await command("fleet", "--once")).output


# ---------------------------------------------------------------------------- limits and the queue


async def test_limits_are_set_listed_and_deleted(world: ApiWorld) -> None:
    """From a shell, with their use where a scheduler leads."""
    assert "no limits" in (await command("limits")).output
    set_it = await command(
        *("limits", "set", "acme-all", "--scope", "tenant", "--tenant", "acme", "--sessions", "20", "--refuse")
    )
    assert "acme-all" in set_it.output
    async with world.client() as client:
        stored = (await client.get("/v1/limits/acme-all")).json()
        assert (stored["tenant"], stored["max_sessions"], stored["at_limit"]) == ("acme", 20, "refuse")
        usage = (LimitUsage(limit_id="acme-all", tenant="acme", key="*", active=20, waiting=3),)
        pools = PoolsAnswer(policy_revision=0, leader="sched-1", pools=(), usage=usage)
        assert "no scheduler leads" in (await command("limits", "list")).output
        async with LeadingScheduler(world.broker, pools=pools):
            listed = (await command("limits", "list")).output
        assert "20/20, 3 waiting" in listed
        assert "older policy" in listed
        assert "acme-all holds no longer" in (await command("limits", "delete", "acme-all")).output
        assert problem_of(await client.get("/v1/limits/acme-all"))["code"] == "policy-not-found"


async def test_the_queue_is_listed_in_its_order(world: ApiWorld) -> None:
    """All pages of the caller's own, or of all tenants."""
    now = utcnow()
    queue = [
        WaitingSession(
            session_id=uuid7(),
            tenant="acme" if i == 2 else "default",
            agent="echo",
            pool="default",
            priority="normal",
            position=i,
            of=3,
            reason="tenant-limit",
            text=f"place {i}: tenant at 20/20 [1]",
            requested_at=now,
            deadline_at=now + timedelta(seconds=30),
            expected_s=14.2 if i == 1 else None,
        )
        for i in (1, 2, 3)
    ]
    async with LeadingScheduler(world.broker, waiting=queue) as scheduler:
        own = (await command("queue")).output
        everybody = (await command("queue", "--all", "--limit", "2")).output
        lines = (await command("queue", "--json", "--pool", "default")).output.splitlines()
        scheduler.waiting = ()
        assert "nobody waits" in (await command("queue")).output
    assert [f"place {i}: tenant at 20/20 [1]" in own for i in (1, 2, 3)] == [True, False, True]
    assert "~14 s" in own
    assert "place 2" in everybody
    assert "and 1 more" in everybody
    assert [msgspec.json.decode(line)["position"] for line in lines] == [1, 3]


# ---------------------------------------------------------------------------- pins


async def test_pins_are_set_listed_and_deleted(world: ApiWorld) -> None:
    """With what each session does, or why there is none."""
    assert "no pins" in (await command("pins")).output
    made = await command("pins", "set", "lobby", "--agent", "echo", "--count", "2", "--room", "lobby-{slot}")
    assert made.exit_code == 0
    async with world.client() as client:
        stored = (await client.get("/v1/pins/lobby")).json()
        assert (stored["agent"], stored["count"], stored["room"]) == ("echo", 2, "lobby-{slot}")
    assert "no scheduler leads" in (await command("pins", "list")).output
    await world.parts.policy.publish()
    (pin,) = world.parts.policy.current.pins
    slots = (
        PinSlotState(slot=1, state="running", session_id="a-session"),
        PinSlotState(slot=2, state="given_up", text="given up: 10 failures within 600 s"),
    )
    async with LeadingScheduler(world.broker, pins=[PinState(id="lobby", uid=pin.uid, running=1, slots=slots)]):
        listed = (await command("pins")).output
        assert "1/2" in listed
        assert "a-session" in listed
        assert "given up: 10 failures within 600 s" in listed
    assert "kept running no longer" in (await command("pins", "delete", "lobby")).output
    assert "no pins" in (await command("pins")).output
