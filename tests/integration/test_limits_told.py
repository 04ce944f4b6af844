"""From a limit that refuses somebody to the webhook that says so: scheduler, runner and recorder on real servers."""

from pathlib import Path

from greenroom.common.lifecycle import Outcome, State
from greenroom.common.policy import AtLimit, Limit, Policy, Scope
from greenroom.recorder.settings import WORK
from tests.support.recorder_world import eventually, world
from tests.support.scheduler_field import field_on
from tests.support.simulated_runner import request_session
from tests.support.webhook_world import SECRET, deliveries, hooks, subscribe


async def test_a_refusal_by_a_limit_is_one_webhook(nats_url: str, database: str, tmp_path: Path) -> None:
    """Who is over the limit is refused, which its tenant is told: once, signed, and nobody else is."""
    limit = Limit(id="one", scope=Scope.TENANT, tenant="t", max_sessions=1, at_limit=AtLimit.REFUSE)
    told = {"recorder_work": WORK, "webhook_allow": ("127.0.0.1",), "webhook_allow_http": True}
    async with (
        hooks() as there,
        world(nats_url, database, tmp_path / "recordings") as here,
        field_on(nats_url, tmp_path) as field,
        here.recorder(**told),
    ):
        endpoint = await subscribe(here, there.url, "limit.reached")
        await subscribe(here, f"{there.url}/other", "*", tenant="u")
        await field.decide(Policy(revision=1, limits=(limit,)))
        await field.scheduler("one")
        await field.runner("r1", slots=4)
        within = await request_session(field.ledger)
        await field.reach(within, State.READY)
        for _ in range(3):
            beyond = await field.reach(await request_session(field.ledger), State.ENDED)
            assert (beyond.outcome, beyond.reason) == (Outcome.REJECTED, "limit-reached")
            await eventually(lambda: here.stored(beyond), lambda row: row.get("state") == "ended")  # noqa: B023
        await eventually(
            lambda: deliveries(here, endpoint), lambda rows: [row["state"] for row in rows] == ["delivered"]
        )
        assert len(await here.rows("SELECT id FROM notices")) == 1
    (hook,) = there.seen
    assert (hook.path, hook.type, hook.signed_by(SECRET)) == ("/hooks", "limit.reached", True)
    assert (hook.json["tenant"], hook.json["source"]) == ("t", "scheduler")
    said = hook.json["data"]
    assert (said["limit"], said["scope"], said["active"], said["max_sessions"]) == ("one", "tenant", 1, 1)
    assert said["at_limit"] == "refuse"
