"""Rules, holds and requests to erase, in PostgreSQL: each change with its line of the audit, in one transaction.

Holds and requests take the lock that whoever deletes takes before the point of no return, so a hold is either seen by
it, or told that it comes too late.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

from greenroom.api.auth import Caller
from greenroom.api.retention_schemas import HoldView, RetentionView, RuleView, RunView, SessionHoldView
from greenroom.api.store import Store
from greenroom.common import audit
from greenroom.common.audit import Action
from greenroom.common.errors import GreenroomError
from greenroom.common.lifecycle import Session
from greenroom.common.retention import Rule

_LOCK: Final = "SELECT retention_lock()"

_RULES: Final = """
SELECT tenant, agent, recordings_days, events_days, sessions_days, changed_at FROM retention_rules
ORDER BY tenant, agent
"""
_HOLDS: Final = "SELECT tenant, agent, reason, since FROM retention_holds ORDER BY tenant, agent"
_COUNTS: Final = """
SELECT (SELECT count(*) FROM session_holds) AS sessions_held, (SELECT count(*) FROM erasures) AS waiting
"""
_LAST_RUN: Final = """
SELECT due_at, finished_at, recordings, events, sessions FROM retention_runs ORDER BY due_at DESC LIMIT 1
"""

_PUT_RULE: Final = """
INSERT INTO retention_rules (tenant, agent, recordings_days, events_days, sessions_days) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant, agent) DO UPDATE SET recordings_days = excluded.recordings_days,
    events_days = excluded.events_days, sessions_days = excluded.sessions_days, changed_at = now()
