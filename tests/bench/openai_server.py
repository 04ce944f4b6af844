"""The stub of OpenAI's APIs as a process of its own, for benchmarks: prints its base URL, ends with its parent."""

import asyncio
import sys

import uvloop

from tests.support.openai_stub import Says, running_openai_stub

# One sentence, so that it is one request for speech: 40 words are 2.4 s of it.
_ANSWER = " ".join(["we are open from nine to five on every day of the week"] * 3) + "."


async def _main() -> None:
    async with running_openai_stub() as stub:
        stub.default_reply = Says(_ANSWER)
        stub.default_transcript = "What are your opening hours?"
        print(stub.url, flush=True)
        # End of file: whoever started us is gone.
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_main())
