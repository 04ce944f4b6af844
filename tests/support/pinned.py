"""Pinned sessions, for tests of the scheduler's shell."""

from collections.abc import Sequence
from typing import Any

from greenroom.common import messages, subjects
from greenroom.common.broker import Broker
from greenroom.common.ledger import Ledger, decode_entry
from greenroom.common.lifecycle import Ended, Outcome, Session
from greenroom.common.pins import NEVER, Pin, PinsAnswer, PinsQuery, PinState, Relaunch
from tests.support.scheduler_rig import Rig

QUICK = Relaunch(first_s=1.0, longest_s=8.0, max_failures=4, window_s=60.0, stable_s=20.0)


def pin(count: int, pin_id: str = "lobby", **fields: Any) -> Pin:
    """Return a pin of the bot `echo`."""
    known: dict[str, Any] = {"uid": f"uid-{pin_id}", "tenant": "t", "agent": "a", "bot": "echo", "relaunch": QUICK}
    known |= {"changed_at": NEVER} | fields
    return Pin(id=pin_id, count=count, **known)


async def pinned(broker: Broker) -> list[Session]:
    """Return all pinned sessions that there ever were, as they are now, by slot and generation."""
    # A session that is written to meanwhile comes again.
    found: dict[str, Session] = {}
    reader = await broker.read("SESSIONS", [subjects.SESSION_LIFECYCLE.wildcard()], last_per_subject=True)
    if not reader.caught_up.is_set():
        async for message in reader:
            session = decode_entry(message).session
            found[session.id] = session
            if reader.caught_up.is_set():
                break
    await reader.close()
    return sorted((each for each in found.values() if each.pin is not None), key=place)


def place(session: Session) -> tuple[int, int]:
    """Return the slot and generation of a pinned session."""
    assert session.pin is not None
    return session.pin.slot, session.pin.generation


def live(sessions: Sequence[Session]) -> list[tuple[int, int]]:
    """Return the slots and generations of those that haven't ended."""
    return [place(each) for each in sessions if not each.ended]


async def crash(ledger: Ledger, session: Session, reason: str = "bot-failed") -> None:
    """Have a session's bot fail."""
    ended = Ended(by="runner", epoch=session.epoch, outcome=Outcome.FAILED, reason=reason)
    await ledger.move(session.tenant, session.id, lambda _: ended)


async def pins(rig: Rig) -> list[PinState]:
    """Ask the leading scheduler how the pins stand."""
    subject = subjects.REQUEST.format(service="scheduler", name="pins")
    reply = await rig.broker.request(subject, messages.encode(PinsQuery()), timeout_s=1)
    return list(messages.decode(reply.data, PinsAnswer).pins)
