"""What is written about webhooks and steps after calls is true: their snippets run, their examples are real."""

import asyncio
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from greenroom.recorder.post_call import Call, Line, StepRefused
from greenroom.recorder.webhooks import signing
from greenroom.recorder.webhooks.payload import payload
from greenroom.recorder.webhooks.store import Job, SessionFacts, StoredEvent
from tests.support.webhook_world import SECRET
from tests.support.workspace import ROOT

WEBHOOKS = (ROOT / "docs" / "webhooks.md").read_text()
NEW = "whsec_bmV3ZXIgdGhhbiB0aGUgb3RoZXIgb25lLCBpc24ndCBpdA=="
AT = datetime(2026, 11, 21, 15, tzinfo=UTC)


def snippet(text: str, language: str) -> str:
    """Return the first block of a language."""
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found
    return found[1]


def run(text: str) -> dict[str, Any]:
    """Return what a page's Python defines."""
    names: dict[str, Any] = {}
    exec(compile(snippet(text, "python"), "docs", "exec"), names)  # noqa: S102 it is ours
    return names


def test_the_verification_of_the_docs_verifies() -> None:
    """It takes what we sign, by either secret while both hold, and nothing that was changed, is old, or another's."""
    verified = run(WEBHOOKS)["verified"]
    now = int(time.time())
    headers = signing.headers([NEW, SECRET], message_id="msg_1", timestamp=now, body=b"{}")
    assert verified(NEW, headers, b"{}")
    assert verified(SECRET, headers, b"{}")
    assert not verified(SECRET, headers, b"{ }")
    assert not verified(SECRET, headers | {"webhook-id": "msg_2"}, b"{}")
    assert not verified("whsec_b3RoZXI=", headers, b"{}")
    assert not verified(SECRET, {}, b"{}")
    old = signing.headers([SECRET], message_id="msg_1", timestamp=now - 301, body=b"{}")
    assert not verified(SECRET, old, b"{}")


def a_job(event_type: str) -> Job:
    """Return a delivery as it is read from the database."""
    facts = SessionFacts(
        agent="frontdesk",
        agent_version=1,
        transport="websocket",
        metadata={"crm": "7"},
        requested_at=AT,
        ready_at=AT,
        ended_at=AT + timedelta(seconds=2.5),
    )
    return Job(
        id="msg_1",
        endpoint_id="e",
        lane="s",
        tenant="default",
        type=event_type,
        session_id="s",
        position=7,
        attempts=0,
        created_at=AT,
        give_up_at=AT,
        url="https://a.example",
        secrets=(SECRET,),
        failures=0,
        is_test=False,
        notice=None,
        event=StoredEvent(id="1", at=AT, source="ledger", data={"outcome": "completed"}, session=facts),
    )


def test_the_example_of_the_docs_is_what_is_sent() -> None:
    """The same fields, in the same order; times of the end at the end alone."""
    example = msgspec.json.decode(snippet(WEBHOOKS, "json"), type=dict[str, Any])
    sent = msgspec.json.decode(payload(a_job("session.ended")) or b"", type=dict[str, Any])
    assert list(sent) == list(example)
    assert list(sent["session"]) == list(example["session"])
    assert sent["session"]["duration_s"] == 2.5
    before = msgspec.json.decode(payload(a_job("session.ready")) or b"", type=dict[str, Any])
    assert set(example["session"]) - set(before["session"]) == {"ready_at", "ended_at", "duration_s"}


def test_a_delivery_shows_no_secret() -> None:
    """Wherever it is printed."""
    assert SECRET not in repr(a_job("session.ended"))


def test_the_step_of_the_docs_is_a_step() -> None:
    """It is run with a call and does what is said of it."""
    step = run((ROOT / "docs" / "post-call.md").read_text())["Crm"]()
    call = Call(
        session_id="s",
        tenant="t",
        agent="a",
        agent_version=1,
        transport="websocket",
        outcome="completed",
        reason="goodbye",
        metadata={"crm": "7"},
        body={},
        requested_at=AT,
        ready_at=AT,
        ended_at=AT,
        lines=(Line(who="caller", text="Good morning."),),
        recording=None,
    )
    assert asyncio.run(step.run(call)) == {"customer": "7", "words": 2}
    assert asyncio.run(step.run(msgspec.structs.replace(call, metadata={}))) is None
    with pytest.raises(StepRefused):
        asyncio.run(step.run(msgspec.structs.replace(call, metadata={"crm": "x"})))
