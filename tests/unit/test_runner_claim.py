"""What a claim is, where it comes from, and what the ledger may say of it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from greenroom.common.lifecycle import Session, State
from greenroom.runner.__main__ import environment
from greenroom.runner.claim import Claim
from greenroom.runner.coldstart import Finding, judge, process_age_s

AT = datetime(2026, 1, 1, tzinfo=UTC)
CLAIM = Claim(tenant="acme", session_id="s-1", epoch=2)


def session(**changes: Any) -> Session:
    """The session as it was leased to the claim's runner."""
    fields: dict[str, Any] = {
        "id": "s-1",
        "tenant": "acme",
        "agent": "echo",
        "bot": "echo",
        "state": State.LEASED,
        "epoch": 2,
        "runner_id": "cold-s-1-2",
        "requested_at": AT,
        "queue_deadline_at": AT,
    }
    return Session(**fields | changes)


def test_a_claim_names_lease_and_runner() -> None:
    """Tenant, session and epoch are read, and give the id of the lease and of the runner it was granted to."""
    claim = Claim.parse("acme/s-1/2")
    assert claim == CLAIM
    assert (claim.id, claim.runner_id) == ("s-1-2", "cold-s-1-2")


@pytest.mark.parametrize("text", ["", "s-1", "acme/s-1", "acme/s-1/0", "acme/s-1/x", "acme/s.1/1", "a/b/c/1", "/s-1/1"])
def test_what_is_no_claim_is_named(text: str) -> None:
    """Anything else is refused with what was expected."""
    with pytest.raises(ValueError, match="isn't TENANT/SESSION_ID/EPOCH"):
        Claim.parse(text)


@pytest.mark.parametrize(
    ("ledger", "finding"),
    [
        (session(), Finding.HELD),
        (None, Finding.UNSEEN),
        (session(epoch=1, state=State.REQUESTED, runner_id=None), Finding.UNSEEN),
        (session(state=State.REQUESTED, runner_id=None), Finding.GONE),
        (session(epoch=3, runner_id="cold-s-1-3"), Finding.GONE),
        (session(runner_id="runner-1"), Finding.GONE),
        (session(state=State.STARTED), Finding.GONE),
        (session(state=State.ENDED), Finding.GONE),
        (session(state=State.ENDING), Finding.STOPPED),
        (session(state=State.ENDING, started_at=AT), Finding.GONE),
    ],
)
def test_only_the_lease_of_that_epoch_is_claimed(ledger: Session | None, finding: Finding) -> None:
    """A claim holds while the session is leased to its runner in its epoch, and is waited for until that is seen."""
    assert judge(CLAIM, ledger) is finding


def test_the_argument_goes_before_the_environment() -> None:
    """`--claim` replaces `GREENROOM_CLAIM`; without it the environment is as it was."""
    env = {"GREENROOM_CLAIM": "acme/other/1", "GREENROOM_POOL": "eu"}
    assert environment([], env) == env
    assert environment(["--claim", "acme/s-1/2"], env) == {**env, "GREENROOM_CLAIM": "acme/s-1/2"}


def test_an_argument_that_is_no_claim_ends_the_runner(capsys: pytest.CaptureFixture[str]) -> None:
    """The usage and what was expected are on stderr, and the exit code is 2."""
    with pytest.raises(SystemExit) as left:
        environment(["--claim", "s-1"], {})
    assert left.value.code == 2
    assert "'s-1' isn't TENANT/SESSION_ID/EPOCH" in capsys.readouterr().err


def test_a_process_knows_its_age() -> None:
    """The kernel tells since when this process has been there."""
    first = process_age_s()
    assert 0 < first < 3600
    assert process_age_s() >= first
