"""How long an answer waits, what a refusal is answered with, and under which names things are counted."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.api.body import decode
from greenroom.api.canonical import canonical_number, canonical_room, dialled_number
from greenroom.api.ended_early import SessionEndedEarly
from greenroom.api.patience import DECISION_TIMEOUT_S, give_up, patience, unanswered
from greenroom.api.problem import render
from greenroom.api.refusals import may_be_refused
from greenroom.api.schemas import CreateSession
from greenroom.api.sessions import _digest
from greenroom.common.errors import GreenroomError, InvalidBody
from greenroom.common.lifecycle import Ended, Ending, Outcome, Session, State
from greenroom.common.policy import AtLimit, Limit, Policy, Scope
from tests.support.ledgers import AT


def a_session(**fields: Any) -> Session:
    """Return a session of acme's agent frontdesk."""
    return Session(
        id="s", tenant="acme", agent="frontdesk", bot="frontdesk", requested_at=AT, queue_deadline_at=AT, **fields
    )


def refusing(scope: Scope, **fields: Any) -> Limit:
    """Return a limit that refuses."""
    plain: dict[str, Any] = {"id": "l", "scope": scope, "max_sessions": 1, "at_limit": AtLimit.REFUSE}
    return Limit(**(plain | fields))


# ---------------------------------------------------------------------------- who is told of the first decision


@pytest.mark.parametrize(
    ("limit", "session", "expected"),
    [
        (refusing(Scope.TENANT), a_session(), True),
        (refusing(Scope.TENANT, tenant="acme"), a_session(), True),
        (refusing(Scope.TENANT, tenant="other"), a_session(), False),
        (refusing(Scope.TENANT, at_limit=AtLimit.QUEUE), a_session(), False),
        (refusing(Scope.TENANT, max_sessions=None, max_starts_per_s=1.0), a_session(), False),
        (refusing(Scope.AGENT, key="frontdesk"), a_session(), True),
        (refusing(Scope.AGENT, key="other"), a_session(), False),
        (refusing(Scope.AGENT_VERSION), a_session(), True),
        (refusing(Scope.AGENT_VERSION, key="frontdesk@7"), a_session(), True),
        (refusing(Scope.AGENT_VERSION, key="other@7"), a_session(), False),
        (refusing(Scope.CARRIER), a_session(), False),
        (refusing(Scope.CARRIER), a_session(carrier="twilio"), True),
        (refusing(Scope.NUMBER, key="+4930123"), a_session(number="+4930123"), True),
        (refusing(Scope.NUMBER, key="+4930123"), a_session(number="+4930124"), False),
        (refusing(Scope.ACCOUNT, key="openai/main"), a_session(accounts=("azure/1", "openai/main")), True),
        (refusing(Scope.ACCOUNT, key="openai/main"), a_session(), False),
    ],
)
def test_a_refusal_is_expected_where_a_limit_counts_the_session(limit: Limit, session: Session, expected: bool) -> None:  # noqa: FBT001 the outcome
    """Only limits that refuse, and count this very session, make its caller wait for the decision."""
    assert may_be_refused(Policy(limits=(limit,)), session) is expected


def test_a_room_may_always_be_busy() -> None:
    """A session in a room is waited for without any limit."""
    assert may_be_refused(Policy(), a_session(room="https://meet.example.org/a"))
    assert not may_be_refused(Policy(), a_session())


def test_nobody_waits_without_a_reason() -> None:
    """Where nothing can be refused the answer comes at once, as before there were limits."""
    wish = CreateSession(agent="frontdesk")
    assert patience(wish, a_session(), Policy()).states == frozenset()
    held = patience(wish, a_session(room="r"), Policy())
    assert (held.timeout_s, held.bound) == (DECISION_TIMEOUT_S, False)
    assert held.over(a_session(leased_at=AT))
    assert held.over(a_session(state=State.ENDED))
    assert not held.over(a_session())


