"""A call in a browser: headless Chromium speaks a WAV file with the front desk, and hears it."""

import asyncio
import io
import re
import wave
from array import array
from collections.abc import AsyncIterator

import msgspec
import pytest

from greenroom.devtools import call
from tests.support.chromium import Browser, chromium, pages
from tests.support.stack import (
    RunningStack,
    running_stack,
    wait_for_event,
    wait_for_recording,
    wait_for_session,
)

pytestmark = [pytest.mark.alone, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

# It is answered by a short question.
SENTENCE = "i would like to book a table"
RATE = 16_000
# The front desk greets first.
BEFORE_S = 5.0
AFTER_S = 20.0


@pytest.fixture(scope="module")
async def origin() -> AsyncIterator[str]:
    """The place of the test's page."""
    async with pages() as origin:
        yield origin


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory, origin: str) -> AsyncIterator[RunningStack]:
    """A stack whose runner takes calls on loopback, and whose api lets the page in."""
    settings = {"GREENROOM_RTC_ADDRESSES": "127.0.0.1", "GREENROOM_ALLOWED_ORIGINS": origin}
    async with running_stack(tmp_path_factory.mktemp("browser"), **settings) as running:
        yield running


@pytest.fixture(scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """A browser that says one sentence."""
    folder = tmp_path_factory.mktemp("chromium")
    said = b"".join(line.pcm for line in call.spoken([SENTENCE]))
    microphone = folder / "microphone.wav"
    with wave.open(str(microphone), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
        file.writeframes(_silence(BEFORE_S) + said + _silence(AFTER_S))
    async with chromium(folder, microphone=microphone) as running:
        yield running


async def test_a_browser_speaks_with_the_front_desk(stack: RunningStack, browser: Browser, origin: str) -> None:
    """The page connects with URL and token alone, is understood and hears the answer; leaving it ends the session."""
    async with stack.client() as client:
        session = await client.post(
            "/v1/sessions", {"agent": "frontdesk", "transport": "smallwebrtc", "wait": "ready", "wait_timeout_s": 30}
        )
        page = await browser.open(f"{origin}/call.html")
        await page.evaluate(f"call.begin({msgspec.json.encode(session['transport']).decode()})")
        await page.until("call.state === 'connected'")
        await page.until("call.loudestRms > 0.02")
        # The offer, and the candidates that were found behind it.
        await page.until("call.answers.some(([method]) => method === 'PATCH')")
        answers = await page.evaluate("call.answers")
        assert {tuple(answer) for answer in answers} == {("POST", 200), ("PATCH", 200)}

        events = await wait_for_event(client, session["id"], "user_spoke")
        heard = [event["data"]["text"] for event in events if event["type"] == "user_spoke"]
        assert _words(heard[0]) == _words(SENTENCE)
        async with asyncio.timeout(30):
            while len([event for event in events if event["type"] == "agent_spoke"]) < 2:
                await asyncio.sleep(0.2)
                events = await wait_for_event(client, session["id"], "agent_spoke")
        report = await page.evaluate("call.report()")
        assert report["energy"] > 0.01
        await page.close()

        ended = await wait_for_session(client, session["id"])
        assert (ended["outcome"], ended["reason"]) == ("completed", "client-left")
        events = await wait_for_event(client, session["id"], "call_completed")
        (left,) = [event["data"] for event in events if event["type"] == "call_disconnected"]
        assert (left["by"], left["code"]) == ("client", 1000)
        recording = await wait_for_recording(client, session["id"])
    with wave.open(io.BytesIO(recording)) as file:
        samples = array("h", file.readframes(file.getnframes()))
    assert [max(map(abs, samples[channel::2])) > 2000 for channel in (0, 1)] == [True, True]


async def test_a_browser_finds_a_new_way(stack: RunningStack, browser: Browser, origin: str) -> None:
    """ICE is restarted while the bot speaks: the page gets a new answer for its connection, and goes on as before."""
    async with stack.client() as client:
        session = await client.post(
            "/v1/sessions", {"agent": "frontdesk", "transport": "smallwebrtc", "wait": "ready", "wait_timeout_s": 30}
        )
        page = await browser.open(f"{origin}/call.html")
        await page.evaluate(f"call.begin({msgspec.json.encode(session['transport']).decode()})")
        await page.until("call.state === 'connected' && call.loudestRms > 0.02")
        before = await page.evaluate("call.pc.remoteDescription.sdp")
        await page.evaluate("call.restartIce()")
        await page.until("call.pc.iceConnectionState === 'connected' && call.pc.signalingState === 'stable'")
        assert _ice_user(await page.evaluate("call.pc.remoteDescription.sdp")) != _ice_user(before)
        events = await wait_for_event(client, session["id"], "user_spoke")
        await page.evaluate("call.loudestRms = 0")
        await page.until("call.loudestRms > 0.02")
        await page.evaluate("call.hangUp()")
        ended = await wait_for_session(client, session["id"])
        assert (ended["outcome"], ended["reason"]) == ("completed", "client-left")
        events = await wait_for_event(client, session["id"], "call_completed")
    assert [event["type"] for event in events].count("call_connected") == 1
    assert [event["data"]["media"]["restarts"] for event in events if event["type"] == "call_completed"] == [1]
    spoke = [event["data"]["text"] for event in events if event["type"] == "agent_spoke"]
    assert len(set(spoke)) == len(spoke), "the greeting came twice"


async def test_the_page_of_the_api_is_enough_to_call(stack: RunningStack, browser: Browser) -> None:
    """The address in the answer is all it needs: both sides are heard and read, the token leaves it, one hangs up."""
    async with stack.client() as client:
        session = await client.post(
            "/v1/sessions", {"agent": "frontdesk", "transport": "smallwebrtc", "wait": "ready", "wait_timeout_s": 30}
        )
        page = await browser.open(session["transport"]["page_url"])
        await page.evaluate(
            "window.violations = []; addEventListener('securitypolicyviolation', (event) => violations.push(event))"
        )
        await page.evaluate("document.getElementById('begin').click()")
        await page.until("document.getElementById('state').textContent === 'connected'")
        assert await page.evaluate("location.hash") == ""
        # The offer, and at least once candidates: one address, whatever the method.
        asked = "performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('/offer'))"
        await page.until(f"{asked}.length > 1")
        assert set(await page.evaluate(f"{asked}.map((entry) => entry.responseStatus)")) == {200}
        await page.until("document.querySelectorAll('#said .user').length > 0")
        heard = await page.evaluate("document.querySelector('#said .user').textContent")
        assert _words(heard) == _words(SENTENCE)
        await page.until("document.querySelectorAll('#said .agent').length > 1")
        await page.evaluate("document.getElementById('end').click()")
        ended = await wait_for_session(client, session["id"])
        assert (ended["outcome"], ended["reason"]) == ("completed", "client-left")
        assert await page.evaluate("violations.length") == 0


def _ice_user(sdp: str) -> str:
    return sdp.split("a=ice-ufrag:", 1)[1].split(maxsplit=1)[0]


def _silence(seconds: float) -> bytes:
    return bytes(2 * round(RATE * seconds))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())
