"""Until when the ways to a session are good: for as long as it may take, however long it waits first."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.api.auth import Caller
from greenroom.api.ice import IceServers
from greenroom.api.peer_tokens import PeerTokens
from greenroom.api.tickets import LIFETIME_S, Tickets
from greenroom.api.transports.base import MARGIN, Adapter, Asked, expiry
from greenroom.api.transports.smallwebrtc import SmallWebRTCAdapter
from greenroom.api.transports.websocket import WebSocketAdapter
from greenroom.common.clock import Clock
from greenroom.common.errors import TicketInvalid, TicketUsed
from greenroom.common.lifecycle import Limits, OnLoss, Session
from tests.support.leaping_time import LoopClock, run_virtual
from tests.support.memory_broker import MemoryServer

AT = datetime(2026, 3, 2, tzinfo=UTC)
ASKED = Asked(caller=Caller(tenant="t", key_id="k", scopes=frozenset({"*"}), secret=b"s"), origin="http://x")
OTHER = Asked(caller=Caller(tenant="t", key_id="l", scopes=frozenset({"*"}), secret=b"o"), origin="http://x")
_SPAN = st.floats(0, 86_400)
_SHARE = st.floats(0, 1)


def _session(limits: Limits | None = None, on_loss: OnLoss = OnLoss.BEFORE_MEDIA) -> Session:
    fields: dict[str, Any] = {"agent": "a", "bot": "a", "requested_at": AT, "queue_deadline_at": AT}
    return Session(id="s-1", tenant="t", limits=limits or Limits(), on_loss=on_loss, **fields)


@given(
    spans=st.lists(_SPAN, min_size=6, max_size=6),
    shares=st.lists(_SHARE, min_size=6, max_size=6),
    on_loss=st.sampled_from(OnLoss),
)
def test_a_room_outlives_its_session(spans: list[float], shares: list[float], on_loss: OnLoss) -> None:
    """Whatever of its limits it uses up, and if it goes on elsewhere once; nobody is put out of a call by the clock."""
    queue, start, duration, join, end, requeue = spans
    limits = Limits(
        queue_timeout_s=queue,
        start_timeout_s=start,
        max_duration_s=duration,
        join_timeout_s=join,
        end_timeout_s=end,
        requeue_timeout_s=requeue,
    )
    over_s = queue * shares[0] + start * shares[1] + duration * shares[2] + end
    if on_loss is not OnLoss.NEVER:
        ran_s = duration if on_loss is OnLoss.ALWAYS else min(join, duration)
        over_s += start * shares[3] + ran_s * shares[4] + limits.second_wait_s * shares[5]
    # Of a second there are only whole ones.
    assert expiry(_session(limits, on_loss)) >= AT + timedelta(seconds=over_s - 1) + MARGIN


type _Made = tuple[Adapter, Tickets]


def _websocket(clock: Clock) -> _Made:
    tickets = Tickets(MemoryServer().connect(), clock=clock)
    return WebSocketAdapter(tickets), tickets


def _smallwebrtc(clock: Clock) -> _Made:
    tickets = Tickets(MemoryServer().connect(), clock=clock)
    keys: Any = None
    ice = IceServers((), (), "", timedelta(hours=1))
    return SmallWebRTCAdapter(PeerTokens(tickets, keys), ice, clock=clock), tickets


@pytest.mark.parametrize("make", [_websocket, _smallwebrtc])
def test_what_ran_out_while_a_session_waited_is_good_again(make: Callable[[Clock], _Made]) -> None:
    """For whoever repeats the request, with whichever key; what is told is when it runs out now."""

    async def scenario() -> None:
        clock = LoopClock()
        adapter, tickets = make(clock)
        prepared = await adapter.prepare(ASKED, _session(), {})
        first = await adapter.answer(ASKED, "s-1", prepared.public, again=False)
        soon = await adapter.answer(ASKED, "s-1", prepared.public, again=True)
        assert soon.expires_at == first.expires_at, "it is good yet"
        await clock.sleep(LIFETIME_S + 100)
        with pytest.raises(TicketInvalid):
            await tickets.find(_secret(first))
        for asked in (ASKED, OTHER, ASKED):
            later = await adapter.answer(asked, "s-1", prepared.public, again=True)
            assert later.expires_at is not None
            assert 0 < LIFETIME_S - (later.expires_at - clock.now()).total_seconds() + 0.001 < 1
            assert (await tickets.find(_secret(later))).ticket.expires_at == later.expires_at
        assert _secret(later) == _secret(first)

    run_virtual(scenario())


def test_a_ticket_that_was_used_stays_used() -> None:
    """However often the request is repeated."""

    async def scenario() -> None:
        clock = LoopClock()
        adapter, tickets = _websocket(clock)
        prepared = await adapter.prepare(ASKED, _session(), {})
        secret = _secret(await adapter.answer(ASKED, "s-1", prepared.public, again=False))
        await tickets.take(await tickets.find(secret))
        await clock.sleep(LIFETIME_S + 100)
        await adapter.answer(ASKED, "s-1", prepared.public, again=True)
        with pytest.raises(TicketUsed):
            await tickets.find(secret)

    run_virtual(scenario())


def _secret(public: Any) -> str:
    return (public.token or public.url)[-43:]
