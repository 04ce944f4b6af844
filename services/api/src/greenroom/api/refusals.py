"""Which sessions the scheduler may refuse at once, as far as the published policy says."""

from greenroom.common.lifecycle import Session
from greenroom.common.policy import EACH, AtLimit, Limit, Policy, Scope


def may_be_refused(policy: Policy, session: Session) -> bool:
    """Tell whether the scheduler's first decision may be to refuse the session: then its caller wants to hear of it."""
    return session.room is not None or any(_concerns(limit, session) for limit in policy.limits)


def _concerns(limit: Limit, session: Session) -> bool:
    refuses = limit.at_limit is AtLimit.REFUSE and limit.max_sessions is not None
    if not refuses or limit.tenant not in {EACH, session.tenant}:
        return False
    keys = _keys(limit, session)
    return bool(keys) if limit.key == EACH else limit.key in keys


def _keys(limit: Limit, session: Session) -> tuple[str, ...]:
    match limit.scope:
        case Scope.TENANT:
            return (session.tenant,)
        case Scope.AGENT:
            return (session.agent,)
        case Scope.AGENT_VERSION:
            # The version is decided with the lease, so any will do.
            return (limit.key,) if limit.key.rpartition("@")[0] in {"", session.agent} else ()
        case Scope.CARRIER:
            return (session.carrier,) if session.carrier else ()
        case Scope.NUMBER:
            return (session.number,) if session.number else ()
        case Scope.ACCOUNT:
            return session.accounts
