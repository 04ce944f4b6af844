"""A session process that a browser speaks with: offers over the broker, audio over UDP on loopback."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
from aiortc import RTCSessionDescription

from greenroom.common import messages, subjects
from greenroom.common.broker import NoResponder
from greenroom.common.lifecycle import Outcome
from greenroom.common.messages import Event
from greenroom.common.peer_messages import (
    OfferPeer,
    PeerAnswered,
    PeerCandidate,
    PeerCandidates,
    PeerRefused,
    PeerReply,
)
from greenroom.runner.control import EndingNotice, Finished, MediaConnected, PipelineReady
from greenroom.runner.session.transports.smallwebrtc import LOOK_EVERY_S, SILENT_LOOKS
from tests.support.port_forwarder import forwarded_ports
from tests.support.rtc_caller import RtcCaller, use_loopback
from tests.support.session_bots import GREETING, HEARD, WORD_S, tone
from tests.support.session_rig import RATE, HostProcess, SessionRun, Sessions

CREDENTIAL = hashlib.sha256(b"a browser's token").hexdigest()


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers gather on loopback, too."""
    use_loopback(monkeypatch)


@pytest.fixture
async def sessions(host: HostProcess, nats_url: str) -> AsyncGenerator[Sessions]:
    """Session processes that take calls on loopback."""
    async with Sessions(host, nats_url, GREENROOM_RTC_ADDRESSES="127.0.0.1") as sessions:
        yield sessions


async def ask(run: SessionRun, name: str, request: msgspec.Struct) -> PeerReply:
    """Ask a session process something, as the api does."""
    session = run.session
    subject = subjects.SESSION_CMD.format(tenant=session.tenant, session_id=session.id, name=name)
    reply = await run.sessions.broker.request(subject, messages.encode(request), timeout_s=10)
    return msgspec.json.decode(reply.data, type=PeerAnswered | PeerRefused)


def offer_of(**fields: Any) -> OfferPeer:
    """Return an offer of whoever has a token that is good."""
    fields.pop("type", None)
    return msgspec.convert({"credential": CREDENTIAL, "may_open": True, **fields}, OfferPeer)


def caller_of(run: SessionRun, **fields: Any) -> RtcCaller:
    """Return a caller whose offers go to a session process."""

    async def exchange(offer: dict[str, Any]) -> dict[str, Any]:
        reply = await ask(run, "offer", offer_of(**fields, **offer))
        assert isinstance(reply, PeerAnswered), reply
        return {"sdp": reply.sdp, "pc_id": reply.pc_id}

    return RtcCaller(exchange)


async def started(sessions: Sessions, bot: str, **fields: Any) -> SessionRun:
    """Return a session of a bot whose pipeline runs; nobody has called yet."""
    run = await sessions.assign(bot, transport="smallwebrtc", **fields)
    await run.expect(PipelineReady)
    return run


async def finished(run: SessionRun) -> Finished:
    """Wait for the last word, and for the exit."""
    last = await run.expect(Finished)
    assert await run.exit_status() == 0
    return last


def of_type(events: list[Event], kind: str) -> list[dict[str, Any]]:
    """Return the data of the events of a type."""
    return [event.data for event in events if event.type == kind]


async def test_a_call_from_its_offer_to_the_hang_up(sessions: Sessions) -> None:
    """The bot is ready before the offer; then audio goes both ways, is recorded, and hanging up ends it in order."""
    run = await started(sessions, "echo")
    async with caller_of(run) as caller:
        await caller.connect()
        await run.expect(MediaConnected)
        caller.voice.say(tone(2 * RATE))
        await caller.until_heard(1.8)
        await caller.hang_up()
        notice = await run.expect(EndingNotice)
    assert (notice.outcome, notice.reason) == (Outcome.COMPLETED, "client-left")
    await finished(run)
    events = await run.events()
    assert [event.type for event in events] == [
        "call_started",
        "call_connected",
        "call_disconnected",
        "call_completed",
    ]
    assert (events[2].data["by"], events[2].data["code"]) == ("client", 1000)
    media = events[3].data["media"]
    assert media["offers"] == 1
    assert media["received"] > 50
    for track in ("user", "bot"):
        pcm = b"".join(chunk.pcm for chunk in await run.chunks(track))
        assert len(pcm) > 1.8 * RATE * 2


