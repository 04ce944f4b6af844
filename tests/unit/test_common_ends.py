"""Every end has a reason, an outcome, and somebody who decides it."""

from pathlib import Path

import pytest

from greenroom.common.ends import ENDS
from greenroom.common.lifecycle import Outcome
from greenroom.common.reasons import Reason

ROOT = Path(__file__).parents[2]
ENDING = [reason for reason in Reason if reason.outcome is not None]


def test_every_reason_that_ends_a_session_has_somebody_who_decides() -> None:
    """Whoever adds a reason says who decides it, and when; no other reason is in the table."""
    assert set(ENDS) == set(ENDING)


@pytest.mark.parametrize("reason", ENDING)
def test_it_is_decided_where_the_table_says(reason: Reason) -> None:
    """The file is there and knows the reason, and the outcome is one that sessions have."""
    end = ENDS[reason]
    assert f"Reason.{reason.name}" in (ROOT / end.where).read_text()
    assert Outcome(reason.outcome or "")
    service = {"bot": "runner", "session": "runner", "client": "api"}.get(end.by, end.by)
    assert end.where.startswith(f"services/{service}/")
