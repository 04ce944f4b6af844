"""The quickstarts of tests/support/quickstart_bots, unmodified, as agents of a whole Greenroom."""

from collections.abc import AsyncIterator

import pytest

from greenroom.devtools import call
from greenroom.devtools.client import ApiProblem
from tests.support.api_world import eventually
from tests.support.livekit_caller import LiveKitCaller, needs_livekit, room_names
from tests.support.openai_stub import CHAT, KEY, OpenAIStub, Says, running_openai_stub
from tests.support.rtc_caller import RtcCaller, converse, over_http, use_loopback
from tests.support.stack import RunningStack, running_stack, wait_for_event, wait_for_session
from tests.support.workspace import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOTS = ROOT / "tests/support/quickstart_bots"
QUESTION = "what time is it"


@pytest.fixture(scope="module")
async def stub() -> AsyncIterator[OpenAIStub]:
    """What the bots hear, think and speak with."""
    async with running_openai_stub() as running:
        running.default_transcript = QUESTION
        running.default_reply = Says("Hello there my friend.")
        yield running


@pytest.fixture(scope="module")
async def stack(stub: OpenAIStub, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningStack]:
    """A stack whose runner offers the files."""
    files = ",".join(str(path) for path in sorted(BOTS.glob("*_bot.py")))
    keys = {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": stub.url,
        "GREENROOM_SESSION_ENV": "OPENAI_API_KEY,OPENAI_BASE_URL",
        "GREENROOM_RTC_ADDRESSES": "127.0.0.1",
    }
    async with running_stack(tmp_path_factory.mktemp("quickstarts"), GREENROOM_BOTS=files, **keys) as running:
        yield running


async def test_all_quickstarts_are_agents(stack: RunningStack) -> None:
    """Each is an agent with the transports that its source names."""
    async with stack.client() as client:

        async def offered() -> dict[str, list[str]]:
            return {agent["name"]: agent["transports"] for agent in (await client.get("/v1/agents"))["agents"]}

        # The api knows of them with a heartbeat of the runner's: of each when it has been imported.
        names = {path.stem for path in BOTS.glob("*_bot.py")}
        agents = await eventually(offered, lambda found: names <= found.keys())
    assert agents["websocket_bot"] == ["websocket"]
    assert agents["telephony_bot"] == ["twilio", "telnyx", "plivo", "exotel"]
    assert agents["webrtc_bot"] == ["daily", "smallwebrtc"]
    assert agents["daily_bot"] == ["daily"]
    assert agents["livekit_bot"] == ["livekit"]


async def test_the_websocket_quickstart_holds_a_call(stack: RunningStack, stub: OpenAIStub) -> None:
    """It greets, hears and answers; transcript, metrics and recording are kept though it knows of none of them."""
    async with stack.client() as client:
        report = await call.place(client, "websocket_bot", call.spoken([QUESTION]), linger_s=0.5)
    assert report.session["outcome"] == "completed"
    assert [event.data["data"]["text"] for event in report.of_type("user_spoke")] == [QUESTION]
    assert [event.data["data"]["text"] for event in report.of_type("agent_spoke")][:2] == ["Hello there my friend."] * 2
    assert report.of_type("metrics")
    assert report.of_type("recording_saved")
    assert QUESTION in str(stub.asked(CHAT)[-1].body["messages"])


async def test_the_webrtc_quickstart_holds_a_call(
    stack: RunningStack, stub: OpenAIStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a peer connection it greets, hears and answers; transcript, metrics and recording are kept as well."""
    use_loopback(monkeypatch)
    wish = {"agent": "webrtc_bot", "transport": "smallwebrtc", "wait": "ready", "wait_timeout_s": 30}
    [line] = call.spoken([QUESTION])
    async with stack.client() as client:
        session = await client.post("/v1/sessions", wish)
        async with RtcCaller(over_http(session["transport"]["url"], session["transport"]["token"])) as caller:
            await converse(caller, line.pcm)
        ended = await wait_for_session(client, session["id"])
        assert (ended["outcome"], ended["reason"]) == ("completed", "client-left")
        events = await wait_for_event(client, session["id"], "recording_saved")
    assert [event["data"]["text"] for event in events if event["type"] == "user_spoke"] == [QUESTION]
    spoken = [event["data"]["text"] for event in events if event["type"] == "agent_spoke"]
    assert spoken[0] == "Hello there my friend."
    assert "metrics" in {event["type"] for event in events}
    assert QUESTION in str(stub.asked(CHAT)[-1].body["messages"])


@needs_livekit
async def test_the_livekit_quickstart_holds_a_call(stack: RunningStack) -> None:
    """In a room that was made for it, it greets who has the answer's token; when he leaves, it is gone."""
    wish = {"agent": "livekit_bot", "transport": "livekit", "wait": "ready", "wait_timeout_s": 30}
    [line] = call.spoken([QUESTION])
    async with stack.client() as client:
        session = await client.post("/v1/sessions", wish)
        way = session["transport"]
        assert way["info"]["room"] in await room_names()
        async with LiveKitCaller(way["url"], way["token"]) as caller:
            await caller.until_heard(0.1)
            await caller.say(line.pcm)
        ended = await wait_for_session(client, session["id"])
        assert (ended["outcome"], ended["reason"]) == ("completed", "client-left")
        events = await wait_for_event(client, session["id"], "recording_saved")
    assert [event["data"]["text"] for event in events if event["type"] == "agent_spoke"] == ["Hello there!"]
    assert "metrics" in {event["type"] for event in events}
    await eventually(room_names, lambda rooms: way["info"]["room"] not in rooms)


async def test_a_client_of_pipecat_cloud_calls_with_what_its_start_is_answered(
    stack: RunningStack, stub: OpenAIStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its offer goes beside where it started, with the key that it started with; the bot hears and answers."""
    use_loopback(monkeypatch)
    start = f"{stack.connection.api_url}/v1/public/webrtc_bot/start"
    [line] = call.spoken([QUESTION])
    async with stack.client() as client:
        started = await client.post("/v1/public/webrtc_bot/start", {"enableDefaultIceServers": True})
        offers = start.replace("/start", f"/sessions/{started['sessionId']}/api/offer")
        async with RtcCaller(over_http(offers, stack.connection.api_key)) as caller:
            await converse(caller, line.pcm)
        ended = await wait_for_session(client, started["sessionId"])
    assert (ended["outcome"], ended["reason"]) == ("completed", "client-left")
    assert QUESTION in str(stub.asked(CHAT)[-1].body["messages"])


async def test_a_quickstart_is_refused_what_it_does_not_take(stack: RunningStack) -> None:
    """A session over another transport than those of its source isn't begun."""
    async with stack.client() as client:
        with pytest.raises(ApiProblem, match="The agent takes twilio, telnyx, plivo, exotel"):
            await client.post("/v1/sessions", {"agent": "telephony_bot", "transport": "websocket"})
