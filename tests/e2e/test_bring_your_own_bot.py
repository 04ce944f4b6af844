"""docs/bring-your-own-bot.md is followed to the letter, from the first block to the last."""

import re
from collections.abc import AsyncIterator
from typing import Any

import hcl2
import pytest

from tests.support.document import Block, Reader, blocks, reader
from tests.support.openai_stub import KEY, Calls, OpenAIStub, Says, running_openai_stub
from tests.support.workspace import ROOT

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(150)]

PAGE = ROOT / "docs/bring-your-own-bot.md"
BLOCKS = blocks(PAGE)
_SAY = re.compile(r'--say[" ,]+([\w ]+)"')


@pytest.fixture(scope="module")
async def stub() -> AsyncIterator[OpenAIStub]:
    """What the bot hears, thinks and speaks with."""
    async with running_openai_stub() as running:
        running.think = think
        yield running


@pytest.fixture(scope="module")
async def terminal(stub: OpenAIStub, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Reader]:
    """Somebody with an OpenAI key, in an empty folder."""
    keys = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": stub.url}
    async with reader(tmp_path_factory.mktemp("page"), keys) as somebody:
        yield somebody


def think(messages: list[dict[str, Any]]) -> Says | Calls:
    """Answer as a model would that was told what the page tells it."""
    last = messages[-1]
    if last["role"] == "tool":
        return Says("We are open from noon until eleven." if "12:00" in last["content"] else "Goodbye.")
    text = str(last["content"])
    if "goodbye" in text:
        return Calls("end_call")
    return Calls("opening_hours", {"day": "friday"}) if "open" in text else Says("Hello.")


def _name(block: Block) -> str:
    return block.file or block.text.strip().partition("\n")[0][:50]


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=[f"{i:02}-{_name(block)}" for i, block in enumerate(BLOCKS)])
async def test_the_page_can_be_followed(number: int, terminal: Reader, stub: OpenAIStub) -> None:
    """Each block does what it says, after those before it: files are written, commands succeed."""
    block = BLOCKS[number]
    said = _SAY.findall(block.text + _tests_run_by(block)) if block.language == "sh" else []
    stub.transcripts.clear()
    stub.transcripts += said
    heard = len(stub.asked("/v1/audio/transcriptions"))
    await terminal.follow(block)
    if said:
        assert len(stub.asked("/v1/audio/transcriptions")) > heard


async def test_what_only_a_cluster_can_do_fits_to_the_files_here(terminal: Reader) -> None:
    """The image is built from a file that is here by arguments that it has; the job has the variables that are set."""
    [build] = terminal.noted("podman")
    containerfile = (ROOT / build[build.index("-f") + 1]).read_text()
    [argument] = [build[index + 1] for index, word in enumerate(build) if word == "--build-arg"]
    assert f"\nARG {argument.partition('=')[0]}" in containerfile
    put, run = terminal.noted("nomad")
    assert put[:3] == ["var", "put", "nomad/jobs/runner/runner"]
    job_text = (ROOT / run[-1]).read_text()
    assert f'"{put[2]}"' in job_text
    declared = {name.strip('"') for each in hcl2.loads(job_text)["variable"] for name in each}
    given = {run[index + 1].partition("=")[0] for index, word in enumerate(run) if word == "-var"}
    assert given == {"release", "bot_version"} & declared
    [values] = [word.partition("=")[2] for word in run if word.startswith("-var-file=")]
    assert (ROOT / values).is_file()


async def test_the_agent_of_the_package_says_what_the_page_says(terminal: Reader) -> None:
    """Description, schema and transports of the installed bot are those that its module has."""
    state = terminal.state()
    assert state is not None
    shown = await terminal.follow(
        Block("sh", 'curl -sSf "$GREENROOM_API_URL/v1/agents" -H "Authorization: Bearer $GREENROOM_API_KEY"')
    )
    assert '"name":"restaurant"' in shown
    assert '"description":"Answers the phone of a restaurant"' in shown
    assert '"restaurant":{"type":"string","maxLength":100}' in shown


def _tests_run_by(block: Block) -> str:
    named = re.search(r"pytest -q (\S+)", block.text) if block.language == "sh" else None
    return next((other.text for other in BLOCKS if named and other.file == named[1]), "")
