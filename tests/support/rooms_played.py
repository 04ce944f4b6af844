"""Plays events to the transports of Pipecat that go into rooms, the real classes, and tells what the session hears.

A process of its own, for Daily's library starts threads that nothing stops: it reads scenarios from standard input and
writes what they came to (`python -m tests.support.rooms_played < scenarios.json`). Nobody joins a room here, for there
is none; the events are called as the provider's library would have them called.

    {"NAME": {"transport": "daily", "steps": [["event", "_on_joined", {}], ["wait", 5], ["close"]], …}}
"""

import asyncio
import json
import sys
from dataclasses import asdict
from typing import Any, Final

from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.runner.types import DailyRunnerArguments, LiveKitRunnerArguments, RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.transports.daily.transport import DailyParams
from pipecat.transports.livekit.transport import LiveKitParams, LiveKitTransport

from greenroom.common.lifecycle import Limits, OnLoss
from greenroom.common.secrets import SecretBox
from greenroom.runner.session.attach import Attachment
from greenroom.runner.session.transports import make_transport
from greenroom.runner.session.transports.base import NotRunnable
from tests.support.leaping_time import run_virtual
from tests.support.memory_broker import MemoryServer
from tests.support.session_rig import new_session

_INFO: Final = {
    "daily": {"room": "gr-1", "room_url": "https://greenroom.daily.co/gr-1"},
    "livekit": {"room": "gr-1", "url": "wss://livekit.example"},
}


async def _play(scenario: dict[str, Any]) -> dict[str, Any]:
    heard: list[list[Any]] = []
    now = asyncio.get_running_loop().time
    name = scenario["transport"]
    session = new_session(
        "echo",
        limits=Limits(rejoin_timeout_s=scenario.get("rejoin_s", 0)),
        transport=name,
        transport_info=_INFO[name],
        on_loss=OnLoss(scenario.get("on_loss", "before_media")),
    )
    broker = MemoryServer().connect()
    box = SecretBox(broker)
    if secrets := scenario.get("secrets", {"room_token": "the-token"}):
        await box.put(session.tenant, session.id, secrets)
    room = make_transport(
        session,
        broker,
        lambda connection: heard.append([round(now(), 3), "connected", connection]),
        lambda by, code, reason: heard.append([round(now(), 3), "disconnected", by, code, reason]),
    )
    try:
        await room.open()
    except NotRunnable as error:
        return {"refused": str(error)}
    arguments = room.arguments({"lang": "de"})
    # As a bot makes it, and as a worker has it when it is set up.
    transport, params = await _transport(arguments)
    worker = PipelineWorker(Pipeline([transport.input(), transport.output()]))
    room.attach(Attachment(worker))
    room.attach(Attachment(worker))
    for kind, *values in scenario.get("steps", []):
        match kind:
            case "event":
                await getattr(transport, values[0])(*values[1:])
            case "wait":
                await asyncio.sleep(values[0])
            case "prepare_to_close":
                room.prepare_to_close(*values)
            case "bot_ends":
                room.bot_ends()
            case "close":
                await room.close()
            case _:
                raise ValueError(kind)
        await asyncio.sleep(0.001)
    return {
        "heard": heard,
        "connected": room.connected,
        "counts": [getattr(room.counts, field) for field in room.counts.__struct_fields__],
        "arguments": {key: value for key, value in asdict(arguments).items() if value is not None},
        "kind": type(arguments).__name__,
        "left": await box.take(session.tenant, session.id, keep=True),
        "dialin": _dialin(params),
    }


async def _transport(arguments: RunnerArguments) -> tuple[BaseTransport, TransportParams]:
    match arguments:
        case DailyRunnerArguments():
            params = DailyParams(audio_in_enabled=True, audio_out_enabled=True, audio_in_user_tracks=False)
            return await create_transport(arguments, {"daily": lambda: params}), params
        case LiveKitRunnerArguments():
            params = LiveKitParams(audio_in_enabled=True, audio_out_enabled=True)
            transport = LiveKitTransport(arguments.url, arguments.token, arguments.room_name, params=params)
            return transport, params
        case _:
            raise TypeError(arguments)


def _dialin(params: TransportParams) -> dict[str, str] | None:
    if not isinstance(params, DailyParams) or params.dialin_settings is None:
        return None
    settings = params.dialin_settings
    return {
        "call_id": settings.call_id,
        "call_domain": settings.call_domain,
        "api_key": params.api_key,
        "api_url": params.api_url,
    }


def main() -> None:
    """Play what standard input says."""
    scenarios: dict[str, Any] = json.load(sys.stdin)
    told = {name: run_virtual(_play(scenario)) for name, scenario in scenarios.items()}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
