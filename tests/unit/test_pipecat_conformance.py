"""The installed Pipecat has the runner arguments that bots are called with here, and the private parts that are used.

What these parts do is held by test_session_conformance.py; here is that they are there, and that none is used which
isn't listed. A change of Pipecat's that matters to us fails here first, by name.
"""

import argparse
import ast
import dataclasses
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from onnxruntime import InferenceSession
from pipecat.audio.turn.smart_turn import _whisper_features
from pipecat.audio.turn.smart_turn.base_smart_turn import BaseSmartTurn
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADAnalyzer, VADState
from pipecat.audio.vad.vad_controller import VADController
from pipecat.flows import FlowManager
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import IdleFrameObserver, PipelineWorker
from pipecat.pipeline.worker_observer import WorkerObserver
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.runner import types
from pipecat.runner.types import (
    CallData,
    DailyDialinRequest,
    DailyRunnerArguments,
    DialinSettings,
    LiveKitRunnerArguments,
    RunnerArguments,
    SmallWebRTCRunnerArguments,
    WebSocketRunnerArguments,
)
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.transports.smallwebrtc.transport import RawAudioTrack, SmallWebRTCClient
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.turns.user_stop import TurnAnalyzerUserTurnStopStrategy
from pipecat.turns.user_turn_controller import UserTurnController
from pipecat.utils.base_object import BaseObject
from starlette.websockets import WebSocket

from greenroom.runner.session import transports
from tests.support.workspace import ROOT

# What every bot may read of its arguments, and the value that it finds where nobody has set another.
BASE = {
    "handle_sigint": False,
    "handle_sigterm": False,
    "pipeline_idle_timeout_secs": 300,
    "body": {},
    "call_data": None,
    "session_id": None,
    "cli_args": None,
    "file_storage": None,
}
# By class, its own fields; True: has to be given.
OWN: dict[type[RunnerArguments], dict[str, bool]] = {
    DailyRunnerArguments: {"room_url": True, "token": False},
    WebSocketRunnerArguments: {"websocket": True, "transport_type": False},
    SmallWebRTCRunnerArguments: {"webrtc_connection": True},
    LiveKitRunnerArguments: {"room_name": True, "url": True, "token": True},
}
# Pipecat has them too; no session here is run over them.
NOT_OURS = {"VonageRunnerArguments", "EvalRunnerArguments", "MOQRunnerArguments"}
# What the bot of a session over a transport is called with, and how it is built.
CALLED_WITH: dict[str, Callable[..., RunnerArguments]] = {
    "websocket": lambda **common: WebSocketRunnerArguments(
        websocket=_websocket(), transport_type="websocket", **common
    ),
    "telephony": lambda **common: WebSocketRunnerArguments(websocket=_websocket(), transport_type=None, **common),
    "daily": lambda **common: DailyRunnerArguments(room_url="https://x.daily.co/r", token="t", **common),
    "smallwebrtc": lambda **common: SmallWebRTCRunnerArguments(webrtc_connection=object(), **common),
    "livekit": lambda **common: LiveKitRunnerArguments(room_name="r", url="wss://x.livekit.cloud", token="t", **common),
}


def _websocket() -> WebSocket:
    async def nothing(*_: Any) -> Any:
        return {}

    return WebSocket({"type": "websocket", "path": "/", "headers": [], "query_string": b""}, nothing, nothing)


# ---------------------------------------------------------------------------- runner arguments


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.__name__)
def test_runner_arguments_have_the_fields_that_are_known(kind: type[RunnerArguments]) -> None:
    """A field that is new, gone, renamed, or required now, is a change that transports and docs have to follow."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    assert set(fields) == set(BASE) | set(OWN[kind])
    assert {name: _required(fields[name]) for name in OWN[kind]} == OWN[kind]
    assert [name for name in BASE if fields[name].init and _required(fields[name])] == []


@pytest.mark.parametrize("transport", CALLED_WITH)
def test_runner_arguments_can_be_built_as_transports_build_them(transport: str) -> None:
    """By keyword, with body and session id; all else has the values that bots find under the development runner."""
    body = {"restaurant": "Chez Pipe"}
    made = CALLED_WITH[transport](body=body, session_id="s-1")
    assert {name: getattr(made, name) for name in BASE} == {**BASE, "body": body, "session_id": "s-1"}
    made.cli_args = argparse.Namespace()
    assert all(getattr(made, name) is not None for name, required in OWN[type(made)].items() if required)


def test_there_are_no_runner_arguments_that_nobody_has_thought_of() -> None:
    """A class that Pipecat adds is a transport that we have, or one that we know we haven't."""
    known = {kind.__name__ for kind in OWN} | NOT_OURS | {"RunnerArguments"}
    found = {
        name
        for name, member in inspect.getmembers(types, inspect.isclass)
        if issubclass(member, RunnerArguments) and member.__module__ == types.__name__
    }
    assert found == known


