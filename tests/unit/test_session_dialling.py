"""Calls out of a room: what is said of them decides once, and of others nothing."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common.reasons import Reason
from greenroom.runner.session.transports.dialling import ANSWERED, ERROR, STOPPED, Call, Dialler, NotReached, reason_of

_IDS = st.sampled_from(["ours", "before", "another", ""])
_KINDS = st.sampled_from([ANSWERED, STOPPED, ERROR, "connected", "warning"])


@given(said=st.lists(st.tuples(_KINDS, _IDS)), named=st.booleans())
def test_the_first_word_on_a_call_decides_it(said: list[tuple[str, str]], named: bool) -> None:  # noqa: FBT001
    """Once; nothing that is said of an earlier call, or of another than the one that is known, does."""
    call = Call(frozenset({"before"}))
    call.session_id = "ours" if named else None
    decided = [(kind, who) for kind, who in said if call.hear(kind, {"sessionId": who} if who else {})]
    assert len(decided) <= 1
    if not decided:
        assert call.outcome is None
        return
    [(kind, who)] = decided
    assert kind in {ANSWERED, STOPPED, ERROR}
    assert who != "before"
    assert who in {"ours", ""} or not named
    assert who or kind == ERROR
    assert call.outcome is not None
    assert call.outcome[0] == kind


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (STOPPED, {}, Reason.CALL_NOT_ANSWERED),
        (STOPPED, {"reason": "declined"}, Reason.CALL_BUSY),
        (ERROR, {"errorMsg": "SIP 486 Busy Here"}, Reason.CALL_BUSY),
        (ERROR, {"errorMsg": "603"}, Reason.CALL_BUSY),
        (ERROR, {"errorMsg": "businesslike failure"}, Reason.CALL_NOT_PUT_THROUGH),
        (ERROR, {}, Reason.CALL_NOT_PUT_THROUGH),
    ],
)
def test_what_became_of_a_call_is_read_from_dailys_words(kind: str, data: dict[str, Any], reason: Reason) -> None:
    """One that stops ringing wasn't answered, one that fails wasn't put through, and a busy one says so."""
    assert reason_of(kind, data) is reason


class _Line:
    """Calls nobody; `says` is what it answers."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.stopped: list[str] = []
        self.dialled: list[Any] = []
        self._hangs = hangs

    async def start_dialout(self, settings: Any = None) -> tuple[str, Any]:
        """See Pipecat's own."""
        self.dialled.append(settings)
        return f"call-{len(self.dialled)}", None

    async def stop_dialout(self, participant_id: Any) -> Any:
        """See Pipecat's own."""
        self.stopped.append(participant_id)
        if self._hangs:
            await asyncio.Event().wait()


async def _until_it_rings(dialler: Dialler, line: _Line) -> None:
    while not (dialler.rings and line.dialled):
        await asyncio.sleep(0)
    await asyncio.sleep(0)


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_call_that_is_given_up_is_hung_up(monkeypatch: pytest.MonkeyPatch, hangs: bool) -> None:  # noqa: FBT001
    """Also where Daily's library, out of the room already, never says that it has."""
    monkeypatch.setattr("greenroom.runner.session.transports.dialling._HANG_UP_S", 0.01)
    line, dialler = _Line(hangs=hangs), Dialler()
    dialler.transport = line
    calling = asyncio.create_task(dialler.dial({"sipUri": "sip:a@b.example"}, 60))
    await _until_it_rings(dialler, line)
    with pytest.raises(NotReached) as busy:
        await dialler.dial({"sipUri": "sip:c@d.example"}, 60)
    assert busy.value.reason is Reason.CALL_NOT_PUT_THROUGH
    calling.cancel()
    await asyncio.wait({calling})
    assert (line.stopped, len(line.dialled), dialler.rings) == (["call-1"], 1, False)


async def test_a_late_word_on_a_call_isnt_about_the_next() -> None:
    """Nor is what is said of a call that somebody else has made."""
    line, dialler = _Line(), Dialler()
    dialler.transport = line
    dialler.hear("connected", {"sessionId": "of-the-bot"})
    for late in ("", "call-1"):
        calling = asyncio.create_task(dialler.dial({}, 60))
        while not dialler.rings:
            await asyncio.sleep(0)
        # It may have no id yet.
        dialler.hear(STOPPED, {"sessionId": "of-the-bot"})
        dialler.hear(STOPPED, {"sessionId": late})
        await _until_it_rings(dialler, line)
        dialler.hear(ANSWERED, {"sessionId": f"call-{len(line.dialled)}"})
        assert await calling == f"call-{len(line.dialled)}"
    assert line.stopped == []
