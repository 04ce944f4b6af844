"""Which transports a bot takes that doesn't say so: its source tells, since Pipecat's own names stand in it.

The keys of `transport_params` (or of the dictionary that is handed to `create_transport`) say it best; where there are
none, the names of Pipecat's runner arguments, transports and serializers do.
"""

import ast
import inspect
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Final

DEFAULT: Final = ("websocket",)
# By the keys that Pipecat has for them.
_BY_KEY: Final = {
    "websocket": "websocket",
    "webrtc": "smallwebrtc",
    "daily": "daily",
    "livekit": "livekit",
    "twilio": "twilio",
    "telnyx": "telnyx",
    "plivo": "plivo",
    "exotel": "exotel",
}
_BY_NAME: Final = {
    "ProtobufFrameSerializer": "websocket",
    "SmallWebRTCRunnerArguments": "smallwebrtc",
    "SmallWebRTCTransport": "smallwebrtc",
    "DailyRunnerArguments": "daily",
    "DailyTransport": "daily",
    "LiveKitRunnerArguments": "livekit",
    "LiveKitTransport": "livekit",
    "TwilioFrameSerializer": "twilio",
    "TelnyxFrameSerializer": "telnyx",
    "PlivoFrameSerializer": "plivo",
    "ExotelFrameSerializer": "exotel",
}
_VARIABLE: Final = "transport_params"
_FUNCTION: Final = "create_transport"


def transports_of(module: ModuleType) -> tuple[str, ...]:
    """Return what a bot's module says (`TRANSPORTS`), else what its source tells, else `("websocket",)`."""
    said = getattr(module, "TRANSPORTS", None)
    if said is not None:
        return tuple(str(name) for name in said)
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return DEFAULT
    return guess(tree)


def guess(tree: ast.AST) -> tuple[str, ...]:
    """Return the transports that a source has names for, in the order of the names' first appearance."""
    keyed = _known(_keys(tree), _BY_KEY)
    return keyed or _known(_used(tree), _BY_NAME) or DEFAULT


def _known(names: Iterable[str], transports: dict[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(transports[name] for name in names if name in transports))


def _keys(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        for value in _dictionaries(node):
            for key in value.keys:
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value


def _dictionaries(node: ast.AST) -> Iterator[ast.Dict]:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict() as value) if name == _VARIABLE:
            yield value
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict() as value) if name == _VARIABLE:
            yield value
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args) if name == _FUNCTION:
            yield from (value for value in args if isinstance(value, ast.Dict))
        case _:
            pass


def _used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                yield name
            case _:
                pass
