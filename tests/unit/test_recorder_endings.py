"""Who seals is told of ends that others stored, once each."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, cast

from greenroom.common.lifecycle import Session
from greenroom.recorder.endings import MAX_REMEMBERED, Endings
from greenroom.recorder.store import Store

AT = datetime(2026, 3, 1, tzinfo=UTC)


class Unsealed:
    """A store that knows which sessions aren't sealed."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def unsealed(self, *, besides: Iterable[str], limit: int) -> list[Session]:
        """Return them."""
        left = [each for each in self.ids if each not in set(besides)]
        return [_session(each) for each in left[:limit]]


def _session(session_id: str) -> Session:
    values: dict[str, Any] = {"id": session_id, "tenant": "t", "agent": "a", "bot": "b"}
    return Session(**values, requested_at=AT, queue_deadline_at=AT)


async def test_each_end_is_told_once() -> None:
    """Also if it stays unsealed: what fails is tried again by the sealer in its own time."""
    store, told = Unsealed(), list[str]()
    endings = Endings(cast("Store", store), lambda session: told.append(session.id))
    store.ids = ["a", "b"]
    assert await endings.look() == 2
    store.ids = ["b", "c"]
    assert (await endings.look(), await endings.look()) == (1, 0)
    assert told == ["a", "b", "c"]


async def test_it_remembers_so_many_and_no_more() -> None:
    """However many have ended: the oldest are forgotten first."""
    store, told = Unsealed(), list[str]()
    endings = Endings(cast("Store", store), lambda session: told.append(session.id))
    store.ids = [f"{number:05}" for number in range(MAX_REMEMBERED + 500)]
    for _ in range(3):
        await endings.look()
    assert set(told) == set(store.ids)
    assert len(endings._told) == MAX_REMEMBERED
