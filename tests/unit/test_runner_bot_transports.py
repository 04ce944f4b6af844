"""What an unmodified bot takes is read off its source."""

import ast
from types import ModuleType

import pytest

from greenroom.runner.bot_transports import guess, transports_of
from tests.support import session_bots

LOCAL = """
async def bot(runner_args):
    transport_params = {"daily": lambda: 1, "webrtc": lambda: 2, "eval": lambda: 3}
    transport = await create_transport(runner_args, transport_params)
"""


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("transport_params = {'websocket': f, 'twilio': f}", ("websocket", "twilio")),
        ("transport_params: dict[str, object] = {'livekit': f}", ("livekit",)),
        (LOCAL, ("daily", "smallwebrtc")),
        ("t = create_transport(a, {'telnyx': f, 'plivo': f, 'exotel': f})", ("telnyx", "plivo", "exotel")),
        ("t = utils.create_transport(a, {'websocket': f})", ("websocket",)),
        ("isinstance(a, DailyRunnerArguments)\nisinstance(a, SmallWebRTCRunnerArguments)", ("daily", "smallwebrtc")),
        ("match a:\n    case LiveKitRunnerArguments():\n        pass", ("livekit",)),
        ("serializer = TwilioFrameSerializer(sid)", ("twilio",)),
        ("from pipecat.serializers.twilio import TwilioFrameSerializer", ("websocket",)),
        ("transport_params = {'daily': f}\nDailyTransport(u)\nTwilioFrameSerializer()", ("daily",)),
        ("transport_params = {'vonage': f}", ("websocket",)),
        ("other = {'daily': f}", ("websocket",)),
    ],
)
def test_the_source_says_what_a_bot_takes(source: str, expected: tuple[str, ...]) -> None:
    """Keys of `transport_params` say it, else names that are used; imports alone say nothing; default: websocket."""
    assert guess(ast.parse(source)) == expected


def test_what_the_module_says_goes_first() -> None:
    """`TRANSPORTS` is believed, whatever the source has."""
    module = ModuleType("m")
    assert transports_of(module) == ("websocket",)
    vars(module)["TRANSPORTS"] = ["daily"]
    assert transports_of(module) == ("daily",)


def test_a_module_with_a_file_is_read() -> None:
    """The source of an imported module is found."""
    assert transports_of(session_bots) == ("websocket",)
