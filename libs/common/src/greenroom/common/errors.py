"""The catalogue of errors: a class per error, each with a stable code that programs may rely on.

Texts are not API, codes are. The docstring of a class is the help that the operator gets from
`greenroom error CODE` and docs/errors.md. Modules may define further errors of their own beside
what raises them: subclassing `GreenroomError` is all the registration there is.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

_registry: dict[str, type["GreenroomError"]] = {}


class FieldProblem(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with one part of a body; `pointer` is a JSON pointer (RFC 6901), empty for the whole."""

    pointer: str
    detail: str


class GreenroomError(Exception):
    """Something went wrong that has no code of its own; look at the log of the service for the cause."""

    # Kebab case; never changed, never used anew for something else.
    code: ClassVar[str] = "error"
    # What an HTTP response with this error says.
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong"
    # Whether the same request may succeed later without anybody changing anything.
    retryable: ClassVar[bool] = False
    # How long to wait before that, in seconds.
    default_retry_after_s: ClassVar[float | None] = None

    def __init__(
        self, detail: str = "", *, retry_after_s: float | None = None, errors: Sequence[FieldProblem] = ()
    ) -> None:
        """Make the error.

        Args:
            detail: what happened this time, for the caller: no secrets, no text of foreign exceptions.
            retry_after_s: when to try again, where this time differs from the usual.
            errors: the problems field by field, where a body is at fault.
        """
        super().__init__(detail or self.title)
        self.detail = detail
        self.retry_after_s = self.default_retry_after_s if retry_after_s is None else retry_after_s
        self.errors = tuple(errors)

    def __init_subclass__(cls) -> None:
        """Enter the class into the catalogue."""
        super().__init_subclass__()
        known = _registry.setdefault(cls.code, cls)
        if known.__qualname__ != cls.__qualname__:
            msg = f"{cls.__qualname__} and {known.__qualname__} both have the code {cls.code}"
            raise TypeError(msg)

    def problem(self, instance: str | None = None) -> dict[str, Any]:
        """Return the problem details (RFC 9457, application/problem+json) for the caller.

        Args:
            instance: URI reference of what this happened to, e.g. the path of the request.
        """
        problem: dict[str, Any] = {
            "type": f"/errors/{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail or self.title,
            "code": self.code,
            "retryable": self.retryable,
        }
        if instance is not None:
            problem["instance"] = instance
        if self.retry_after_s is not None:
            problem["retry_after_s"] = self.retry_after_s
        if self.errors:
            problem["errors"] = [msgspec.to_builtins(error) for error in self.errors]
        return problem


_registry[GreenroomError.code] = GreenroomError


def registered() -> tuple[type[GreenroomError], ...]:
    """Return every error class that was defined in this process so far."""
    return tuple(_registry.values())


def known(error: BaseException) -> GreenroomError:
    """Return the error itself if it is one of ours, else an `InternalError` that tells nothing of it."""
    return error if isinstance(error, GreenroomError) else InternalError()


# ---------------------------------------------------------------------------- requests


class InternalError(GreenroomError):
    """A service met something it doesn't know. Its log has the cause, with the trace id of the response."""

    code = "internal-error"
    title = "Internal error"


class MalformedJson(GreenroomError):
    """The body isn't JSON. Check quoting, and that the body is UTF-8."""

    code = "malformed-json"
    status = 400
    title = "The body isn't JSON"


class InvalidQuery(GreenroomError):
    """A query parameter has an unknown name, a wrong type or an unusable value, e.g. a cursor that isn't from here."""

    code = "invalid-query"
    status = 400
    title = "A query parameter is wrong"


class InvalidBody(GreenroomError):
    """The body has a wrong type or value; `errors` points at each. /openapi.json has the schema of every body."""

    code = "invalid-body"
    status = 422
    title = "The body doesn't fit its schema"


