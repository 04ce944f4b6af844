"""The front desk is interrupted, doesn't understand, and passes a caller on; then the caller hangs up."""

import pytest

from greenroom.runner.bots import frontdesk
from greenroom.runner.bots.frontdesk_dialogue import HOURS, UNCLEAR
from tests.support.bot_line import backwards, call_to, spoken


async def test_a_caller_cuts_in_and_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bot falls silent when the caller cuts in, calls a person, and asks again what it didn't understand."""
    async with call_to(frontdesk, monkeypatch, {"rate_wpm": 300}) as call:
        seen = call.seen
        await call.answered(1)
        await call.say("what are your opening hours")
        await call.until(lambda: "until eleven" in seen.said)
        await call.say("please transfer me to a person")
        await call.answered(3)
        assert seen.cut_short == 1
        await call.play(backwards(spoken("please transfer me to a person")))
        await call.answered(4)
        await call.hang_up()
        await call.closed.wait()
    assert seen.heard == ["what are your opening hours", "please transfer me to a person", ""]
    assert seen.tools == [("transfer_to_person", {}, {"requested": True})]
    greeting, _, rest = seen.said.partition(HOURS[:20])
    assert greeting.startswith("Hello, this is the Green Room restaurant.")
    cut, _, after = rest.partition(" I have told a colleague")
    assert (HOURS[:20] + cut) in HOURS[: len(HOURS) // 2]
    assert after.endswith(f"{UNCLEAR} Can I do anything else for you?")
    assert [type(end).__name__ for end in seen.ends] == ["CancelFrame"]
    assert seen.errors == []