def test_the_transports_here_are_built_from_arguments_that_are_pinned() -> None:
    """Each transport that a session process knows is in the table above; the carriers' are `telephony`."""
    carriers = {"twilio", "telnyx", "plivo", "exotel", "vobiz"}
    assert set(transports._KNOWN) <= set(CALLED_WITH) | carriers


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (CallData, {"stream_id": False, "call_id": False, "from_number": False, "to_number": False, "body": False}),
        (DialinSettings, {"call_id": True, "call_domain": True, "To": False, "From": False, "sip_headers": False}),
        (DailyDialinRequest, {"dialin_settings": True, "daily_api_key": True, "daily_api_url": True}),
    ],
)
def test_what_bots_read_of_a_telephone_call_is_as_known(model: Any, fields: dict[str, bool]) -> None:
    """The handshake of a carrier and the body of a dial-in have the fields that our carriers and Daily fill."""
    assert {name: field.is_required() for name, field in model.model_fields.items()} == fields


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


# ---------------------------------------------------------------------------- private parts


@pytest.fixture
def worker() -> PipelineWorker:
    """A worker that isn't set up, with a WebSocket transport."""
    transport = FastAPIWebsocketTransport(
        _websocket(), FastAPIWebsocketParams(audio_in_enabled=True, serializer=ProtobufFrameSerializer())
    )
    return PipelineWorker(Pipeline([transport.input(), transport.output()]), enable_tracing=True)


def _transport_of(worker: PipelineWorker) -> Any:
    def found(processor: FrameProcessor) -> Iterator[FrameProcessor]:
        if hasattr(processor, "_client"):
            yield processor
        for inner in processor.processors:
            yield from found(inner)

    return next(found(worker.pipeline))


def _quiet_analyzer() -> Any:
    analyzer = SileroVADAnalyzer()
    analyzer.set_sample_rate(16_000)
    return analyzer


def _turn_analyzer() -> Any:
    return LocalSmartTurnAnalyzerV3()


def _user_aggregator() -> Any:
    params = LLMUserAggregatorParams(vad_analyzer=_quiet_analyzer())
    return LLMContextAggregatorPair(LLMContext(), user_params=params).user()


def _daily_client() -> Any:
    # Its library starts threads, which no other test is to have.
    return importlib.import_module("pipecat.transports.daily.transport").DailyTransportClient