RETURNING tenant, agent, recordings_days, events_days, sessions_days, changed_at
"""
_DELETE_RULE: Final = "DELETE FROM retention_rules WHERE tenant = $1 AND agent = $2 RETURNING tenant"

_PUT_HOLD: Final = """
INSERT INTO retention_holds (tenant, agent, reason) VALUES ($1, $2, $3)
ON CONFLICT (tenant, agent) DO UPDATE SET reason = excluded.reason
RETURNING tenant, agent, reason, since
"""
_DELETE_HOLD: Final = "DELETE FROM retention_holds WHERE tenant = $1 AND agent = $2 RETURNING tenant"

_PUT_SESSION_HOLD: Final = """
INSERT INTO session_holds (session_id, tenant, reason) VALUES ($1, $2, $3)
ON CONFLICT (session_id) DO UPDATE SET reason = excluded.reason
RETURNING session_id, reason, since
"""
_DELETE_SESSION_HOLD: Final = "DELETE FROM session_holds WHERE session_id = $1 AND tenant = $2 RETURNING session_id"

_BEGUN: Final = "SELECT EXISTS (SELECT FROM erasures WHERE session_id = $1 AND begun_at IS NOT NULL)"
_HELD: Final = "SELECT session_held($1, $2, $3)"
# Asked for by somebody it is no longer a matter of rules.
_REQUEST: Final = """
INSERT INTO erasures (session_id, what, tenant, agent, day, requested_by) VALUES ($1, 'session', $2, $3, $4, $5)
ON CONFLICT (session_id, what) DO UPDATE SET requested_by = excluded.requested_by, next_try_at = now()
WHERE erasures.requested_by NOT LIKE 'key:%'
RETURNING requested_at
"""
_REQUESTED: Final = "SELECT requested_at FROM erasures WHERE session_id = $1 AND what = 'session'"


class RetentionRuleNotFound(GreenroomError):
    """There is no such rule; `GET /v1/retention` lists those there are."""

    code = "retention-rule-not-found"
    status = 404
    title = "No such retention rule"


class HoldNotFound(GreenroomError):
    """Nothing is held there; `GET /v1/retention` lists the holds of tenants and agents."""

    code = "hold-not-found"
    status = 404
    title = "No such hold"


class SessionHeld(GreenroomError):
    """A legal hold concerns the session, one of its own or of its tenant and agent, so it can't be erased.

    Who may do so lifts it: `DELETE /v1/sessions/{id}/hold`, or `DELETE /v1/retention/{tenant}/{agent}/hold`.
    """

    code = "session-held"
    status = 409
    title = "The session is held"


class SessionLive(GreenroomError):
    """The session isn't over, so it can't be erased. End it first, or ask with `?stop=true`."""

    code = "session-live"
    status = 409
    title = "The session isn't over"


class SessionBeingErased(GreenroomError):
    """The session, or a part of it, is being deleted already: a hold comes too late."""

    code = "session-being-erased"
    status = 409
    title = "The session is being deleted"


class RetentionStore:
    """The tables of retention. Every method raises `DatabaseUnavailable`."""

    def __init__(self, store: Store) -> None:
        """Use the connections of `store`."""
        self._store = store

    async def view(self) -> RetentionView:
        """Return rules, holds, and how far deleting has come."""
        async with self._store.connection("retention") as connection:
            counts = await connection.fetchrow(_COUNTS)
            run = await connection.fetchrow(_LAST_RUN)
            return RetentionView(
                rules=[RuleView(**dict(row)) for row in await connection.fetch(_RULES)],
                holds=[HoldView(**dict(row)) for row in await connection.fetch(_HOLDS)],
                sessions_held=counts["sessions_held"],
                waiting=counts["waiting"],
                last_run=RunView(**dict(run)) if run else None,
            )

    async def put_rule(self, caller: Caller, rule: Rule) -> RuleView:
        """Make a rule, or replace the one of its tenant and agent."""
        days = {"recordings_days": rule.recordings_days, "events_days": rule.events_days}
        days |= {"sessions_days": rule.sessions_days}
        async with self._change("retention_rule") as connection:
            row = await connection.fetchrow(_PUT_RULE, rule.tenant, rule.agent, *days.values())
            await _audit(connection, caller, Action.RULE_SET, rule.tenant, rule.agent, **days)
        return RuleView(**dict(row))

    async def delete_rule(self, caller: Caller, tenant: str, agent: str) -> None:
        """Delete a rule; raises `RetentionRuleNotFound`."""
        async with self._change("retention_rule") as connection:
            if await connection.fetchval(_DELETE_RULE, tenant, agent) is None:
                raise RetentionRuleNotFound
            await _audit(connection, caller, Action.RULE_DELETED, tenant, agent)

    async def hold(self, caller: Caller, tenant: str, agent: str, reason: str) -> HoldView:
        """Hold the sessions of a tenant and agent."""
        async with self._change("retention_hold") as connection:
            row = await connection.fetchrow(_PUT_HOLD, tenant, agent, reason)
            await _audit(connection, caller, Action.HOLD_SET, tenant, agent, reason=reason)
        return HoldView(**dict(row))

    async def lift(self, caller: Caller, tenant: str, agent: str) -> None:
        """Hold them no longer; raises `HoldNotFound`."""
        async with self._change("retention_hold") as connection:
            if await connection.fetchval(_DELETE_HOLD, tenant, agent) is None:
                raise HoldNotFound
            await _audit(connection, caller, Action.HOLD_LIFTED, tenant, agent)

    async def hold_session(self, caller: Caller, session_id: str, reason: str) -> SessionHoldView:
        """Hold one session of the caller's tenant, which exists; raises `SessionBeingErased`."""
        async with self._change("session_hold") as connection:
            if await connection.fetchval(_BEGUN, session_id):
                raise SessionBeingErased
            row = await connection.fetchrow(_PUT_SESSION_HOLD, session_id, caller.tenant, reason)
            await _audit_session(connection, caller, Action.SESSION_HELD, session_id, reason=reason)
        return SessionHoldView(**dict(row))

    async def lift_session(self, caller: Caller, session_id: str) -> None:
        """Hold a session of the caller's tenant no longer; raises `HoldNotFound`."""
        async with self._change("session_hold") as connection:
            if await connection.fetchval(_DELETE_SESSION_HOLD, session_id, caller.tenant) is None:
                raise HoldNotFound
            await _audit_session(connection, caller, Action.SESSION_RELEASED, session_id)

    async def request_erasure(self, caller: Caller, session: Session) -> datetime:
        """Write down that a session is to be erased, and return since when that is asked for.

        Raises:
            SessionHeld: it mustn't.
        """
        async with self._change("erasure") as connection:
            if await connection.fetchval(_HELD, session.id, session.tenant, session.agent):
                raise SessionHeld
            day = session.requested_at.astimezone(UTC).date()
            actor = audit.key_actor(caller.key_id)
            new = await connection.fetchval(_REQUEST, session.id, session.tenant, session.agent, day, actor)
            if new is None:
                return await connection.fetchval(_REQUESTED, session.id)
            await _audit_session(connection, caller, Action.ERASURE_REQUESTED, session.id, agent=session.agent)
        return new

    @asynccontextmanager
    async def _change(self, name: str) -> AsyncGenerator[Any]:
        async with self._store.connection(name) as connection, connection.transaction():
            await connection.execute(_LOCK)
            yield connection


async def _audit(
    connection: Any, caller: Caller, action: Action, tenant: str, agent: str, **detail: str | int | None
) -> None:
    await audit.write(
        connection,
        actor=audit.key_actor(caller.key_id),
        action=action,
        tenant=tenant,
        subject=f"{tenant}/{agent}",
        **detail,
    )


async def _audit_session(
    connection: Any, caller: Caller, action: Action, session_id: str, **detail: str | int | None
) -> None:
    await audit.write(
        connection,
        actor=audit.key_actor(caller.key_id),
        action=action,
        tenant=caller.tenant,
        subject=session_id,
        **detail,
    )
