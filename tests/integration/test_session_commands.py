"""Commands to a real session process, carried out on a real pipeline of a bot that knows nothing of them."""

import asyncio

import msgspec
import numpy as np
import pytest

from greenroom.common import subjects
from greenroom.common.commands import (
    BargeIn,
    Call,
    CommandDone,
    Configure,
    Dtmf,
    Inject,
    Interrupt,
    Mute,
    Say,
    SessionState,
    Snapshot,
    Stop,
    Transfer,
    Unmute,
    Whisper,
)
from greenroom.common.lifecycle import Outcome
from greenroom.runner.control import EndingNotice, Finished, MediaConnected, PipelineReady
from tests.support.api_world import eventually
from tests.support.commanding import KEY, done, events_of, refused, send, until_events
from tests.support.session_bots import HEARD, RATE, WORD_S, tone
from tests.support.session_rig import Caller, SessionRun, Sessions


async def started(sessions: Sessions, bot: str) -> tuple[SessionRun, Caller]:
    """Return a session of `bot` with a caller."""
    run = await sessions.assign(bot)
    await run.expect(PipelineReady)
    caller = await run.call()
    await run.expect(MediaConnected)
    return run, caller


async def state_of(run: SessionRun) -> SessionState:
    """Return a snapshot."""
    return msgspec.convert(await done(run, Snapshot()), SessionState)


async def said(run: SessionRun, count: int) -> list[tuple[str, bool]]:
    """Return what the bot said, and whether it was cut off."""
    events = await until_events(run, "agent_spoke", count)
    return [(event.data["text"], event.data["interrupted"]) for event in events]


async def test_say_is_spoken_in_order_and_told_as_conversation(sessions: Sessions) -> None:
    """Two texts are spoken one behind the other, and told with the key that sent them."""
    run, caller = await started(sessions, "minded")
    await done(run, Say(text="One moment please."))
    await done(run, Say(text="Here we are."))
    await caller.until_heard(6 * WORD_S)

    async def heard() -> str:
        return " ".join(event.data["text"] for event in await events_of(run, "agent_spoke"))

    await eventually(heard, lambda text: text == "One moment please. Here we are.")
    told = [event.data for event in await until_events(run, "command", 2)]
    assert [(each["command"], each["text"], each["by"], each["outcome"]) for each in told] == [
        ("say", "One moment please.", KEY, "done"),
        ("say", "Here we are.", KEY, "done"),
    ]


async def test_a_supervisor_cuts_in(sessions: Sessions) -> None:
    """What the bot was saying ends, and the supervisor's text is spoken in its place."""
    run, caller = await started(sessions, "minded")
    await done(run, Say(text=" ".join(["word"] * 100)))
    await caller.until_heard(5 * WORD_S)
    await done(run, BargeIn(text="Stop right there."))
    spoken = await said(run, 2)
    assert spoken[0][1] is True
    assert len(spoken[0][0].split()) < 100
    assert spoken[1] == ("Stop right there.", False)


async def test_interrupt_ends_what_is_being_said(sessions: Sessions) -> None:
    """The rest of the sentence is never heard."""
    run, caller = await started(sessions, "minded")
    await done(run, Say(text=" ".join(["word"] * 200)))
    await caller.until_heard(5 * WORD_S)
    assert await done(run, Interrupt()) == {}
    [(text, interrupted)] = await said(run, 1)
    assert interrupted
    assert len(text.split()) < 200