async def test_a_conversation(sessions: Sessions) -> None:
    """The bot greets when the client is there, hears it, answers, and says goodbye with the reason of the end."""
    run = await started(sessions, "talker", body={"lines": ["Thank you."]})
    async with caller_of(run) as caller:
        await caller.connect()
        await caller.until_heard(len(GREETING.split()) * WORD_S * 0.8)
        caller.voice.say(tone(RATE))
        await caller.until_heard((len(GREETING.split()) + 2) * WORD_S * 0.8)
        run.stop()
        await caller.until(lambda: caller.pc.connectionState == "closed")
    await finished(run)
    events = await run.events()
    assert [said["text"] for said in of_type(events, "agent_spoke")] == [GREETING, "Thank you."]
    assert [said["text"] for said in of_type(events, "user_spoke")] == [HEARD]
    (left,) = of_type(events, "call_disconnected")
    assert (left["by"], left["code"], left["reason"]) == ("bot", 1000, "client-stop")
    assert {"type": "signalling", "message": {"type": "peerLeft", "code": 1000, "reason": "client-stop"}} in (
        caller.messages
    )


async def refusal(run: SessionRun, name: str, request: msgspec.Struct) -> str:
    """Return the code with which something is refused."""
    reply = await ask(run, name, request)
    assert isinstance(reply, PeerRefused), reply
    return reply.code


async def test_candidates_may_come_after_the_offer(sessions: Sessions) -> None:
    """An offer without candidates is answered; the connection is made once they come, the last one being empty."""
    run = await started(sessions, "echo")
    async with caller_of(run) as caller:
        offer = await caller.offer()
        lines = offer["sdp"].splitlines(keepends=True)
        candidates = [line.strip() for line in lines if line.startswith("a=candidate")]
        bare = "".join(line for line in lines if not line.startswith(("a=candidate", "a=end-of-candidates")))
        answered = await ask(run, "offer", offer_of(sdp=bare))
        assert isinstance(answered, PeerAnswered)
        given = [PeerCandidate(candidate=text.removeprefix("a="), sdp_mid="0") for text in [*candidates, ""]]
        request = PeerCandidates(pc_id=answered.pc_id, candidates=tuple(given), credential=CREDENTIAL)
        assert isinstance(await ask(run, "ice", request), PeerAnswered)
        await caller.pc.setRemoteDescription(RTCSessionDescription(sdp=answered.sdp, type="answer"))
        await caller.until(lambda: caller.pc.connectionState == "connected")
        await run.expect(MediaConnected)
    await finished(run)


async def test_what_cannot_be_taken_is_refused_with_its_reason(sessions: Sessions) -> None:
    """Bad SDP, bad candidates, unknown connections and expired tokens are refused; the session waits on."""
    run = await started(sessions, "echo")
    assert await refusal(run, "offer", offer_of(sdp="v=0\r\nnonsense")) == "sdp-invalid"
    assert await refusal(run, "offer", offer_of(sdp="v=0\r\nm=audio x y z\r\n")) == "sdp-invalid"
    candidates = (PeerCandidate(candidate="candidate:1 1 udp", sdp_mid="0"),)
    request = PeerCandidates(pc_id="gone", candidates=candidates, credential=CREDENTIAL, may_open=True)
    assert await refusal(run, "ice", request) == "peer-not-found"
    async with caller_of(run) as caller:
        offer = await caller.offer()
        assert await refusal(run, "offer", offer_of(**offer, may_open=False)) == "ticket-invalid"
        await caller.connect()
        pc_id = caller.answer["pc_id"]
        request = msgspec.structs.replace(request, pc_id=pc_id)
        assert await refusal(run, "ice", request) == "sdp-invalid"
        stranger = msgspec.structs.replace(request, credential="another", may_open=False)
        assert await refusal(run, "ice", stranger) == "ticket-invalid"
    await finished(run)


async def test_one_client_at_a_time(sessions: Sessions) -> None:
    """Until somebody is there, a new offer takes the place of the one before; then a second client is refused."""
    run = await started(sessions, "echo")
    async with caller_of(run) as gone, caller_of(run) as caller, caller_of(run) as late:
        first = await ask(run, "offer", offer_of(**await gone.offer()))
        assert isinstance(first, PeerAnswered)
        await caller.connect()
        assert caller.answer["pc_id"] != first.pc_id
        await run.expect(MediaConnected)
        offer = await late.offer()
        assert await refusal(run, "offer", offer_of(**offer)) == "media-already-connected"
        assert await refusal(run, "offer", offer_of(**offer, pc_id=first.pc_id)) == "media-already-connected"
        caller.voice.say(tone(RATE))
        await caller.until_heard(0.8)
    last = await finished(run)
    assert last.reason == "client-left"
    events = await run.events()
    assert [event.type for event in events].count("call_connected") == 1


