"""Secrets of sessions, over the broker in memory."""

import pytest

from greenroom.common.ids import uuid7
from greenroom.common.secrets import SecretBox
from tests.support.memory_broker import MemoryServer


@pytest.fixture
def box() -> SecretBox:
    """A box on a broker of its own."""
    return SecretBox(MemoryServer().connect())


async def test_secrets_are_taken_once(box: SecretBox) -> None:
    """Who takes them has them; nobody gets them again."""
    session = uuid7()
    await box.put("default", session, {"room_token": "t"})
    assert await box.take("default", session, keep=False) == {"room_token": "t"}
    assert await box.take("default", session, keep=False) == {}


async def test_secrets_may_be_kept_for_another_try(box: SecretBox) -> None:
    """A session that may be put elsewhere finds them there, until they are forgotten."""
    session = uuid7()
    await box.put("default", session, {"room_token": "t"})
    assert await box.take("default", session, keep=True) == {"room_token": "t"}
    assert await box.take("default", session, keep=True) == {"room_token": "t"}
    await box.forget("default", session)
    await box.forget("default", session)
    assert await box.take("default", session, keep=True) == {}


async def test_a_session_without_secrets_has_none(box: SecretBox) -> None:
    """Nothing was laid down, or for somebody else: there is nothing to take."""
    await box.put("other", (session := uuid7()), {"room_token": "t"})
    assert await box.take("default", session, keep=False) == {}
    assert await box.take("other", uuid7(), keep=False) == {}


async def test_secrets_laid_down_anew_replace_the_old(box: SecretBox) -> None:
    """A request that is repeated lays down fresh tokens."""
    session = uuid7()
    await box.put("default", session, {"room_token": "old", "more": "x"})
    await box.put("default", session, {"room_token": "new"})
    assert await box.take("default", session, keep=False) == {"room_token": "new"}
