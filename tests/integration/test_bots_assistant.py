"""The assistant against a server that speaks OpenAI's wire format."""

import asyncio
import time
from collections.abc import AsyncIterator

import openai
import pytest
from pipecat.runner.types import WebSocketRunnerArguments

from greenroom.runner.bots import assistant
from tests.support.bot_line import RATE, call_to, loudness
from tests.support.openai_stub import (
    CHAT,
    KEY,
    SPEECH,
    TRANSCRIPTIONS,
    WORD_S,
    Calls,
    Fails,
    OpenAIStub,
    Says,
    running_openai_stub,
)

# A pause ends the caller's turn: what Pipecat's model thinks of synthetic speech isn't what is tested.
BODY = {"end_of_turn": "pause", "greeting": "Hello there.", "llm_model": "stub-1", "voice": "sage"}
# What the caller says; the stub doesn't listen.
QUESTION = "is anybody there"
# Without a bound of ours it would be 15 s.
_PATIENCE_S = 5.0


@pytest.fixture
async def stub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenAIStub]:
    """A server, and an environment that points to it."""
    async with running_openai_stub() as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield running


async def test_a_conversation_is_held_and_ended_by_the_model(stub: OpenAIStub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speech is transcribed, the model answers in words that are spoken, and it hangs up by its tool."""
    stub.transcripts.extend(["how are you", "goodbye"])
    stub.replies.extend([Says("I am fine. And you?"), Calls("end_call", text="Goodbye!")])
    async with call_to(assistant, monkeypatch, BODY) as call:
        seen = call.seen
        await call.answered(1)
        await call.say(QUESTION)
        await call.answered(2)
        await call.say(QUESTION)
        await call.closed.wait()
    assert seen.heard == ["how are you", "goodbye"]
    assert seen.said == "Hello there. I am fine. And you? Goodbye!"
    assert seen.tools == [("end_call", {}, {"ended": True})]
    assert [end.reason for end in seen.ends] == ["goodbye"]
    assert seen.errors == []
    assert ("PhoneLLMService", "LLMUsageMetricsData") in seen.metrics
    assert ("PhoneLLMService", "TTFBMetricsData") in seen.metrics
    words = len(seen.said.split())
    assert loudness(bytes(call.heard)) > 1_000
    assert len(call.heard) / 2 / RATE >= words * WORD_S * 0.95
    first = stub.asked(CHAT)[0].body
    assert first["model"] == "stub-1"
    assert first["stream"] is True
    assert [tool["function"]["name"] for tool in first["tools"]] == ["end_call"]
    assert first["messages"][0] == {"role": "system", "content": assistant.INSTRUCTIONS}
    assert first["messages"][-1] == {"role": "user", "content": "how are you"}
    assert stub.asked(SPEECH)[0].body["voice"] == "sage"
    assert stub.asked(TRANSCRIPTIONS)[0].file[:4] == b"RIFF"


async def test_a_failure_that_passes_at_once_isnt_noticed(stub: OpenAIStub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails once is tried again before the caller is told."""
    for path in (CHAT, SPEECH, TRANSCRIPTIONS):
        stub.trouble[path].append(Fails(429))
    async with call_to(assistant, monkeypatch, BODY) as call:
        await call.answered(1)
        await call.say(QUESTION)
        await call.answered(2)
    assert call.seen.said == "Hello there. All right."
    assert call.seen.errors == []


@pytest.mark.parametrize("greeting", ["", "Hello there."], ids=["to listen", "to speak"])
async def test_a_key_that_is_refused_ends_the_call(
    stub: OpenAIStub, monkeypatch: pytest.MonkeyPatch, greeting: str
) -> None:
    """With a key that the server refuses nothing can be done: the call ends at the first attempt and says why."""
    stub.key = "sk-another"
    async with call_to(assistant, monkeypatch, BODY | {"greeting": greeting}) as call:
        if not greeting:
            await call.say(QUESTION)
        await call.closed.wait()
    assert [str(end.reason).partition(" ")[2] for end in call.seen.ends] == ["can no longer do its job"]
    assert len(stub.received) == 1


async def test_without_a_key_there_is_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing key is an error that names the variable, before anything is begun."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    arguments = WebSocketRunnerArguments(websocket=None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(assistant.MissingKey, match="OPENAI_API_KEY"):
        await assistant.bot(arguments)


async def test_a_connection_outlasts_what_callers_say(stub: OpenAIStub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute after an answer the next question goes over the same connection."""
    passed_s = 0.0
    monkeypatch.setattr("aiohttp.connector.monotonic", lambda: time.monotonic() + passed_s)
    async with (
        assistant.make_client() as http_client,
        openai.AsyncOpenAI(base_url=stub.url, api_key=KEY, http_client=http_client) as client,
    ):
        for _ in range(2):
            await client.chat.completions.create(model="stub-1", messages=[{"role": "user", "content": QUESTION}])
            passed_s += 30.0
    first, second = (request.port for request in stub.asked(CHAT))
    assert first == second is not None


async def test_an_answer_that_is_cut_leaves_nothing_for_the_next_one(stub: OpenAIStub) -> None:
    """Speech that nobody reads to its end, as after a barge-in, takes its connection along."""
    async with (
        assistant.make_client() as http_client,
        openai.AsyncOpenAI(base_url=stub.url, api_key=KEY, http_client=http_client) as client,
    ):
        speech = client.audio.speech.with_streaming_response.create(
            model="tts", voice="alloy", input="word " * 5_000, response_format="pcm"
        )
        async with speech as response:
            async for _ in response.iter_bytes(1_000):
                break
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": QUESTION}])
        assert answer
    assert stub.asked(SPEECH)[0].port != stub.asked(CHAT)[0].port


async def test_a_name_that_is_not_found_costs_no_more_than_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for a server's address is part of the time that a connection may take."""

    async def never(*_args: object, **_kwargs: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(assistant, "_CONNECT_TIMEOUT_S", 0.05)
    monkeypatch.setattr("aiohttp.resolver.ThreadedResolver.resolve", never)
    async with (
        assistant.make_client() as http_client,
        openai.AsyncOpenAI(
            base_url="http://openai.example/v1", api_key=KEY, http_client=http_client, max_retries=0
        ) as client,
        asyncio.timeout(_PATIENCE_S),
    ):
        with pytest.raises(openai.APITimeoutError):
            await client.models.list()