async def test_a_connection_that_is_begun_anew_is_the_same_call(sessions: Sessions) -> None:
    """Whoever has connected may begin anew, though the token has expired: one welcome, and the bot goes on speaking."""
    # For longer than it takes to begin anew on a busy machine.
    greeting = "One two three four five six seven eight nine ten " * 12
    run = await started(sessions, "talker", body={"greeting": greeting.strip() + "."})
    async with caller_of(run) as caller, caller_of(run, may_open=False) as again:
        await caller.connect()
        await run.expect(MediaConnected)
        # In the middle of what it says.
        await caller.until_heard(0.5)
        await again.connect(pc_id=caller.answer["pc_id"], restart=True)
        await again.until_heard(10 * WORD_S)
        await again.until_quiet()
        again.voice.say(tone(RATE))
        await again.until_heard(again.loud_s + WORD_S)
        await again.hang_up()
    await finished(run)
    events = await run.events()
    assert [event.type for event in events].count("call_connected") == 1
    assert len(of_type(events, "agent_spoke")) == 2
    (completed,) = of_type(events, "call_completed")
    assert (completed["media"]["offers"], completed["media"]["restarts"]) == (2, 1)


async def test_a_client_that_is_gone_without_a_word_ends_the_session(sessions: Sessions) -> None:
    """A browser that is killed says nothing: when no packet has come for some seconds, it has left."""
    run = await started(sessions, "careless")
    caller = caller_of(run)
    await caller.connect()
    await run.expect(MediaConnected)
    caller.go_silent()
    notice = await run.expect(EndingNotice, timeout_s=LOOK_EVERY_S * (SILENT_LOOKS + 5))
    assert notice.reason == "client-left"
    await finished(run)
    (left,) = of_type(await run.events(), "call_disconnected")
    assert (left["by"], left["code"]) == ("client", 1006)
    await caller.hang_up()


async def test_nobody_gets_in_once_the_session_ends(sessions: Sessions) -> None:
    """An offer that comes while the session ends is refused, and one that comes later finds nobody."""
    run = await started(sessions, "stubborn")
    async with caller_of(run) as caller:
        offer = offer_of(**await caller.offer())
        run.stop(deadline_s=1.0)
        async with asyncio.timeout(5):
            while isinstance(await ask(run, "offer", offer), PeerAnswered):
                await asyncio.sleep(0.01)
        assert await refusal(run, "offer", offer) == "session-ended"
    await run.exit_status()
    with pytest.raises(NoResponder):
        await ask(run, "offer", offer)


async def test_calls_are_taken_on_the_ports_and_told_the_address_of_the_settings(
    host: HostProcess, nats_url: str
) -> None:
    """Host candidates of the answer have a port of the range, and the advertised address instead of the host's own."""
    settings = {
        "GREENROOM_RTC_ADDRESSES": "127.0.0.1",
        "GREENROOM_RTC_PORTS": "41000-41019",
        "GREENROOM_RTC_ADVERTISED_ADDRESS": "203.0.113.7",
    }
    async with Sessions(host, nats_url, **settings) as sessions:
        run = await started(sessions, "echo")
        async with caller_of(run) as caller:
            answered = await ask(run, "offer", offer_of(**await caller.offer()))
        assert isinstance(answered, PeerAnswered)
        candidates = {
            (bits[4], int(bits[5])) for bits in (line.split() for line in answered.sdp.splitlines()) if "typ" in bits
        }
        assert {address for address, _ in candidates} == {"203.0.113.7"}
        assert all(41000 <= port <= 41019 for _, port in candidates)
        assert "127.0.0.1" not in answered.sdp
        run.stop()
        await finished(run)


async def test_a_call_goes_by_the_advertised_address(host: HostProcess, nats_url: str) -> None:
    """A client that knows no other address, and whose own can't be reached, hears the bot and is heard through it."""
    ports = range(24_040, 24_048)
    settings = {
        "GREENROOM_RTC_ADDRESSES": "127.0.0.1",
        "GREENROOM_RTC_PORTS": f"{ports[0]}-{ports[-1]}",
        "GREENROOM_RTC_ADVERTISED_ADDRESS": "127.0.0.2",
    }
    async with (
        Sessions(host, nats_url, **settings) as sessions,
        forwarded_ports("127.0.0.2", "127.0.0.1", ports) as forwarded,
    ):
        run = await started(sessions, "talker", body={"lines": ["Thank you."]})

        async def exchange(offer: dict[str, Any]) -> dict[str, Any]:
            # Nobody listens there: all that comes from the session comes in answer to what went through.
            reply = await ask(run, "offer", offer_of(sdp=offer["sdp"].replace("127.0.0.1", "127.0.0.3")))
            assert isinstance(reply, PeerAnswered), reply
            return {"sdp": reply.sdp}

        async with RtcCaller(exchange) as caller:
            await caller.connect()
            await run.expect(MediaConnected)
            await caller.until_heard(len(GREETING.split()) * WORD_S * 0.8)
            caller.voice.say(tone(RATE))
            await caller.until_heard((len(GREETING.split()) + 2) * WORD_S * 0.8)
            await caller.hang_up()
        assert (await finished(run)).reason == "client-left"
        (completed,) = of_type(await run.events(), "call_completed")
    media = completed["media"]
    assert forwarded.inwards >= media["received"] > 0
    assert forwarded.outwards >= media["sent"] > 0
