"""A page whose code blocks are followed to the letter, in a folder and an environment of their own.

Blocks of Python and TOML begin with a comment that names their file, and are written there; blocks of `sh` are run.
Those that don't end by themselves (`greenroom up`) go on until the next such block.
"""

import asyncio
import os
import re
import shutil
import signal
import stat
import sys
import venv
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from greenroom.devtools.state import UpState, read_state
from tests.support.workspace import ROOT

_BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAMED: Final = re.compile(r"# ([\w./-]+)\n")
_STAYS: Final = "greenroom up"
_UP_S: Final = 60.0
_DOWN_S: Final = 15.0
_COMMAND_S: Final = 60.0
# Programs of other people's that only note how they are called: to run them takes a cluster.
_NOTED: Final = ("nomad", "podman")


class Block(NamedTuple):
    """A code block of a page."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that it is to be written to."""
        named = _NAMED.match(self.text) if self.language in {"python", "toml"} else None
        return named[1] if named else None

    @property
    def stays(self) -> bool:
        """Whether it is a command that goes on until it is stopped."""
        return self.language == "sh" and self.text.strip().startswith(_STAYS)


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page, in order."""
    return [Block(match[1], match[2]) for match in _BLOCK.finditer(page.read_text())]


class Reader:
    """Somebody who does what a page says.

    Args:
        folder: where.
        env: what is set in the terminal.
    """

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.log = folder.parent / "terminal.log"
        self._env = {**env, "PATH": f"{folder / '.venv/bin'}:{folder.parent / 'noted'}:{os.environ['PATH']}"}
        self._env |= {"VIRTUAL_ENV": str(folder / ".venv"), "UV_OFFLINE": "1", "HOME": str(folder)}
        self._up: asyncio.subprocess.Process | None = None

    async def follow(self, block: Block) -> str:
        """Do what a block says; return what it printed."""
        if block.file is not None:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
            return ""
        assert block.language == "sh", f"nobody knows what to do with {block.language} without the name of a file"
        if block.stays:
            await self.stop()
            await self._start(block.text)
            return ""
        return await self._run(block.text)

    def noted(self, program: str) -> list[list[str]]:
        """Return how one of the programs was called that only note it."""
        path = self.folder.parent / "noted" / f"{program}.calls"
        lines = path.read_text().split("\0\n") if path.exists() else []
        return [line.split("\0") for line in lines if line]

    def state(self) -> UpState | None:
        """Return where the Greenroom is that is up, if there is one."""
        return read_state(self.folder / ".greenroom")

    async def stop(self) -> None:
        """Press Ctrl-C in the terminal in which something goes on."""
        if self._up is not None:
            if self._up.returncode is None:
                self._up.send_signal(signal.SIGINT)
            async with asyncio.timeout(_DOWN_S):
                await self._up.wait()
            self._up = None

    async def _start(self, text: str) -> None:
        with self.log.open("ab") as log:
            self._up = await asyncio.create_subprocess_exec(
                *("bash", "-c", f"exec {text.strip()}"),
                cwd=self.folder,
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(_UP_S):
            while (state := self.state()) is None:
                assert self._up.returncode is None, self.log.read_text()[-5000:]
                await asyncio.sleep(0.1)
        self._env |= {"GREENROOM_API_URL": state.api_url, "GREENROOM_API_KEY": state.api_key}

    async def _run(self, text: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", text),
            cwd=self.folder,
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(_COMMAND_S):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, f"{text}\n{output.decode()}\n{self.log_tail()}"
        return output.decode()

    def log_tail(self) -> str:
        """Return the end of what was printed by what goes on."""
        return self.log.read_text()[-5000:] if self.log.exists() else ""


@asynccontextmanager
async def reader(folder: Path, env: Mapping[str, str]) -> AsyncGenerator[Reader]:
    """Sit somebody down in a folder with an environment like the checkout's, into which he may install."""
    home = folder / "home"
    home.mkdir()
    _make_environment(home / ".venv")
    _make_noted(folder / "noted")
    (home / "greenroom").symlink_to(ROOT)
    made = Reader(home, env)
    try:
        yield made
    finally:
        await made.stop()


def _make_environment(path: Path) -> None:
    """Make a virtual environment that sees what is installed in this one."""
    venv.create(path, symlinks=True, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    installed = Path(sys.prefix) / "lib" / version / "site-packages"
    site = path / "lib" / version / "site-packages"
    (site / "checkout.pth").write_text(f"import site; site.addsitedir({str(installed)!r})\n")
    scripts = path / "bin"
    _script(scripts / "greenroom", scripts / "python", "from greenroom.devtools.cli import main")
    _script(scripts / "pytest", scripts / "python", "from pytest import console_main as main")
    (scripts / "nats-server").symlink_to(Path(sys.prefix) / "bin/nats-server")
    (scripts / "uv").symlink_to(shutil.which("uv") or ROOT / ".uv/bin/uv")


def _make_noted(folder: Path) -> None:
    folder.mkdir()
    for program in _NOTED:
        path = folder / program
        path.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" >> {path}.calls\nprintf '\\n' >> {path}.calls\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _script(path: Path, python: Path, imported: str) -> None:
    path.write_text(f"#!{python}\nimport sys\n{imported}\nsys.exit(main())\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
