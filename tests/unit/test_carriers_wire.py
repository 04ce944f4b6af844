"""The session's side of calls: what a bot reads before its carrier is there, and how a carrier's start is found."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipecat.runner.utils import parse_telephony_websocket

from greenroom.api.carriers.base import RestAnswer
from greenroom.api.carriers.telnyx import Account, Telnyx
from greenroom.runner.session.transports import telephony_wire as wire
from greenroom.runner.session.transports.telephony_wire import Start
from tests.support.carriers.dialect import Leg
from tests.support.carriers.exchange import CALLER, CARRIERS, NUMBER, dialect_of

# What Pipecat takes each for.
_TAKEN_FOR = {"vobiz": "plivo"}


class _Socket:
    """Two messages, and then nothing."""

    def __init__(self, *texts: str) -> None:
        self._texts = list(texts)

    async def iter_text(self):  # noqa: ANN202 Starlette's own signature
        """Yield what comes."""
        while self._texts:
            yield self._texts.pop(0)


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_pipecat_reads_the_opening_as_the_carriers_own(carrier: str) -> None:
    """Type, ids and numbers are found as if the carrier had said it; Vobiz is taken for Plivo."""
    names = Start(stream_id="stream-name", call_id="call-name")
    texts = wire.opening(carrier, names, {"from": CALLER, "to": NUMBER})
    kind, call = await parse_telephony_websocket(_Socket(*texts))  # pyright: ignore[reportArgumentType]
    assert kind == _TAKEN_FOR.get(carrier, carrier)
    assert (call.stream_id, call.call_id) == ("stream-name", "call-name")
    if kind != "plivo":
        assert (call.from_number, call.to_number) == (CALLER, NUMBER)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_the_carriers_start_is_found_among_its_first_messages(carrier: str) -> None:
    """It is the last of them, and has both ids."""
    leg = Leg(call_id="call-1", stream_id="stream-1", caller=CALLER, called=NUMBER)
    found = [
        wire.start_of(carrier, msgspec.json.encode(message).decode()) for message in dialect_of(carrier).opening(leg)
    ]
    assert found[:-1] == [None] * (len(found) - 1)
    last = found[-1]
    assert last is not None
    assert (last.stream_id, last.call_id) == ("stream-1", "call-1")


@pytest.mark.parametrize("carrier", CARRIERS)
@given(
    text=st.one_of(
        st.text(max_size=60),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
            lambda inner: st.dictionaries(
                st.sampled_from(["event", "start", "streamSid", "callSid", "stream_id"]), inner
            ),
            max_leaves=6,
        ).map(lambda value: msgspec.json.encode(value).decode()),
    )
)
def test_anything_else_is_no_start(carrier: str, text: str) -> None:
    """Whatever comes, a start has two ids that aren't empty, and nothing breaks."""
    start = wire.start_of(carrier, text)
    assert start is None or (start.stream_id and start.call_id)


@pytest.mark.parametrize(
    ("body", "call_id"),
    [
        ({"from": NUMBER, "to": CALLER, "status": "queued"}, ""),
        ({"data": {"from": NUMBER, "to": CALLER, "status": "queued"}}, ""),
        ({"sid": "v3:abc", "status": "queued"}, "v3:abc"),
        ({"call_sid": "v3:abc", "call_session_id": "other"}, "v3:abc"),
        ({"data": {"call_control_id": "v3:abc", "call_leg_id": "other"}}, "v3:abc"),
        ({"data": [{"sid": "v3:abc"}], "sid": 7}, ""),
    ],
)
def test_telnyx_answers_a_dial_with_or_without_an_id(body: dict[str, Any], call_id: str) -> None:
    """What hangs a call up is found where it is, and no other id is taken for it."""
    account = Account(api_key="k", public_key="p", account_sid="a", application_id="b")
    assert Telnyx(account).dialled(RestAnswer(status=200, body=body)) == call_id