class UnknownField(GreenroomError):
    """The body has a field nobody reads, most likely a misspelt one; `errors` names it. Nothing was done."""

    code = "unknown-field"
    status = 422
    title = "The body has an unknown field"


class BodyTooLarge(GreenroomError):
    """The body is larger than the limit named in the detail. Pass large things by reference."""

    code = "body-too-large"
    status = 413
    title = "The body is too large"


class RateLimited(GreenroomError):
    """The tenant or the key asks more often than it may. Wait for `Retry-After`, or raise its limit."""

    code = "rate-limited"
    status = 429
    title = "Too many requests"
    retryable = True
    default_retry_after_s = 1.0


class Unauthenticated(GreenroomError):
    """No key, or one that isn't known or is revoked. Send `Authorization: Bearer <key>`."""

    code = "unauthenticated"
    status = 401
    title = "A valid API key is needed"


class KeyExpired(Unauthenticated):
    """The key was made for a time that is over. Make another one: `greenroom keys create --expires`."""

    code = "key-expired"
    title = "The API key has expired"


class Forbidden(GreenroomError):
    """The key is valid but lacks the scope, or belongs to another tenant."""

    code = "forbidden"
    status = 403
    title = "The key may not do that"


class NotFound(GreenroomError):
    """There is nothing at this address. /openapi.json lists every route."""

    code = "not-found"
    status = 404
    title = "Nothing is here"


class MethodNotAllowed(GreenroomError):
    """The address exists, but not for this method."""

    code = "method-not-allowed"
    status = 405
    title = "This method isn't possible here"


class SessionNotFound(GreenroomError):
    """No session of this tenant has the id, or it is so old that its history was erased by the retention rules."""

    code = "session-not-found"
    status = 404
    title = "No such session"


class AgentNotFound(GreenroomError):
    """No agent of this tenant has the name. `GET /v1/agents` lists those that runners announce; is a runner up?"""

    code = "agent-not-found"
    status = 404
    title = "No such agent"


class RecordingNotFound(GreenroomError):
    """The session has no recording: it ended before audio flowed, wasn't recorded, or retention removed it."""

    code = "recording-not-found"
    status = 404
    title = "No recording"


class RecordingNotReady(GreenroomError):
    """The recording is sealed shortly after the session has ended; wait for `recording_saved`, or ask again."""

    code = "recording-not-ready"
    status = 409
    title = "The recording isn't sealed yet"
    retryable = True
    default_retry_after_s = 1.0


class TenantSuspended(GreenroomError):
    """The tenant is suspended: it gets no new sessions, while those it has go on and all of its data can be read.

    An administrator resumes it: `greenroom tenants resume NAME`, or `PATCH /v1/tenants/{tenant}`.
    """

    code = "tenant-suspended"
    status = 403
    title = "The tenant is suspended"


class SecretMissing(GreenroomError):
    """No runner of the pool has the secrets that the agent's bot needs, so no session of it could start.

    The detail names them. Put them into the directory that GREENROOM_SECRETS_DIR of the runners names (in
    deploy/nomad: into the Nomad variable of the runner's group), or into their GREENROOM_SECRET_… variables; a
    directory is read again within a second.
    """

    code = "secret-missing"
    status = 409
    title = "A secret is missing"


class IdempotencyMismatch(GreenroomError):
    """The `Idempotency-Key` was used within 24 h with another body. Use a new key for a new request."""

    code = "idempotency-mismatch"
    status = 422
    title = "The idempotency key belongs to another request"


class IdempotencyInProgress(GreenroomError):
    """The first request with this `Idempotency-Key` hasn't been answered yet. Send it again after a moment."""

    code = "idempotency-in-progress"
    status = 409
    title = "The first request with this key is still under way"
    retryable = True
    default_retry_after_s = 1.0


# ---------------------------------------------------------------------------- sessions


class IllegalTransition(GreenroomError):
    """The lifecycle has no such step from the state the session is in, e.g. stopping one that has ended."""

    code = "illegal-transition"
    status = 409
    title = "Not possible in this state"