async def test_inject_makes_the_model_answer(sessions: Sessions) -> None:
    """A message that is injected to be run is answered; behind what is being said, or in its place."""
    run, caller = await started(sessions, "minded")
    await done(run, Inject(text="hello", role="user"))
    assert await said(run, 1) == [("You said hello.", False)]
    words = " ".join(["word"] * 20)
    await done(run, Say(text=words))
    await caller.until_heard((3 + 2) * WORD_S)
    await done(run, Inject(text="later", role="user"))
    # Pipecat runs the model when the bot has finished, and puts what it said behind what was injected meanwhile.
    assert (await said(run, 3))[1:] == [(words, False), (f"You said {words}.", False)]
    remembered = (await done(run, Call(function="remembered")))["returned"]
    assert [each["content"] for each in remembered][2:4] == ["later", words]
    await done(run, Say(text=" ".join(["word"] * 100)))
    await asyncio.sleep(0.3)
    await done(run, Inject(text="now", role="user", interrupt=True))
    spoken = (await said(run, 5))[3:]
    assert [interrupted for _, interrupted in spoken] == [True, False]
    assert spoken[1][0] == "You said now."


async def test_say_in_place_of_what_is_being_said_and_not_to_be_remembered(sessions: Sessions) -> None:
    """It is spoken at once, what it cut off is told as cut, and the model doesn't know of it."""
    run, caller = await started(sessions, "minded")
    await done(run, Say(text="Here we are."))
    await said(run, 1)
    await done(run, Say(text=" ".join(["word"] * 100)))
    await caller.until_heard(5 * WORD_S)
    await done(run, Say(text="One moment please.", interrupt=True, remember=False))
    assert [interrupted for _, interrupted in await said(run, 3)] == [False, True, False]
    remembered = str((await done(run, Call(function="remembered")))["returned"])
    assert "Here we are." in remembered
    assert "moment" not in remembered


async def test_a_whisper_is_known_to_the_model_and_heard_by_nobody(sessions: Sessions) -> None:
    """It stands in the context, nothing is said, and the event of the audit has it."""
    run, caller = await started(sessions, "minded")
    await done(run, Whisper(text="Offer ten percent."))
    await done(run, Inject(text="A quiet note.", run=False))
    remembered = (await done(run, Call(function="remembered")))["returned"]
    assert [(each["role"], each["content"]) for each in remembered] == [
        ("developer", "Offer ten percent."),
        ("developer", "A quiet note."),
    ]
    await caller.be_silent(0.3)
    assert not any(caller.audio)
    assert await events_of(run, "agent_spoke") == []
    [whisper, *_] = await until_events(run, "command", 3)
    assert (whisper.data["command"], whisper.data["text"]) == ("whisper", "Offer ten percent.")


async def test_settings_are_applied_in_versions(sessions: Sessions) -> None:
    """A higher version is applied and acknowledged; an old one, or what a service doesn't have, changes nothing."""
    run, _ = await started(sessions, "minded")
    wanted = Configure(version=3, voice="anna", model="parrot-2", llm={"temperature": 0.1})
    answer = await done(run, wanted)
    assert (answer["version"], answer["applied"]) == (3, True)
    assert len(answer["services"]) == 2
    assert (await done(run, Call(function="set_now")))["returned"] == ["anna", "parrot-2", 0.1, []]
    stale = await refused(run, Configure(version=3, voice="bert"))
    assert (stale.code, stale.detail) == ("settings-version-stale", "Version 3 came before.")
    repeated = await done(run, wanted)
    assert (repeated["version"], repeated["applied"]) == (3, True)
    unknown = await refused(run, Configure(version=4, tts={"sped": 2}))
    assert (unknown.code, unknown.detail) == ("command-unsupported", "The bot's tts has no setting sped.")
    odd = await refused(run, Configure(version=4, llm={"temperature": "hot"}))
    assert (odd.code, odd.detail) == ("command-refused", "llm.temperature is of another kind.")
    assert (await refused(run, Configure(version=4))).code == "command-refused"
    assert (await refused(run, Configure(version=4, mode="impossible"))).code == "function-failed"
    assert (await done(run, Configure(version=4, mode="calm", values={"tone": "warm"})))["version"] == 4
    now = ["anna", "parrot-2", 0.1, [["calm", {"tone": "warm"}]]]
    assert (await done(run, Call(function="set_now")))["returned"] == now
    assert (await state_of(run)).settings_version == 4
    [first, *_] = await until_events(run, "command", 10)
    assert first.data["voice"] == "anna"
    assert first.data["llm"] == ["temperature"]