# By name, that the installed Pipecat has it, in the shape in which it is used.
PINNED: dict[str, Callable[[Any], bool]] = {
    "_observer": lambda worker: type(worker._observer) is WorkerObserver,
    "_observers": lambda worker: isinstance(worker._observer._observers, list),
    "_proxies": lambda worker: worker._observer._proxies is None,
    "_enable_tracing": lambda worker: worker._enable_tracing is True,
    "_tracing_context": lambda worker: worker._tracing_context is not None,
    "_tracer": lambda worker: worker.turn_trace_observer is not None and hasattr(worker.turn_trace_observer, "_tracer"),
    "_client": lambda worker: inspect.iscoroutinefunction(_transport_of(worker)._client.trigger_client_connected),
    "_params": lambda worker: isinstance(_transport_of(worker)._params.serializer, ProtobufFrameSerializer),
    "_callbacks": lambda _: "self._callbacks = callbacks" in inspect.getsource(SmallWebRTCClient.__init__),
    "_chunk_queue": lambda _: len(RawAudioTrack(sample_rate=16_000)._chunk_queue) == 0,
    "_call_event_handler": lambda _: inspect.iscoroutinefunction(BaseObject._call_event_handler),
    "_set_node": lambda _: inspect.iscoroutinefunction(vars(FlowManager)["_set_node"]),
    "_event_handlers": lambda worker: isinstance(worker.pipeline._event_handlers, dict),
    "_vad_state": lambda _: _quiet_analyzer()._vad_state is VADState.QUIET,
    "_prev_volume": lambda _: _quiet_analyzer()._prev_volume == 0,
    "_vad_controller": lambda _: isinstance(_user_aggregator()._vad_controller, VADController),
    "_vad_analyzer": lambda _: isinstance(_user_aggregator()._vad_controller._vad_analyzer, VADAnalyzer),
    "_user_turn_controller": lambda _: isinstance(_user_aggregator()._user_turn_controller, UserTurnController),
    "_user_turn": lambda _: _user_aggregator()._user_turn_controller._user_turn is False,
    "_turn_analyzer": lambda _: isinstance(
        TurnAnalyzerUserTurnStopStrategy(turn_analyzer=_turn_analyzer())._turn_analyzer, BaseSmartTurn
    ),
    "_vad_stop_frames": lambda _: _quiet_analyzer()._vad_stop_frames == 6,
    "_vad_frames": lambda _: _quiet_analyzer()._vad_frames == 512,
    "_vad_stopping_count": lambda _: _quiet_analyzer()._vad_stopping_count == 0,
    "_vad_buffer": lambda _: _quiet_analyzer()._vad_buffer == b"",
    "_audio_buffer": lambda _: _turn_analyzer()._audio_buffer == [],
    "_model_executor": lambda _: isinstance(vars(BaseSmartTurn)["_model_executor"], property),
    "_process_speech_segment": lambda _: (
        list(inspect.signature(BaseSmartTurn._process_speech_segment).parameters) == ["self", "audio_buffer"]
    ),
    "_clear": lambda _: list(inspect.signature(BaseSmartTurn._clear).parameters) == ["self", "turn_state"],
    "_predict_endpoint": lambda _: (
        list(inspect.signature(LocalSmartTurnAnalyzerV3._predict_endpoint).parameters) == ["self", "audio_array"]
    ),
    "_resample_to_model_rate": lambda _: (
        list(inspect.signature(LocalSmartTurnAnalyzerV3._resample_to_model_rate).parameters) == ["self", "audio_array"]
    ),
    "_session": lambda _: isinstance(_turn_analyzer()._session, InferenceSession),
    "_log_data": lambda _: _turn_analyzer()._log_data is False,
    "_idle_timeout_frames": lambda _: "self._idle_timeout_frames = " in inspect.getsource(IdleFrameObserver.__init__),
    "_power_spectrogram": lambda _: (
        list(inspect.signature(_whisper_features._power_spectrogram).parameters)
        == ["waveform", "window", "frame_length", "hop_length"]
    ),
    "_in_call": lambda _: inspect.isfunction(_daily_client()._in_call),
    "_leave": lambda _: inspect.iscoroutinefunction(_daily_client()._leave),
    "_register_event_handler": lambda _: (
        list(inspect.signature(BaseObject._register_event_handler).parameters) == ["self", "event_name", "sync"]
    ),
}


@pytest.mark.parametrize("name", PINNED)
def test_what_is_used_beyond_the_interface_is_there(name: str, worker: PipelineWorker) -> None:
    """Each private part of Pipecat that the session uses exists, and looks as it did."""
    assert PINNED[name](worker)


def test_nothing_else_is_used_beyond_the_interface() -> None:
    """A private part of somebody else's object that the runner's source names is in the table above."""
    used = {
        name
        for path in sorted((ROOT / "services/runner/src/greenroom/runner/session").rglob("*.py"))
        for name in _private(ast.parse(path.read_text()))
    }
    assert used
    assert used - set(PINNED) == set()


def _private(tree: ast.AST) -> Iterator[str]:
    """Yield the private attributes that are taken from anything but `self` and `cls`."""
    own = {"self", "cls"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            if node.attr == "_exit" or (isinstance(node.value, ast.Name) and node.value.id in own):
                continue
            if isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "super":
                continue
            yield node.attr
