"""What waits for a real session process: taken when it is ready, in order, once, and never lost unsaid."""

import asyncio
import os
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from greenroom.common import mailbox
from greenroom.common.commands import (
    Call,
    Command,
    CommandAnswer,
    CommandDone,
    CommandRefused,
    CommandRequest,
    Configure,
    Mute,
    Say,
    SessionState,
    Snapshot,
    Whisper,
)
from greenroom.common.desired import Desired
from greenroom.common.lifecycle import Session
from greenroom.common.mailbox import Mailbox
from greenroom.common.mailboxes import Mailboxes
from greenroom.runner.control import Announced, MediaConnected, PipelineReady
from tests.support.api_world import eventually
from tests.support.commanding import KEY, done, events_of, refused, until_events
from tests.support.session_rig import SessionRun, Sessions, new_session


async def post(sessions: Sessions, session: Session, **commands: Command) -> Mailbox:
    """Put commands into the mailbox of a session, by their ids."""
    box = Mailbox()
    for command_id, command in commands.items():
        request = CommandRequest(id=command_id, by=KEY, at=datetime.now(UTC), command=command)
        box = await Mailboxes(sessions.broker).change(
            session.tenant, session.id, lambda box, request=request: mailbox.post(box, request, session.epoch)
        )
    return box


async def box_of(sessions: Sessions, session: Session) -> Mailbox:
    """Return the mailbox of a session."""
    return await Mailboxes(sessions.broker).read(session.tenant, session.id)


async def until_answered(sessions: Sessions, session: Session, *command_ids: str) -> dict[str, CommandAnswer]:
    """Wait until commands are answered; return the answers that there are by then."""

    async def look() -> dict[str, CommandAnswer]:
        return {each.request.id: each.answer for each in (await box_of(sessions, session)).posted if each.answer}

    return await eventually(look, lambda found: set(command_ids) <= found.keys())


async def run_of(sessions: Sessions, session: Session, *, announced: bool = True) -> SessionRun:
    """Run a session until its pipeline is ready."""
    run = await sessions.standby()
    run.assign_this(session)
    await run.expect(PipelineReady)
    if announced:
        run.tell(Announced())
    return run


async def state_of(run: SessionRun) -> SessionState:
    """Return a snapshot."""
    return msgspec.convert(await done(run, Snapshot()), SessionState)


async def test_what_waits_is_done_in_order_once_the_session_is_ready(sessions: Sessions) -> None:
    """Settings before anybody is let in, the rest when the ledger says so, and what is spoken to somebody."""
    session = new_session("minded")
    await post(
        sessions,
        session,
        a=Configure(version=2, voice="anna"),
        b=Whisper(text="Be kind."),
        c=Call(function="count", arguments={"name": "x"}),
        d=Say(text="One moment please."),
        e=Mute(side="user"),
    )
    run = await run_of(sessions, session, announced=False)
    # It is ready, and has the settings; whether it has the session isn't known yet.
    assert list(await until_answered(sessions, session, "a")) == ["a"]
    assert (await done(run, Call(function="set_now")))["returned"][0] == "anna"
    run.tell(Announced())
    answers = await until_answered(sessions, session, "c")
    assert list(answers) == ["a", "b", "c"]
    assert answers["c"] == CommandDone(id="c", result={"returned": 1})
    assert (await state_of(run)).muted == ()
    await run.call()
    await run.expect(MediaConnected)
    assert list(await until_answered(sessions, session, "e")) == ["a", "b", "c", "d", "e"]
    [spoken] = await until_events(run, "agent_spoke")
    assert spoken.data["text"] == "One moment please."
    told = [event.data for event in await until_events(run, "command", 7)]
    mine = [(each["id"], each["by"], each["outcome"]) for each in told if len(each["id"]) == 1]
    assert mine == [(command_id, KEY, "done") for command_id in "abcde"]


async def test_what_comes_just_then_is_done_too(sessions: Sessions) -> None:
    """Whenever a command is put in while the session becomes ready, the process hears of it from the broker."""
    session = new_session("echo")
    run = await sessions.standby()
    run.assign_this(session)
    for number in range(30):
        await post(sessions, session, **{f"c{number}": Call(function="count", arguments={"name": "x"})})
        if number == 15:
            await run.expect(PipelineReady)
            run.tell(Announced())
    answers = await until_answered(sessions, session, "c29")
    assert list(answers.values()) == [CommandDone(id=f"c{n}", result={"returned": n + 1}) for n in range(30)]
    # By somebody who thinks still that it isn't ready, one when the last one is done.
    for number in range(30, 33):
        await post(sessions, session, **{f"c{number}": Call(function="count", arguments={"name": "x"})})
        await until_answered(sessions, session, f"c{number}")


async def test_a_session_that_had_a_slot_at_once_looks_when_it_is_ready(sessions: Sessions) -> None:
    """Its start waits for nothing, and what came before it was ready is done all the same."""
    session = new_session("minded")
    session = msgspec.structs.replace(session, leased_at=session.requested_at + timedelta(milliseconds=3))
    await post(sessions, session, a=Configure(version=2, voice="anna"), b=Mute(side="user"))
    run = await run_of(sessions, session)
    assert list(await until_answered(sessions, session, "b")) == ["a", "b"]
    assert (await done(run, Call(function="set_now")))["returned"][0] == "anna"
    assert (await state_of(run)).settings_version == 2