class StaleEpoch(GreenroomError):
    """The writer's lease is no longer the current one: the session was given to another runner. The writer stops."""

    code = "stale-epoch"
    status = 409
    title = "The lease is no longer the current one"


class LedgerConflict(GreenroomError):
    """Others changed the session in between, again and again. Read it and decide anew."""

    code = "ledger-conflict"
    status = 409
    title = "The session was changed in between"
    retryable = True


class LedgerCorrupt(GreenroomError):
    """What stands last in the ledger on this session is no entry, so nobody can tell its state or move it on.

    Somebody published to its lifecycle subject who shouldn't, or a service that is newer than the one that answers did.
    The recorder parks the message with the reason (stream PARKED), and what it stored of the session before still
    holds. Check who may publish to `gr.v1.session.*.*.lifecycle`, upgrade what is older, and ask for a new session.
    """

    code = "ledger-corrupt"
    status = 500
    title = "The session's ledger can't be read"


class SessionEnded(GreenroomError):
    """The session is over; ask for a new one."""

    code = "session-ended"
    status = 409
    title = "The session has ended"


class TicketInvalid(GreenroomError):
    """The media ticket isn't known or has expired: it lives 5 minutes. Take the one of a fresh session."""

    code = "ticket-invalid"
    status = 403
    title = "The media ticket isn't valid"


class TicketUsed(GreenroomError):
    """A media ticket is good for one connection, and this one was used."""

    code = "ticket-used"
    status = 403
    title = "The media ticket was used"


class MediaAlreadyConnected(GreenroomError):
    """Somebody is connected to the session; one connection at a time."""

    code = "media-already-connected"
    status = 409
    title = "Somebody is connected already"


class MalformedEvent(GreenroomError):
    """An event on NATS doesn't fit its envelope. It is parked with the reason; see docs/publishing-events.md."""

    code = "malformed-event"
    status = 422
    title = "The event is malformed"


# ---------------------------------------------------------------------------- the installation


class Draining(GreenroomError):
    """The instance is being stopped and takes nothing new. Others take it: send it again."""

    code = "draining"
    status = 503
    title = "This instance is stopping"
    retryable = True
    default_retry_after_s = 1.0


class BrokerUnavailable(GreenroomError):
    """NATS can't be reached or has no leader for the stream. Check NATS_URL and `nats-server`; live calls go on."""

    code = "broker-unavailable"
    status = 503
    title = "The message broker can't be reached"
    retryable = True
    default_retry_after_s = 1.0


class DatabaseUnavailable(GreenroomError):
    """PostgreSQL can't be reached. Sessions go on, new ones too; history and recordings wait. Check DATABASE_URL."""

    code = "database-unavailable"
    status = 503
    title = "The database can't be reached"
    retryable = True
    default_retry_after_s = 2.0


class SchemaNotMigrated(DatabaseUnavailable):
    """PostgreSQL is there, but its schema isn't that of this version: a table or a column is missing.

    Run `greenroom migrate` of this version, before its services start: docs/runbooks/upgrade.md. What doesn't need
    what is missing goes on; nothing is lost.
    """

    code = "schema-not-migrated"
    title = "The database has to be migrated"


class SchedulerUnavailable(GreenroomError):
    """No scheduler leads, so nothing is placed. Requests are kept; start a scheduler or read its log."""

    code = "scheduler-unavailable"
    status = 503
    title = "No scheduler leads"
    retryable = True
    default_retry_after_s = 3.0


class SettingsInvalid(GreenroomError):
    """The environment doesn't fit the settings; the detail names every variable. docs/configuration.md lists them."""

    code = "settings-invalid"
    title = "The settings are wrong"


class TopologyMissing(GreenroomError):
    """A stream or consumer doesn't exist. Services never create them: run `greenroom topology apply`."""

    code = "topology-missing"
    status = 503
    title = "A stream or consumer is missing"
    retryable = True
