"""The two phases of idempotency, with crashes anywhere."""

import asyncio
from random import Random
from typing import Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.api.idempotency import Answered, Idempotency, InvalidIdempotencyKey, Reserved
from greenroom.common.errors import IdempotencyMismatch
from tests.support.memory_broker import MemoryServer

BODY: Final = "a" * 64


async def test_the_first_reserves_and_the_next_finds_the_answer() -> None:
    """Reserve, answer, replay."""
    idempotency = Idempotency(MemoryServer().connect())
    assert await idempotency.answered("t", "k", BODY) is None
    begun = await idempotency.begin("t", "k", BODY)
    assert isinstance(begun, Reserved)
    assert await idempotency.answered("t", "k", BODY) is None
    assert await idempotency.finish("t", "k", begun, 201, b'{"a":1}') is None
    expected = Answered(session_id=begun.session_id, status=201, answer=msgspec.Raw(b'{"a":1}'))
    assert await idempotency.answered("t", "k", BODY) == expected
    assert await idempotency.begin("t", "k", BODY) == expected


async def test_another_body_is_another_request() -> None:
    """Whether it is answered or not."""
    idempotency = Idempotency(MemoryServer().connect())
    begun = await idempotency.begin("t", "k", BODY)
    with pytest.raises(IdempotencyMismatch):
        await idempotency.begin("t", "k", "b" * 64)
    assert isinstance(begun, Reserved)
    await idempotency.finish("t", "k", begun, 201, b"{}")
    for ask in (idempotency.begin, idempotency.answered):
        with pytest.raises(IdempotencyMismatch):
            await ask("t", "k", "b" * 64)


@pytest.mark.parametrize("key", ["", " a", "a ", "x" * 256, "a\tb", "ü", "a\nb"])
async def test_an_unusable_key_reserves_nothing(key: str) -> None:
    """Keys are printable ASCII, without blanks around."""
    idempotency = Idempotency(MemoryServer().connect())
    with pytest.raises(InvalidIdempotencyKey):
        await idempotency.begin("t", key, BODY)


class Request:
    """One of several processes that handle the same request, and may die after any of its steps."""

    def __init__(self, idempotency: Idempotency, ledger: dict[str, str], name: str, steps: int) -> None:
        self._idempotency = idempotency
        # What stands for the real ledger: an id is taken once.
        self._ledger = ledger
        self._name = name
        self._left = steps
        self.answer: bytes | None = None

    async def handle(self) -> None:
        """Handle the request, as far as we live."""
        if not await self._step():
            return
        begun = await self._idempotency.begin("t", "k", BODY)
        if isinstance(begun, Answered):
            self.answer = bytes(begun.answer)
            return
        if not await self._step():
            return
        maker = self._ledger.setdefault(begun.session_id, self._name)
        if not await self._step():
            return
        answer = msgspec.json.encode([begun.session_id, maker, self._name])
        first = await self._idempotency.finish("t", "k", begun, 201, answer)
        if await self._step():
            self.answer = bytes(first.answer) if first else answer

    async def _step(self) -> bool:
        """Let others run, and tell whether we live on."""
        await asyncio.sleep(0)
        self._left -= 1
        return self._left >= 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_whoever_dies_when_there_is_one_session_and_one_answer(lives: list[int], random: Random) -> None:
    """Any number of duplicates, each dying anywhere, make one session; all that are answered are told the same."""

    async def scenario() -> None:
        server, ledger = MemoryServer(), dict[str, str]()
        requests = [
            Request(Idempotency(server.connect()), ledger, f"process-{index}", steps)
            for index, steps in enumerate(lives)
        ]
        survivor = Request(Idempotency(server.connect()), ledger, "survivor", 4)
        random.shuffle(requests)
        await asyncio.gather(*(request.handle() for request in requests))
        await survivor.handle()
        assert len(ledger) == 1
        assert survivor.answer is not None
        assert {request.answer for request in requests} <= {None, survivor.answer}

    asyncio.run(scenario())
