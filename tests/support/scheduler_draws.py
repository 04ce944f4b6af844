"""Sessions and policies at random, drawn by hypothesis; and what limits count sessions by, worked out the long way."""

from hypothesis import strategies as st

from greenroom.common import lifecycle
from greenroom.common.lifecycle import OnLoss, Priority, Session
from greenroom.common.policy import AtLimit, Limit, Policy, PoolPolicy, Rollout, Scope
from tests.support.scheduler_builders import T0

TENANTS = ("acme", "zen", "omni")
LABELS = ({}, {"gpu": "l4"}, {"gpu": "t4", "region": "eu"})

shares = st.sampled_from([0.0, 0.5, 1.0])


@st.composite
def limits(draw: st.DrawFn, number: int) -> Limit:
    """Draw a limit of any scope."""
    scope = draw(st.sampled_from(Scope))
    keys = {
        Scope.TENANT: ["*"],
        Scope.AGENT: ["*", "desk"],
        Scope.AGENT_VERSION: ["*", "desk@2"],
        Scope.CARRIER: ["*", "twilio"],
        Scope.NUMBER: ["*", "+1"],
        Scope.ACCOUNT: ["*", "openai"],
    }
    return Limit(
        id=f"l{number}",
        scope=scope,
        tenant=draw(st.sampled_from(["*", "acme"])),
        key=draw(st.sampled_from(keys[scope])),
        max_sessions=draw(st.sampled_from([None, 0, 1, 2, 3])),
        max_starts_per_s=draw(st.sampled_from([None, None, 0.5, 2.0])),
        at_limit=draw(st.sampled_from(AtLimit)),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Draw a policy."""
    return Policy(
        revision=draw(st.integers(1, 99)),
        limits=tuple(draw(limits(number)) for number in range(draw(st.integers(0, 3)))),
        pools=(PoolPolicy(name="gpu", placement=draw(st.sampled_from(["packed", "spread"]))),),
        rollouts=tuple(
            Rollout(agent="desk", tenant=tenant, current=1, canary=2, canary_share=draw(shares), min_starts=1)
            for tenant in draw(st.sets(st.sampled_from(["*", "acme"])))
        ),
        weights=draw(st.sampled_from([{}, {"acme": 2.0}])),
    )


@st.composite
def documents(draw: st.DrawFn) -> Session:
    """Draw a session that is about to be requested; it has no id yet."""
    return Session(
        id="",
        tenant=draw(st.sampled_from(TENANTS)),
        agent=draw(st.sampled_from(["desk", "desk", "other"])),
        bot=draw(st.sampled_from(["echo"] * 7 + ["ghost"])),
        pool=draw(st.sampled_from(["default", "default", "gpu"])),
        priority=draw(st.sampled_from(Priority)),
        requires=draw(st.sampled_from([{}, {}, {}, {}, *LABELS])),
        prefers=draw(st.sampled_from(LABELS)),
        room=draw(st.sampled_from([None, None, None, "lobby"])),
        carrier=draw(st.sampled_from([None, "twilio"])),
        number=draw(st.sampled_from([None, "+1", "+2"])),
        accounts=draw(st.sampled_from([(), ("openai",), ("openai", "cartesia")])),
        on_loss=draw(st.sampled_from(OnLoss)),
        limits=lifecycle.Limits(queue_timeout_s=draw(st.sampled_from([5.0, 60.0]))),
        requested_at=T0,
        queue_deadline_at=T0,
    )


def keys(limit: Limit, session: Session) -> list[tuple[str, str]]:
    """Return what a limit counts a session by, worked out the long way."""
    if limit.tenant not in {"*", session.tenant}:
        return []
    found: dict[Scope, list[str | None]] = {
        Scope.TENANT: [session.tenant],
        Scope.AGENT: [session.agent],
        Scope.AGENT_VERSION: [f"{session.agent}@{session.agent_version}"],
        Scope.CARRIER: [session.carrier],
        Scope.NUMBER: [session.number],
        Scope.ACCOUNT: list(session.accounts),
    }
    over_all = limit.tenant == "*" and limit.scope in {Scope.CARRIER, Scope.NUMBER, Scope.ACCOUNT}
    tenant = "*" if over_all else session.tenant
    return [(tenant, key) for key in found[limit.scope] if key is not None and limit.key in {"*", key}]
