"""What bots do at the end of their sessions: in order, in time, and without harm to the end."""

import asyncio
import contextlib
import sys
from types import ModuleType
from typing import Any

import pytest

from greenroom.common.messages import EventType
from greenroom.runner.session.end_hooks import run_end_hooks
from tests.support.leaping_time import run_virtual

_BOT = "a_bot_with_hooks"


class _End:
    """Runs the hooks of a module; notes what ran, and when, and what was told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = ModuleType(_BOT)
        monkeypatch.setitem(sys.modules, _BOT, self.module)
        self.ran: list[tuple[str, float]] = []
        self.told: list[str] = []

    def hook(self, name: str, takes_s: float = 0.0, error: BaseException | None = None) -> Any:
        async def run() -> None:
            await asyncio.sleep(takes_s)
            if error is not None:
                raise error
            self.ran.append((name, round(asyncio.get_running_loop().time(), 3)))

        run.__qualname__ = name
        return run

    def run(self, hooks: object, until: float = 8.0) -> None:
        """Be at the end."""
        self.module.__dict__["ON_END"] = hooks

        def emit(kind: EventType, data: dict[str, Any]) -> None:
            assert (kind, data["category"]) == (EventType.ERROR, "bot")
            self.told.append(data["message"])

        run_virtual(run_end_hooks(_BOT, until, emit))


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch) -> _End:
    """An end."""
    return _End(monkeypatch)


def test_they_run_in_order(end: _End) -> None:
    """One after the other, and nothing is told."""
    end.run([(end.hook("save", 1.0), 3.0), (end.hook("close"), 1)])
    assert end.ran == [("save", 1.0), ("close", 1.0)]
    assert end.told == []


def test_each_has_its_own_deadline(end: _End) -> None:
    """One that takes longer is cut off, one that fails is told without its text, and the next one runs."""
    end.run([(end.hook("slow", 9.0), 2.0), (end.hook("bad", error=ValueError("secret")), 1.0), (end.hook("good"), 1.0)])
    assert end.ran == [("good", 2.0)]
    slow, bad = end.told
    assert slow == "ON_END: slow: not done within 2.0 s"
    assert bad.startswith("ON_END: bad: ValueError")
    assert "secret" not in bad


def test_one_that_exits_does_not_end_the_end(end: _End) -> None:
    """`sys.exit()` would take the session's last event with it."""
    end.run([(end.hook("exits", error=SystemExit(3)), 1.0), (end.hook("close"), 1.0)])
    assert end.ran == [("close", 0.0)]
    [told] = end.told
    assert told.startswith("ON_END: exits: SystemExit")


def test_all_of_them_have_what_the_session_has_left(end: _End) -> None:
    """Whatever they say of themselves."""
    end.run([(end.hook("long", 60.0), 100.0), (end.hook("late", 1.0), 100.0)], until=5.0)
    assert end.ran == []
    assert end.told == ["ON_END: long: not done within 5.0 s", "ON_END: late: not begun, as no time was left"]


def test_one_that_swallows_its_cancelation_is_left_behind(end: _End) -> None:
    """It has had its time: the next one runs, and the session's end goes on."""

    async def deaf() -> None:
        while asyncio.get_running_loop().time() < 30:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    deaf.__qualname__ = "deaf"
    end.run([(deaf, 2.0), (end.hook("close"), 1.0)])
    assert end.ran == [("close", 2.2)]
    assert end.told == ["ON_END: deaf: not done within 2.0 s"]


def test_one_that_is_cut_off_may_clear_up(end: _End) -> None:
    """Before the next one runs."""

    async def tidy() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            end.ran.append(("tidied", 0.0))

    end.run([(tidy, 2.0), (end.hook("close"), 1.0)])
    assert end.ran == [("tidied", 0.0), ("close", 2.1)]


def test_one_that_cancels_itself_does_not_end_the_end(end: _End) -> None:
    """As when it awaits something of the bot's that was canceled."""
    end.run([(end.hook("awaits", error=asyncio.CancelledError()), 1.0), (end.hook("close"), 1.0)])
    assert end.ran == [("close", 0.0)]
    assert end.told == ["ON_END: awaits: it canceled itself"]


@pytest.mark.parametrize("hooks", [7, [print], [(print, 1.0)], [("save", 1.0)], [(1, 2, 3)]])
def test_what_is_no_hook_is_told(end: _End, hooks: object) -> None:
    """It is the bot's mistake, and no session's end."""
    end.run(hooks)
    assert len(end.told) == 1


def test_a_bot_without_any_has_none(end: _End) -> None:
    """Nor has a session whose bot was never imported."""
    run_virtual(run_end_hooks(_BOT, 8.0, end.hook("never")))
    run_virtual(run_end_hooks(None, 8.0, end.hook("never")))
    end.run([])
    end.run(())
    assert end.told == []
