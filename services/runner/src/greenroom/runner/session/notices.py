"""How a bot that knows nothing of Greenroom hears from it: as if its client had sent a message.

Pipecat hands what a client sends through the transport to whoever wants it, as an `InputTransportMessageFrame` that
passes in both directions. A notice is such a message, in the shape of RTVI's client messages:

    {"label": "rtvi-ai", "type": "client-message", "id": …,
     "data": {"t": "call-ending-soon", "d": {"seconds_left": 30}}}

So a bot hears it in whichever way it listens to its clients already: by the event `on_client_message` of `worker.rtvi`
(`message.type`, `message.data`), or in a processor that looks at `InputTransportMessageFrame` or
`RTVIClientMessageFrame`. A bot that doesn't listen isn't disturbed, and its client sees nothing. As a client could send
the same words, a notice is no order: the worst it does is a goodbye that comes early.
"""

from collections.abc import Iterable
from typing import Any, Final

import structlog
from pipecat.frames.frames import InputTransportMessageFrame
from pipecat.processors.frameworks.rtvi import models as rtvi

from greenroom.common.ids import uuid7
from greenroom.runner.session.attach import Attachment

_log = structlog.get_logger()

# `seconds_left`: the call has so much time left, and ends in order after that.
CALL_ENDING_SOON: Final = "call-ending-soon"


def notice(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """Return the message that a client would have sent."""
    return {
        "label": rtvi.MESSAGE_LABEL,
        "type": "client-message",
        "id": uuid7(),
        "data": {"t": kind, "d": data},
    }


async def tell_bot(attachments: Iterable[Attachment], kind: str, data: dict[str, Any]) -> None:
    """Give a notice to every pipeline that holds a transport; one that can't take it is left without."""
    for attachment in attachments:
        if not attachment.main:
            continue
        message = notice(kind, data)
        try:
            if attachment.inputs:
                await attachment.inputs[0].broadcast_frame(InputTransportMessageFrame, message=message)
            else:
                await attachment.worker.queue_frame(InputTransportMessageFrame(message=message))
        except Exception:  # noqa: BLE001 it runs code of the bot's, and a notice is no reason to end a call
            _log.exception("bot_not_told", notice=kind)