def test_a_session_that_was_stopped_meanwhile_is_an_answer() -> None:
    """Whoever only asked for a session is told of a refusal, not of what others did with it since."""
    held = patience(CreateSession(agent="frontdesk"), a_session(room="r"), Policy())
    assert held.answers(a_session(state=State.ENDED, outcome=Outcome.CANCELED))
    assert not held.answers(a_session(state=State.ENDED, outcome=Outcome.REJECTED))


def test_a_waited_for_session_ends_with_its_connection() -> None:
    """At once while nobody holds it, else in order; what ends already ends as it does."""
    ended = give_up(a_session())
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.reason) == ("canceled", "caller-gave-up")
    for state in (State.LEASED, State.STARTED, State.READY):
        ending = give_up(a_session(state=state, epoch=3))
        assert isinstance(ending, Ending)
        assert (ending.epoch, ending.outcome, ending.reason) == (3, "canceled", "caller-gave-up")
    assert give_up(a_session(state=State.ENDING)) is None
    assert give_up(a_session(state=State.ENDED)) is None


def test_a_session_whose_caller_gets_no_way_in_ends_as_a_failure() -> None:
    """It says what was the matter, in the words that the caller got."""
    error = GreenroomError("Daily: no answer in time.")
    ended = unanswered(a_session(), error)
    assert isinstance(ended, Ended)
    assert (ended.by, ended.outcome, ended.reason) == ("api", "failed", "transport-failed")
    assert ended.detail == "Daily: no answer in time."
    ending = unanswered(a_session(state=State.READY, epoch=2), error)
    assert isinstance(ending, Ending)
    assert (ending.epoch, ending.detail) == (2, ended.detail)
    assert unanswered(a_session(state=State.ENDING), error) is None


# ---------------------------------------------------------------------------- how a refusal is answered


@pytest.mark.parametrize(
    ("outcome", "reason", "after_s", "status", "header"),
    [
        (Outcome.REJECTED, "limit-reached", 13.2, 429, "14"),
        (Outcome.REJECTED, "limit-reached", None, 429, "1"),
        (Outcome.REJECTED, "room-busy", None, 409, "1"),
        (Outcome.REJECTED, "no-runner-for-agent", None, 503, "1"),
        (Outcome.EXPIRED, "queue-expired", 30.0, 503, "30"),
        (Outcome.CANCELED, "caller-gave-up", None, 409, None),
        # A bot that ends its own session may give any reason.
        (Outcome.COMPLETED, "limit-reached", None, 409, "1"),
        (Outcome.FAILED, "odd", None, 502, None),
    ],
)
def test_the_end_says_what_to_answer(
    outcome: Outcome, reason: str, after_s: float | None, status: int, header: str | None
) -> None:
    """Limits are 429 with the computed time, rooms 409; the code is the reason; nobody comes back too early."""
    session = a_session(
        state=State.ENDED, outcome=outcome, reason=reason, detail="acme: 20 of 20", retry_after_s=after_s
    )
    rendered = render(SessionEndedEarly(session), "/v1/sessions")
    problem = msgspec.json.decode(rendered.body)
    assert (rendered.status, rendered.code, rendered.headers.get("retry-after")) == (status, reason, header)
    assert (problem["session_id"], problem["outcome"]) == ("s", outcome)
    assert (problem["detail"] == "acme: 20 of 20") is (outcome is Outcome.REJECTED)


# ---------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("room", "same"),
    [
        ("HTTPS://Meet.Example.ORG/Room", "https://meet.example.org/Room"),
        ("https://meet.example.org/Room/", "https://meet.example.org/Room"),
        ("https://meet.example.org:443/Room", "https://meet.example.org/Room"),
        ("https://meet.example.org/", "https://meet.example.org"),
        ("sip://User@PBX.example.org:5061/a//", "sip://User@pbx.example.org:5061/a"),
        ("https://meet.example.org/Room/?lang=EN", "https://meet.example.org/Room?lang=EN"),
        ("Team room/", "Team room/"),
        ("https://[broken/", "https://[broken/"),
        ("mailto:Somebody@Example.org", "mailto:Somebody@Example.org"),
    ],
)
def test_a_room_is_one_room_however_it_is_written(room: str, same: str) -> None:
    """Of URLs, case of scheme and host, the usual port and a last slash make no difference; other names are kept."""
    assert canonical_room(room) == same


