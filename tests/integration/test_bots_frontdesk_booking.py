"""The front desk books a table, over a real WebSocket, with real recognition and real speech."""

import pytest

from greenroom.runner.bots import frontdesk
from greenroom.runner.session.notices import CALL_ENDING_SOON, notice
from tests.support.bot_line import RATE, call_to, loudness

# The bot talks fast here, the caller doesn't: recognition is part of the test, patience isn't.
BODY = {"house": "the Test Kitchen", "rate_wpm": 380}


async def test_a_table_is_booked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller books a table in two sentences and says goodbye; the bot says goodbye too and hangs up."""
    async with call_to(frontdesk, monkeypatch, BODY) as call:
        seen = call.seen
        await call.answered(1)
        await call.say("book a table for four people on friday at seven pm")
        await call.answered(2)
        await call.say("yes please")
        await call.answered(3)
        await call.say("goodbye")
        await call.closed.wait()
    assert seen.heard == ["book a table for four people on friday at seven pm", "yes please", "goodbye"]
    assert seen.said == (
        "Hello, this is the Test Kitchen. How can I help you? "
        "With pleasure. That is a table for four people on Friday at 7 pm. Shall I book it? "
        "Done: a table for four people on Friday at 7 pm. Can I do anything else for you? "
        "Thank you for calling. Goodbye!"
    )
    details = {"party": 4, "day": "friday", "time": "19:00"}
    assert [(name, arguments) for name, arguments, _ in seen.tools] == [
        ("start_booking", details),
        ("book_table", details),
        ("end_call", {}),
    ]
    assert seen.tools[1][2] == {"booked": True, **details}
    assert [end.reason for end in seen.ends] == ["goodbye"]
    assert seen.cut_short == 0
    assert seen.errors == []
    assert loudness(bytes(call.heard)) > 300
    assert len(call.heard) / 2 / RATE > 5
    assert {
        ("PocketsphinxSTTService", "ProcessingMetricsData"),
        ("PocketsphinxSTTService", "STTUsageMetricsData"),
        ("RuleLLMService", "TTFBMetricsData"),
        ("EspeakTTSService", "TTFBMetricsData"),
        ("EspeakTTSService", "TTSUsageMetricsData"),
    } <= seen.metrics


async def test_a_call_that_has_lasted_long_enough_ends_with_a_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by a client's message that the call ends soon, the front desk says so, says goodbye and hangs up."""
    async with call_to(frontdesk, monkeypatch, BODY) as call:
        await call.answered(1)
        await call.tell(notice(frontdesk.ENDING_SOON, {"seconds_left": 30}))
        await call.closed.wait()
    assert call.seen.said.endswith("I'm sorry, our time is up. Please call again. Goodbye!")
    assert [end.reason for end in call.seen.ends] == ["goodbye"]
    assert call.seen.errors == []


def test_the_front_desk_and_the_watch_mean_the_same_message() -> None:
    """The bot knows nothing of Greenroom, so what it listens for is written down twice."""
    assert frontdesk.ENDING_SOON == CALL_ENDING_SOON
