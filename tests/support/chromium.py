"""A headless Chromium whose microphone is a WAV file, driven over the DevTools protocol.

    async with chromium(folder, microphone=wav) as browser, pages() as origin:
        page = await browser.open(origin + "/call.html")
        await page.evaluate("call.begin(…)")

Without the browser tests fail: `.ci/run` says which package has it.
"""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect

PAGES: Final = Path(__file__).parent / "pages"
_PATIENCE_S: Final = 30.0
_FLAGS: Final = (
    "--headless=new",
    # Tests run as root in containers, where Chromium's own sandbox can't.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-default-browser-check",
    "--password-store=basic",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--allow-loopback-in-peer-connection",
    "--remote-debugging-port=0",
)


class PageError(Exception):
    """A script of a page failed; the text is its error."""


class Page:
    """One page.

    Args:
        socket: to the browser.
        session: the page's name there.
    """

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser = browser
        self._session = session

    async def evaluate(self, script: str) -> Any:
        """Return the JSON value of an expression, awaited if it is a promise.

        Raises:
            PageError: it failed.
        """
        options = {"expression": script, "awaitPromise": True, "returnByValue": True}
        answer = await self._browser.send("Runtime.evaluate", options, session=self._session)
        if failed := answer.get("exceptionDetails"):
            raise PageError(failed.get("exception", {}).get("description") or failed["text"])
        return answer["result"].get("value")

    async def until(self, script: str) -> Any:
        """Return the value of an expression once it is true."""
        async with asyncio.timeout(_PATIENCE_S):
            while not (found := await self._look(script)):
                await asyncio.sleep(0.1)
        return found

    async def _look(self, script: str) -> Any:
        try:
            return await self.evaluate(script)
        except PageError as error:
            # Between two documents there is nothing that a script could run in.
            if "execution context" not in str(error):
                raise
            return None

    async def close(self) -> None:
        """Leave the page, as closing its tab does."""
        await self._browser.send("Page.navigate", {"url": "about:blank"}, session=self._session)


class Browser:
    """A running browser.

    Args:
        socket: to its DevTools.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def open(self, url: str) -> Page:
        """Open a page in a tab of its own, and wait until it is loaded."""
        target = await self.send("Target.createTarget", {"url": url})
        attached = await self.send("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        page = Page(self, attached["sessionId"])
        await page.until(f"location.href === {msgspec.json.encode(url).decode()} && document.readyState === 'complete'")
        return page

    async def send(self, method: str, params: dict[str, Any], *, session: str | None = None) -> dict[str, Any]:
        """Send a command and return its result."""
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        command: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            command["sessionId"] = session
        await self._socket.send(msgspec.json.encode(command).decode())
        answer = await asyncio.wait_for(future, _PATIENCE_S)
        if "error" in answer:
            raise PageError(f"{method}: {answer['error']}")
        return answer["result"]

    async def listen(self) -> None:
        """Take answers, until the browser is gone."""
        async for text in self._socket:
            message = msgspec.json.decode(text)
            if future := self._waiting.pop(message.get("id", 0), None):
                future.set_result(message)


@contextlib.asynccontextmanager
async def chromium(folder: Path, *, microphone: Path) -> AsyncGenerator[Browser]:
    """Run a browser for the time of the block.

    Args:
        folder: for its profile and its log.
        microphone: a WAV file that is spoken once, from when a page asks for the microphone.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    assert program, "no Chromium: apt-get install chromium"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "chromium.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            program,
            *_FLAGS,
            f"--use-file-for-fake-audio-capture={microphone}%noloop",
            f"--user-data-dir={folder / 'profile'}",
            "about:blank",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Its many processes end with it, as one group.
            start_new_session=True,
        )
    try:
        address = await _address(folder / "profile" / "DevToolsActivePort", process, log)
        async with connect(address, max_size=None, compression=None) as socket:
            browser = Browser(socket)
            listening = asyncio.create_task(browser.listen())
            try:
                yield browser
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@contextlib.asynccontextmanager
async def pages() -> AsyncGenerator[str]:
    """Serve the pages of the tests on loopback, which browsers take for a secure place; gives the origin."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()  # opened in case it was needed
            return
        file = PAGES / Path(request.split(b" ", 2)[1].decode()).name
        found = file.is_file()
        body = file.read_bytes() if found else b""
        status = "200 OK" if found else "404 Not Found"
        head = (
            f"HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


async def _address(file: Path, process: asyncio.subprocess.Process, log: Path) -> str:
    """Return where the browser's DevTools listen, once it has written that down."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            assert process.returncode is None, log.read_text(errors="replace")
            lines = file.read_text().splitlines() if file.exists() else []
            if len(lines) == 2:
                port, path = lines
                return f"ws://127.0.0.1:{port}{path}"
            await asyncio.sleep(0.05)
