"""The catalogue of errors and reasons."""

import re

import pytest

from greenroom.common import catalogue
from greenroom.common.errors import (
    BrokerUnavailable,
    FieldProblem,
    GreenroomError,
    InternalError,
    InvalidBody,
    SessionNotFound,
    known,
    registered,
)
from greenroom.common.reasons import Reason


def test_every_error_is_explained() -> None:
    """Each error has a kebab-case code, an HTTP status, a title, and a help text of its own."""
    catalogue.catalogue()
    for error in registered():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", error.code), error
        assert 400 <= error.status <= 599, error
        assert error.title, error
        assert vars(error)["__doc__"], error
        assert error.default_retry_after_s is None or error.retryable, error


def test_every_reason_is_explained() -> None:
    """Each reason has a code, a line, a help text, and an outcome the lifecycle knows, or none."""
    outcomes = {"completed", "failed", "canceled", "rejected", "expired", "lost", None}
    for reason in Reason:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", reason.value)
        assert reason.summary
        assert reason.help
        assert reason.outcome in outcomes


def test_no_code_has_two_meanings() -> None:
    """Errors and reasons share one name space, and the catalogue holds all of both."""
    assert len(catalogue.catalogue()) == len(registered()) + len(Reason)
    with pytest.raises(TypeError, match="both have the code session-not-found"):
        type("Impostor", (GreenroomError,), {"code": "session-not-found"})


def test_errors_beside_their_use_are_in_the_catalogue() -> None:
    """An error that another module defines is found without having been imported by the caller."""
    entry = catalogue.lookup("no-responder")
    assert entry is not None
    assert entry.status == 503


def test_lookup_explains_a_reason() -> None:
    """A reason of a session is explained like an error, and says with which outcome it ends one."""
    entry = catalogue.lookup(Reason.RUNNER_LOST)
    assert entry is not None
    assert (entry.status, entry.outcome) == (None, "lost")
    assert catalogue.lookup("nothing-like-it") is None


def test_problem_is_rfc_9457() -> None:
    """A problem has type, title, status and detail, and our code and retryability; the instance if it is known."""
    problem = SessionNotFound("no session 42").problem("/v1/sessions/42")
    assert problem == {
        "type": "/errors/session-not-found",
        "title": "No such session",
        "status": 404,
        "detail": "no session 42",
        "code": "session-not-found",
        "retryable": False,
        "instance": "/v1/sessions/42",
    }


def test_problem_points_at_fields() -> None:
    """A wrong body is answered with a JSON pointer for each problem."""
    problem = InvalidBody("1 problem", errors=[FieldProblem(pointer="/limits/x", detail="too large")]).problem()
    assert problem["errors"] == [{"pointer": "/limits/x", "detail": "too large"}]
    assert "instance" not in problem


def test_retry_after_has_a_default() -> None:
    """An error that goes away by itself says when to try again, and one occurrence may say otherwise."""
    assert BrokerUnavailable().problem()["retry_after_s"] == 1.0
    assert BrokerUnavailable(retry_after_s=7).problem()["retry_after_s"] == 7


def test_foreign_exceptions_tell_nothing() -> None:
    """Whatever isn't one of ours becomes an internal error without its text."""
    error = known(ValueError("password is hunter2"))
    assert isinstance(error, InternalError)
    assert "hunter2" not in str(error.problem())
    mine = SessionNotFound("x")
    assert known(mine) is mine
