"""nats-py's parser, with a short way for the messages of subscriptions that want many.

nats-py makes of every message an object with its headers taken apart, puts it on a queue and wakes a task for it: half
of what it takes to store an event. What a consumer pulls comes by the thousand, and of most messages nobody looks at
the headers. So what comes for a subscription that takes messages raw is cut out of the bytes at once and handed over;
everything else goes the way of nats-py, as does whatever isn't a whole message with headers: the rest of one that came
in pieces, statuses, pings.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from nats.protocol.parser import AWAITING_CONTROL_LINE, CRLF_SIZE, Parser

# HMSG <subject> <sid> <reply> <bytes of headers> <bytes in all>, as the server writes it: with one space between them,
# which is looked for twice as fast as the end of a word.
_WITH_HEADERS: Final = re.compile(rb"HMSG ([^ ]+) (\d+) ([^ ]+) (\d+) (\d+)\r\n")


class RawMessage(msgspec.Struct, frozen=True, gc=False):
    """A message as it came. `headers` is the whole block, its first line included; empty where there is none."""

    subject: bytes
    reply: bytes
    headers: bytes
    data: bytes


type TakeRaw = Callable[[RawMessage], None]


class RawParser(Parser):
    """Cuts out what is for raw subscriptions, and leaves the rest to nats-py.

    Args:
        client: nats-py's client, which is told of the rest.
        takers: who takes messages raw, by the subscription's number; may change at any time.
    """

    def __init__(self, client: Any, takers: Mapping[int, TakeRaw]) -> None:
        self._resets = 0
        super().__init__(client)
        self._takers = takers

    def reset(self) -> None:
        """Forget what isn't whole: another connection begins."""
        super().reset()
        self._resets += 1

    async def parse(self, data: bytes = b"") -> None:
        """Parse what came; keeps the rest of what isn't whole."""
        if self.state != AWAITING_CONTROL_LINE:
            # The message that came in pieces may be whole with this much; what is behind it begins anew.
            missing = self.needed + CRLF_SIZE - len(self.buf)
            resets = self._resets
            await super().parse(data[:missing])
            if len(data) <= missing or self._resets != resets:
                return
            data = data[missing:]
        if self.buf:
            data = bytes(self.buf) + data
            self.buf.clear()
        if rest := data[self._cut(data) :]:
            await super().parse(rest)

    def _cut(self, data: bytes) -> int:
        """Hand over what is whole, from the beginning, and return where something else begins.

        (The client's counts of messages and bytes leave these out; nobody reads them.)
        """
        takers, match, begin, end = self._takers, _WITH_HEADERS.match, 0, len(data)
        while line := match(data, begin):
            subject, sid, reply, of_headers, in_all = line.groups()
            take = takers.get(int(sid))
            body = line.end()
            after = body + int(in_all)
            if take is None or after + CRLF_SIZE > end:
                break
            split = body + int(of_headers)
            take(RawMessage(subject, reply, data[body:split], data[split:after]))
            begin = after + CRLF_SIZE
        return begin
