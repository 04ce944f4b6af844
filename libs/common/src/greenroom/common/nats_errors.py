"""What goes wrong with nats-py and JetStream, as errors of ours."""

from collections.abc import Mapping
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.js import errors as js_errors

from greenroom.common.broker import MessageTooLarge, WrongLastSequence
from greenroom.common.errors import BrokerUnavailable, GreenroomError

# Codes of the JetStream API (`errors.json` of nats-server).
_WRONG_LAST_SEQUENCE: Final = frozenset({10071, 10164})
_MESSAGE_TOO_LARGE: Final = 10054
# "NATS/1.0" and the empty line behind the headers.
_HEADER_FRAME_BYTES: Final = 12


def check_size(client: Client, subject: str, data: bytes, headers: Mapping[str, str] | None) -> None:
    """Refuse what the server would answer by closing the connection, each time it is sent again.

    nats-py looks at the body alone; the limit is for body and headers together.

    Raises:
        MessageTooLarge: the server doesn't take as much.
    """
    size = len(data)
    if headers:
        size += _HEADER_FRAME_BYTES + sum(len(f"{name}: {value}\r\n".encode()) for name, value in headers.items())
    if client.is_connected and size > client.max_payload:
        raise MessageTooLarge(f"a message on {subject} has {size} bytes, the server takes {client.max_payload}")


def publish_error(error: nats.errors.Error, subject: str) -> GreenroomError:
    """Return what it means that a message couldn't be sent."""
    if isinstance(error, nats.errors.MaxPayloadError):
        return MessageTooLarge(f"a message on {subject} is larger than the server takes")
    return BrokerUnavailable(f"{subject} can't be reached: {type(error).__name__}")


def append_error(error: BaseException, subject: str) -> BaseException:
    """Return what it means that an append failed; errors of other kinds as they are."""
    match error:
        case js_errors.APIError():
            return rejection(error.err_code or 0, error.description or "", subject)
        case nats.errors.MaxPayloadError():
            return publish_error(error, subject)
        case nats.errors.Error() | TimeoutError():
            unavailable = BrokerUnavailable(f"{subject} wasn't acknowledged: {type(error).__name__}")
            unavailable.__cause__ = error
            return unavailable
        case _:
            return error


def rejection(err_code: int, description: str, subject: str) -> GreenroomError:
    """Return what it means that a stream answered an append with an error."""
    if err_code in _WRONG_LAST_SEQUENCE:
        return WrongLastSequence(f"the last message on {subject} is another one")
    if err_code == _MESSAGE_TOO_LARGE:
        return MessageTooLarge(f"a message on {subject} is larger than its stream takes")
    return BrokerUnavailable(f"{subject} wasn't stored: {description}")