async def test_a_muted_user_is_silence_for_the_bot_and_for_the_recording(sessions: Sessions) -> None:
    """While muted nothing of the caller comes through; unmuted everything does."""
    run, caller = await started(sessions, "echo")
    assert await done(run, Mute(side="user")) == {"muted": ["user"]}
    await caller.speak(tone(RATE // 2))
    await caller.until_heard(0.4)
    assert not any(caller.audio)
    assert (await state_of(run)).muted == ("user",)
    assert await done(run, Unmute(side="user")) == {"muted": []}
    caller.audio.clear()
    await caller.speak(tone(RATE // 2))
    await caller.until_heard(0.4)
    assert any(caller.audio)


async def test_a_muted_bot_is_silent_but_keys_are_heard(sessions: Sessions) -> None:
    """What the bot says goes out as silence of the same length; tones of keys are heard all the same."""
    run, caller = await started(sessions, "minded")
    await done(run, Mute(side="bot"))
    await done(run, Say(text="You can not hear me."))
    await caller.until_heard(5 * WORD_S - 0.02)
    assert not any(caller.audio)
    caller.audio.clear()
    assert await done(run, Dtmf(digits="42#")) == {"queued": 3}
    await caller.until_heard(0.5)
    samples = np.frombuffer(bytes(caller.audio), dtype="<i2")
    assert int(np.abs(samples).max()) > 1000
    [*_, keys] = await until_events(run, "command", 3)
    assert keys.data["digits"] == 3
    assert "42#" not in str(keys.data)


async def test_a_transfer_that_the_transport_cannot_do_is_refused(sessions: Sessions) -> None:
    """Over a WebSocket nobody can hand a caller over."""
    run, _ = await started(sessions, "echo")
    assert (await refused(run, Transfer(target="sip:desk@example.org"))).code == "command-unsupported"


async def test_a_snapshot_tells_how_the_session_stands(sessions: Sessions) -> None:
    """The last lines, turns, media counts and functions are there."""
    run, caller = await started(sessions, "minded")
    await caller.speak(tone(RATE))
    await caller.be_silent(0.6)
    await said(run, 1)
    state = await state_of(run)
    assert state.connected
    assert state.turns == 1
    assert [(line.who, line.text) for line in state.lines] == [("user", HEARD), ("bot", f"You said {HEARD}.")]
    assert state.media["received"] > 50
    assert state.duration_ms > 1000
    functions = {function.name: function for function in state.functions}
    assert functions["add"].description == "Add."
    assert functions["add"].arguments["required"] == ["a"]
    assert functions["remembered"].arguments["properties"]["last"] == {"type": "integer"}


async def test_a_snapshot_tells_where_a_flow_stands(sessions: Sessions) -> None:
    """The node is the one that was entered last."""
    run, _ = await started(sessions, "flowing")
    await until_events(run, "node_entered", 2)
    assert (await state_of(run)).node == "booking"


async def test_functions_of_the_bot_are_called_with_what_fits_them(sessions: Sessions) -> None:
    """Arguments are checked by the annotations, results are JSON and bounded, and errors tell nothing of their text."""
    run, _ = await started(sessions, "echo")
    assert await done(run, Call(function="add", arguments={"a": 2})) == {"returned": 3}
    moved = Call(function="shift", arguments={"point": {"x": 1}, "by": "right"})
    assert await done(run, moved) == {"returned": {"x": 2, "y": 0}}
    for arguments in ({}, {"a": "2"}, {"a": 2, "c": 3}):
        assert (await refused(run, Call(function="add", arguments=arguments))).code == "function-arguments-invalid"
    assert (await refused(run, Call(function="sub"))).code == "function-unknown"
    late = await refused(run, Call(function="sleep", arguments={"seconds": 9}, timeout_s=0.1))
    assert (late.code, late.detail) == ("function-failed", "sleep took longer than 0.1 s.")
    failed = await refused(run, Call(function="fail"))
    assert failed.code == "function-failed"
    assert failed.detail.startswith("fail raised ValueError (session_bots.py:")
    assert (await refused(run, Call(function="huge"))).code == "function-failed"
    told = await until_events(run, "command", 8)
    assert told[0].data["arguments"] == {"a": 2}
    assert told[0].data["result"] == 3
    assert "4111" not in str([event.data for event in told])


async def test_an_id_is_carried_out_once(sessions: Sessions) -> None:
    """At the same time or later, the same id gets the same answer; another command under it is refused."""
    run, _ = await started(sessions, "echo")
    command = Call(function="count", arguments={"name": "x"})
    answers = await asyncio.gather(*(send(run, command, command_id="once") for _ in range(10)))
    assert set(map(str, answers)) == {str(CommandDone(id="once", result={"returned": 1}))}
    slow = Call(function="sleep", arguments={"seconds": 0.2})
    answers = await asyncio.gather(*(send(run, slow, command_id="slow") for _ in range(5)))
    assert set(map(str, answers)) == {str(CommandDone(id="slow", result={"returned": "awake"}))}
    assert (await refused(run, Snapshot(), command_id="once")).code == "command-id-reused"
    assert len(await until_events(run, "command", 2)) == 2


async def test_a_slow_command_holds_up_no_other(sessions: Sessions) -> None:
    """While a function of the bot's takes its time, other commands are answered."""
    run, _ = await started(sessions, "echo")
    slow = asyncio.create_task(send(run, Call(function="sleep", arguments={"seconds": 1.5})))
    await asyncio.sleep(0.05)
    assert await done(run, Call(function="add", arguments={"a": 1})) == {"returned": 2}
    assert not slow.done()
    assert await slow


async def test_a_bot_without_the_part_refuses(sessions: Sessions) -> None:
    """An echo has neither voice nor model; what it lacks is named."""
    run, _ = await started(sessions, "echo")
    for command, detail in (
        (Say(text="x"), "The bot has no voice."),
        (Inject(text="x"), "The bot has no model with a context of Pipecat's."),
        (Configure(version=1, voice="x"), "The bot has no tts service."),
    ):
        answer = await refused(run, command)
        assert (answer.code, answer.detail) == ("command-unsupported", detail)
    assert (await until_events(run, "command", 3))[0].data["outcome"] == "refused"


async def test_a_command_of_a_later_version_is_refused(sessions: Sessions) -> None:
    """What the process doesn't know, whole or in part, it refuses by its id."""
    run, _ = await started(sessions, "echo")
    subject = subjects.SESSION_CMD.format(tenant="default", session_id=run.session.id, name="command")
    for command in (b'{"type": "fly"}', b'{"type": "interrupt", "gently": true}'):
        raw = b'{"id": "7", "by": "k", "at": "2026-01-01T00:00:00Z", "command": %s}' % command
        reply = await run.sessions.broker.request(subject, raw, timeout_s=5)
        assert b'"code":"command-unsupported"' in reply.data


@pytest.mark.parametrize("now", [False, True])
async def test_a_session_is_stopped(sessions: Sessions, *, now: bool) -> None:
    """In order the bot finishes what it says; now it doesn't. Either way it is the client's stop."""
    run, caller = await started(sessions, "minded")
    await done(run, Say(text=" ".join(["word"] * 20)))
    await caller.until_heard(2 * WORD_S)
    assert await done(run, Stop(now=now, reason="enough")) == {}
    notice = await run.expect(EndingNotice)
    assert (notice.outcome, notice.reason, notice.detail) == (Outcome.COMPLETED, "client-stop", "enough")
    await run.expect(Finished)
    [(text, _)] = await said(run, 1)
    assert (len(text.split()) == 20) is not now
    assert (await until_events(run, "command", 2))[-1].data["command"] == "stop"
