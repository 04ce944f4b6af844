"""How calls end sessions: a table, over all states and all that carriers say."""

from datetime import UTC, datetime
from typing import Any

import pytest

from greenroom.api.carriers.base import Call, CallNews, Status
from greenroom.api.carriers.ends import hung_up, line_busy
from greenroom.api.carriers.references import dereference, reference
from greenroom.common.ids import uuid7
from greenroom.common.lifecycle import Ended, Ending, Outcome, Session, State
from greenroom.common.reasons import Reason

_AT = datetime(2026, 5, 14, 10, tzinfo=UTC)
_LIVE = [State.REQUESTED, State.LEASED, State.STARTED, State.READY]


def _session(state: State) -> Session:
    fields: dict[str, Any] = {"agent": "a", "bot": "a", "requested_at": _AT, "queue_deadline_at": _AT}
    return Session(id=uuid7(), tenant="default", state=state, **fields)


def _news(status: Status) -> CallNews:
    return CallNews(call=Call(call_id="c"), status=status, told=status.value, cause="17")


@pytest.mark.parametrize("status", [status for status in Status if status.final])
@pytest.mark.parametrize("state", list(State))
def test_the_end_of_a_call_ends_its_session_once(state: State, status: Status) -> None:
    """At once while it waits, in order while it runs, never when it is over; the reason has the right outcome."""
    end = hung_up(_session(state), _news(status))
    if state not in _LIVE:
        assert end is None
        return
    assert isinstance(end, Ended if state is State.REQUESTED else Ending)
    reason = Reason(end.reason)
    assert reason.outcome == end.outcome
    assert end.detail == "17"
    assert (status is Status.COMPLETED) == (reason in {Reason.CLIENT_LEFT, Reason.CALLER_GAVE_UP})


@pytest.mark.parametrize("state", list(State))
def test_a_refused_call_is_rejected(state: State) -> None:
    """Whatever became of its session meanwhile, it gets no slot any more."""
    end = line_busy(_session(state))
    assert (end is None) == (state not in _LIVE)
    assert end is None or (isinstance(end, Ended | Ending) and end.outcome is Outcome.REJECTED)


def test_references_are_for_one_session_and_one_secret() -> None:
    """They can be read back, and not be made by anybody else."""
    session_id = uuid7()
    made = reference(b"secret", "acme", session_id)
    assert dereference(b"secret", made) == ("acme", session_id)
    assert dereference(b"other", made) is None
    for changed in (made + "A", made.replace("acme", "evil"), made[:-1], "", "a.b.c", f"acme.{uuid7()}.{made[-32:]}"):
        assert dereference(b"secret", changed) is None
