"""Calls whose steps are run: what is said in them, what is made of them, and by whom."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Final

import msgspec
import pytest

from greenroom.common.lifecycle import Session
from greenroom.recorder.post_call import loading
from greenroom.recorder.settings import WORK
from tests.support.recorder_world import World, eventually
from tests.support.webhook_world import Hooks, hooks

ANSWER: Final = {
    "model": "small-1",
    "choices": [{"message": {"role": "assistant", "content": " A table for four. "}}],
    "usage": {"prompt_tokens": 30, "completion_tokens": 5},
}


@asynccontextmanager
async def chat_api() -> AsyncGenerator[Hooks]:
    """Give an API like OpenAI's."""
    async with hooks() as running:
        running.answer = lambda _: 200
        running.reply = msgspec.json.encode(ANSWER)
        yield running


def install(monkeypatch: pytest.MonkeyPatch, **plugins: Any) -> None:
    """Have plug-ins installed."""

    def entry_points(*, group: str, name: str) -> list[Any]:
        assert group == "greenroom.post_call"
        return [SimpleNamespace(load=lambda: plugins[name])] if name in plugins else []

    monkeypatch.setattr(loading, "entry_points", entry_points)


def summarising(model: Hooks, **settings: Any) -> dict[str, Any]:
    """Return settings of a recorder that has calls summarised."""
    url = f"http://127.0.0.1:{model.port}/v1"
    chosen = {"recorder_work": WORK, "post_call_steps": ("summary",), "summary_url": url, "summary_model": "small"}
    return {**chosen, **settings}


async def a_call(here: World, *said: str) -> Session:
    """Return a session that has ended; what is said is said by turns, the caller begins."""
    entry = await here.begin(metadata={"crm": "7"})
    for number, text in enumerate(said):
        kind = "agent_spoke" if number % 2 else "user_spoke"
        await here.publish(entry.session, kind, id=f"e{number}", data={"text": text, "start_ms": number * 1000})
    await here.end(entry)
    return entry.session


async def steps(here: World, session: Session) -> dict[str, dict[str, Any]]:
    """Return the steps of a session by their names."""
    rows = await here.rows("SELECT * FROM post_call_steps WHERE session_id = $1", session.id)
    return {row["step"]: row for row in rows}


async def finished(here: World, session: Session, step: str, state: str = "done") -> dict[str, Any]:
    """Return a step once it is in a state."""
    found = await eventually(lambda: steps(here, session), lambda found: found.get(step, {}).get("state") == state)
    return found[step]