@given(st.text(max_size=40) | st.from_regex(r"[a-zA-Z]{2,5}://[a-zA-Z.:@/?#\[\]0-9]{0,30}", fullmatch=True))
def test_a_canonical_room_stays_as_it_is(room: str) -> None:
    """Making it canonical again changes nothing."""
    assert canonical_room(canonical_room(room)) == canonical_room(room)


def test_a_number_is_one_number_however_it_is_written() -> None:
    """Separators between digits make no difference; what isn't a number is kept."""
    assert canonical_number("+49 (30) 123-45.6") == canonical_number("+493012345 6") == "+4930123456"
    assert canonical_number("sip:a@b.org") == "sip:a@b.org"


@pytest.mark.parametrize(
    ("written", "bare", "number"),
    [
        ("4915112345678", True, "+4915112345678"),
        ("+49 151 12345678", True, "+4915112345678"),
        ("4915112345678", False, "4915112345678"),
        ("08012345678", True, "08012345678"),
        ("911", True, "911"),
        ("anonymous", True, "anonymous"),
        ("sip:4915112345678@b.org", True, "sip:4915112345678@b.org"),
        ("", True, ""),
    ],
)
def test_a_carrier_that_leaves_out_the_plus_means_the_same_number(written: str, bare: bool, number: str) -> None:  # noqa: FBT001
    """Only of what has a country's code; others write local numbers in the same way."""
    assert dialled_number(written, bare=bare) == number


# ---------------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("raw", "digest"),
    [
        (b'{"agent":"echo"}', "aac6b30c974f4f3d119faef1a0a239ce81d50d443e45bb17c6a0f6554af7141c"),
        (
            b'{"agent":"echo","body":{"b":1.5,"a":[2,null]},"limits":{"join_timeout_s":5},"wait":"ready"}',
            "c3ba6493640bd57354375926e76258c492f2b1dd27f6670bf0cea72b6a1b298e",
        ),
    ],
)
def test_a_request_keeps_its_digest_over_upgrades(raw: bytes, digest: str) -> None:
    """A key that was used before fields were added still fits its request; written-out defaults change nothing."""
    wish = decode(raw, CreateSession)
    assert _digest(wish) == digest
    spelt = {**msgspec.json.decode(raw), "priority": "normal", "room": None, "requires": {}, "accounts": []}
    assert _digest(decode(msgspec.json.encode(spelt), CreateSession)) == digest
    other = {**msgspec.json.decode(raw), "room": "r"}
    assert _digest(decode(msgspec.json.encode(other), CreateSession)) != digest


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("requires", {"a b": "c"}),
        ("requires", {f"k{i}": "v" for i in range(17)}),
        ("prefers", {"k": "v" * 65}),
        ("prefers", {"k": 1}),
        ("priority", "urgent"),
        ("room", ""),
        ("room", " a"),
        ("room", "a\u0000b"),
        ("room", "x" * 513),
        ("carrier", "a\n"),
        ("number", "x" * 129),
        ("accounts", ["a"] * 17),
        ("accounts", [""]),
        ("sticky_key", "\t"),
    ],
)
def test_what_limits_count_by_is_bounded(field: str, value: Any) -> None:
    """Names without an end, or that can't be shown, are refused with their place."""
    with pytest.raises(InvalidBody) as refused:
        decode(msgspec.json.encode({"agent": "a", field: value}), CreateSession)
    assert refused.value.errors[0].pointer.split("/")[1] == field