async def test_what_is_refused_is_answered_so_and_holds_up_nothing(sessions: Sessions) -> None:
    """A command that the bot can't carry out is refused with its code, as it would have been at once."""
    session = new_session("echo")
    await post(sessions, session, a=Configure(version=1, voice="anna"), b=Mute(side="bot"))
    await run_of(sessions, session)
    answers = await until_answered(sessions, session, "b")
    assert answers["a"] == CommandRefused(id="a", code="command-unsupported", detail="The bot has no tts service.")
    assert (await box_of(sessions, session)).desired == Desired()


async def test_a_killed_process_takes_with_it_what_it_had_in_hand_and_nothing_else(sessions: Sessions) -> None:
    """The next process says so of that one, and carries out the others; what was done isn't done again."""
    first = new_session("echo")
    await post(
        sessions,
        first,
        a=Call(function="count", arguments={"name": "x"}),
        b=Call(function="sleep", arguments={"seconds": 15.0}, timeout_s=20.0),
        c=Call(function="count", arguments={"name": "x"}),
    )
    run = await run_of(sessions, first)

    async def taken() -> bool:
        return bool((await box_of(sessions, first)).posted[1].taken_by)

    await eventually(taken)
    os.kill(run.pid, signal.SIGKILL)
    await run.exit_status()
    second = msgspec.structs.replace(first, epoch=2, attempt=2)
    run = await run_of(sessions, second)
    answers = await until_answered(sessions, second, "a", "b", "c")
    assert answers["a"] == CommandDone(id="a", result={"returned": 1})
    assert isinstance(answers["b"], CommandRefused)
    assert answers["b"].code == "command-lost"
    # Counted by the second process, for the first time there.
    assert answers["c"] == CommandDone(id="c", result={"returned": 1})


async def test_the_next_process_begins_with_the_settings_of_the_last_one(sessions: Sessions) -> None:
    """All changes together are applied before anybody is let in, and told; versions and holds go on from there."""
    first = new_session("minded")
    run = await run_of(sessions, first)
    assert (await done(run, Configure(version=3, voice="anna", mode="calm", lock=True)))["kept"] is True
    assert (await done(run, Configure(version=4, llm={"temperature": 0.1}, values={"tone": "warm"})))["kept"] is True
    assert (await refused(run, Configure(version=9, tts={"voice": "bert"}))).code == "settings-locked"
    os.kill(run.pid, signal.SIGKILL)
    await run.exit_status()

    second = msgspec.structs.replace(first, epoch=2, attempt=2)
    run = await run_of(sessions, second, announced=False)
    voice, _, temperature, taken = (await done(run, Call(function="set_now")))["returned"]
    assert (voice, temperature, taken) == ("anna", 0.1, [["calm", {"tone": "warm"}]])
    assert (await state_of(run)).settings_version == 4

    async def restored() -> list[dict[str, Any]]:
        return [event.data for event in await events_of(run, "command") if "restored" in event.data]

    [told] = await eventually(restored)
    assert (told["id"], told["version"], told["by"], told["outcome"]) == ("restore-2", 4, KEY, "done")
    assert (await refused(run, Configure(version=4, voice="bert"))).code == "settings-version-stale"
    repeated = Configure(version=4, llm={"temperature": 0.1}, values={"tone": "warm"})
    assert (await done(run, repeated))["version"] == 4
    assert (await refused(run, Configure(version=5, voice="bert"))).code == "settings-locked"
    assert (await done(run, Configure(version=5, voice="bert", lock=False)))["version"] == 5
    assert (await done(run, Configure(version=6, voice="carl")))["version"] == 6


async def test_settings_that_the_next_process_can_t_have_are_told(sessions: Sessions) -> None:
    """The session goes on without them, says so, and takes no older version for it."""
    session = new_session("echo")
    desired = Desired(version=7, by=KEY, tts={"voice": "anna"})
    await Mailboxes(sessions.broker).change(session.tenant, session.id, lambda box: mailbox.keep(box, desired))
    run = await run_of(sessions, session)
    [told] = [event.data for event in await until_events(run, "command")]
    assert (told["outcome"], told["code"], told["restored"]) == ("refused", "command-unsupported", True)
    assert (await state_of(run)).settings_version == 0
    assert (await refused(run, Configure(version=7, mode="calm"))).code == "settings-version-stale"
    assert (await done(run, Configure(version=8, mode="calm")))["version"] == 8


async def test_a_session_that_ends_leaves_what_waits(sessions: Sessions) -> None:
    """What was for somebody who never came is still in the mailbox, for the next process or the api to answer."""
    session = new_session("minded")
    await post(sessions, session, a=Whisper(text="Be kind."), b=Say(text="Hello."))
    run = await run_of(sessions, session)
    await until_answered(sessions, session, "a")
    run.stop()
    await asyncio.wait_for(run.exit_status(), 30)
    [_, waits] = (await box_of(sessions, session)).posted
    assert (waits.taken_by, waits.answer) == ("", None)
