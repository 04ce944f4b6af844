"""The assistant when OpenAI's services fail: errors, time-outs, lost connections."""

from collections.abc import AsyncIterator

import pytest

from greenroom.runner.bots import assistant
from tests.support.bot_line import call_to
from tests.support.openai_stub import (
    CHAT,
    KEY,
    SPEECH,
    TRANSCRIPTIONS,
    Breaks,
    Fails,
    OpenAIStub,
    Says,
    Stalls,
    running_openai_stub,
)

# A pause ends the caller's turn: what Pipecat's model thinks of synthetic speech isn't what is tested.
BODY = {"end_of_turn": "pause", "greeting": "Hello there.", "llm_model": "stub-1", "voice": "sage"}
# What the caller says; the stub doesn't listen.
QUESTION = "is anybody there"


@pytest.fixture
async def stub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenAIStub]:
    """A server, and an environment that points to it."""
    async with running_openai_stub() as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield running


@pytest.mark.parametrize(
    ("path", "trouble"),
    [
        (TRANSCRIPTIONS, [Fails(500)] * 3),
        (CHAT, [Fails(429)] * 2),
        (CHAT, [Stalls()] * 2),
        (CHAT, [Breaks()]),
    ],
    ids=["no transcript", "rate limit", "model silent", "connection lost"],
)
async def test_the_caller_is_told_when_an_answer_fails(
    stub: OpenAIStub, monkeypatch: pytest.MonkeyPatch, path: str, trouble: list[Fails | Stalls | Breaks]
) -> None:
    """A failure that may pass is apologised for."""
    monkeypatch.setattr(assistant, "_LLM_TIMEOUT_S", 0.3)
    stub.trouble[path].extend(trouble)
    async with call_to(assistant, monkeypatch, BODY) as call:
        await call.answered(1)
        await call.say(QUESTION)
        await call.until(lambda: assistant.APOLOGY in call.seen.said)
    assert call.seen.errors
    assert [type(end).__name__ for end in call.seen.ends] == ["CancelFrame"]


async def test_the_call_goes_on_after_an_apology(stub: OpenAIStub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is over: the next question is answered."""
    stub.trouble[CHAT].extend([Fails(500)] * 2)
    stub.default_reply = Says("Here I am.")
    async with call_to(assistant, monkeypatch, BODY) as call:
        await call.answered(1)
        await call.say(QUESTION)
        await call.answered(2)
        await call.say(QUESTION)
        await call.answered(3)
    assert call.seen.said == f"Hello there. {assistant.APOLOGY} Here I am."


async def test_speech_that_fails_doesnt_end_the_call(stub: OpenAIStub, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that can't be spoken is lost; the next one is heard."""
    stub.trouble[SPEECH].extend([Fails(500)] * 3)
    async with call_to(assistant, monkeypatch, BODY) as call:
        await call.until(lambda: bool(call.seen.errors))
        await call.say(QUESTION)
        await call.until(lambda: "All right." in call.seen.said)
    assert call.seen.said == "All right."
