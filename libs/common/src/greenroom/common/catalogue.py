"""Errors and reasons side by side: what `greenroom error CODE` and docs/errors.md show."""

import importlib
import inspect
import pkgutil

import msgspec

import greenroom.common
from greenroom.common.errors import GreenroomError, registered
from greenroom.common.reasons import Reason


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the catalogue: an error (`status` set) or a reason of a session (`status` None)."""

    code: str
    title: str
    help: str
    # Whether the same request, or asking for a new session, may go better with nothing changed.
    retryable: bool
    status: int | None = None
    # The module that defines it.
    origin: str = __name__
    # With which outcome a session ends for this reason; None for errors, and for reasons that don't end it.
    outcome: str | None = None


def catalogue() -> dict[str, Entry]:
    """Return every error and every reason by code, sorted.

    Imports all of this package, since errors may be defined beside what raises them.
    """
    for module in pkgutil.iter_modules(greenroom.common.__path__, "greenroom.common."):
        importlib.import_module(module.name)
    entries = [_of_error(error) for error in registered()] + [_of_reason(reason) for reason in Reason]
    return {entry.code: entry for entry in sorted(entries, key=lambda entry: entry.code)}


def lookup(code: str) -> Entry | None:
    """Return what the catalogue says on `code`, or None."""
    return catalogue().get(code)


def _of_error(error: type[GreenroomError]) -> Entry:
    return Entry(
        code=error.code,
        title=error.title,
        help=inspect.cleandoc(error.__doc__ or ""),
        retryable=error.retryable,
        origin=error.__module__,
        status=error.status,
    )


def _of_reason(reason: Reason) -> Entry:
    return Entry(
        code=reason.value,
        title=reason.summary,
        help=reason.help,
        retryable=reason.retryable,
        outcome=reason.outcome,
    )
