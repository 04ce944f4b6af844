"""What is known of a phone call, in one form for all carriers; its session has it.

    field       Twilio            Telnyx          Plivo, Vobiz   Exotel             Daily (dial-in)
    call_id     CallSid           CallSid         CallUUID       CallSid            callId
    stream_id   streamSid         stream_id       streamId       stream_sid         (none)
    from, to    From, To          From, To        From, To       From, To           To
    body        customParameters  (none)          (none)         custom_parameters  (none)

It is Pipecat's `CallData`, which a bot finds in its arguments, with the carrier and the direction. Who calls at Daily,
or is called from there, is among the secrets of the session and in no ledger, so it is not here either.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

type CallDirection = Literal["inbound", "outbound"]


class CallData(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """A phone call, as far as is known; None: the carrier hasn't said (yet), or never does.

    Numbers are without what people put between the digits; others than numbers (SIP URIs, `anonymous`) as they came.
    """

    carrier: str
    direction: CallDirection
    # The carrier's ids of the call, and of its media stream: that is known once somebody is on the line.
    call_id: str | None = None
    stream_id: str | None = None
    # Who calls, and who is called.
    from_: str | None = None
    to: str | None = None
    # What the carrier itself added to the call, by names: custom parameters, SIP headers. Not the session's `body`.
    body: dict[str, str] = {}

    def streaming(self, *, call_id: str, stream_id: str, parameters: Mapping[str, str]) -> "CallData":
        """Return the call with what its media stream began with."""
        return msgspec.structs.replace(self, call_id=call_id, stream_id=stream_id, body={**self.body, **parameters})
