"""What is loaded once and shared by all session processes."""

import importlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import httpx
import httpx2
import onnxruntime
import openai
import pytest
from httpx._transports import default as httpx_transport
from pipecat.audio.vad.silero import SileroVADAnalyzer

from greenroom.runner import warmup, zygote_process


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The sharing class in the place of onnxruntime's, for the time of the test."""
    monkeypatch.setattr(onnxruntime, "InferenceSession", onnxruntime.InferenceSession)
    warmup.share_models()
    return onnxruntime.InferenceSession


def silero() -> Any:
    """A VAD's ONNX session."""
    return SileroVADAnalyzer(sample_rate=16_000)._model.session


def test_a_model_is_loaded_once(shared: Any) -> None:
    """Two analyzers of one model share one ONNX session, which is still one by type."""
    first, second = silero(), silero()
    assert first is second
    assert isinstance(first, shared)


def test_analyzers_that_share_a_model_do_not_share_what_they_heard(shared: Any) -> None:
    """What one analyzer hears doesn't change what another makes of the same audio."""
    del shared
    loud, window = os.urandom(1024), bytes(1024)
    busy, first, second = (SileroVADAnalyzer(sample_rate=16_000) for _ in range(3))
    for analyzer in (busy, first, second):
        analyzer.set_sample_rate(16_000)
    before = first.voice_confidence(window)
    for _ in range(20):
        busy.voice_confidence(loud)
    assert second.voice_confidence(window) == before
    assert busy.voice_confidence(window) != before


def test_other_options_are_another_session(shared: Any) -> None:
    """A session with options of its own isn't shared with those that have others; what was left open becomes frugal."""
    path = silero()._model_path
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    assert shared(path, sess_options=options) is not silero()
    assert shared(path, sess_options=options).get_session_options().intra_op_num_threads == 2
    plain = shared(path).get_session_options()
    assert (plain.intra_op_num_threads, plain.enable_cpu_mem_arena) == (1, False)


def test_a_large_model_takes_its_memory_at_once_and_gives_it_back() -> None:
    """A run of the judge of turns asks for a few pieces instead of thousands of pages, and keeps nothing of them."""
    code = """
import resource
import numpy, psutil
from greenroom.runner import warmup
warmup.share_models()
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
session = LocalSmartTurnAnalyzerV3()._session
features = {"input_features": numpy.zeros((1, 80, 800), numpy.float32)}
session.run(None, features)
rss, faults = psutil.Process().memory_info().rss, resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    session.run(None, features)
print(psutil.Process().memory_info().rss - rss, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) // 5)
"""
    command = [sys.executable, "-c", code]
    told = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **zygote_process._ENVIRONMENT}
    ).stdout
    kept_bytes, faults = map(int, told.split()[-2:])
    # An arena that keeps all has 29 MB more, and without one there are 13,300 faults of 4 kB each time.
    assert kept_bytes < 8e6
    assert faults < 8000


def test_what_packages_import_late_is_there_before_a_caller_speaks() -> None:
    """What OpenAI's client and its transport import with their first request is imported by the zygote."""
    code = """
import sys
import anyio, openai
from greenroom.runner import warmup
late = [part for parts in warmup._LATE_PARTS.values() for part in parts]
assert not any(part in sys.modules for part in late), late
warmup.import_late_parts()
assert all(part in sys.modules for part in late), late
client = openai.AsyncOpenAI(api_key="none")
before = set(sys.modules)
client.chat.completions, client.audio.transcriptions, client.audio.speech
assert set(sys.modules) == before, set(sys.modules) - before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_packages_that_no_bot_imports_stay_away() -> None:
    """Nothing is imported for the sake of bots that aren't there."""
    code = """
import sys
from greenroom.runner import warmup
warmup.import_late_parts()
assert "openai" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_first_requests_to_openai_have_been_made_before() -> None:
    """After the rehearsal no program is started, no schema built, nothing imported for a request; no thread is left."""
    code = """
import asyncio, subprocess, sys, threading
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from pydantic._internal import _generate_schema
from greenroom.runner import openai_rehearsal, openai_shortcuts
openai_shortcuts.take_shortcuts()
late = []
def note(owner, name):
    kept = getattr(owner, name)
    def noting(*args, **kwargs):
        late.append(name)
        return kept(*args, **kwargs)
    setattr(owner, name, noting)
note(subprocess, "Popen")
note(_generate_schema.GenerateSchema, "generate_schema")
asyncio.run(openai_rehearsal.rehearse())
assert {"Popen", "generate_schema"} == set(late), late
# For servers that send what the types don't have, too.
assert ChoiceDelta.__pydantic_complete__
assert threading.enumerate() == [threading.main_thread()]
late.clear()
before = set(sys.modules)
asyncio.run(openai_rehearsal.rehearse())
assert late == []
assert set(sys.modules) == before, set(sys.modules) - before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_zygote_makes_them_and_takes_the_shortcuts() -> None:
    """What is forked from it finds all that, if a bot has brought OpenAI's client along."""
    code = """
import openai
from greenroom.runner import openai_shortcuts, preload
from greenroom.runner.forkwire import Prepare
from greenroom.runner.settings import RunnerSettings
assert not openai.types.chat.ChatCompletionChunk.__pydantic_complete__
order = Prepare(settings=RunnerSettings(), run="json:loads", bots=())
preload.preload(order, lambda _: None, tuple)
assert openai._base_client.construct_type is openai_shortcuts.construct_type
assert openai.types.chat.ChatCompletionChunk.__pydantic_complete__
"""
    environment = {**os.environ, **zygote_process._ENVIRONMENT}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=environment)


def test_sharing_twice_is_sharing_once(shared: Any) -> None:
    """A second call changes nothing."""
    warmup.share_models()
    assert onnxruntime.InferenceSession is shared


def test_clients_share_the_default_tls_context_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that verify as usual share a context; one that verifies nothing has its own, and changes no other."""
    monkeypatch.setattr(httpx_transport, "create_ssl_context", httpx.create_ssl_context)
    warmup.share_tls_contexts()
    first, second = (httpx.HTTPTransport()._pool._ssl_context for _ in range(2))
    careless = httpx.HTTPTransport(verify=False)._pool._ssl_context
    assert first is second
    assert first is not None
    assert careless is not None
    assert careless is not first
    assert first.check_hostname
    assert not careless.check_hostname


async def test_openais_client_over_aiohttp_shares_the_context_of_the_usual_one() -> None:
    """A session's client costs no certificates, whichever way it speaks HTTP."""
    warmup.share_tls_contexts()
    async with openai.DefaultAioHttpClient() as first, openai.DefaultAioHttpClient() as second:
        contexts = {id(cast("Any", client)._transport.ssl_context) for client in (first, second)}
    assert contexts == {id(httpx2.AsyncHTTPTransport()._pool._ssl_context)}


def test_idle_pool_threads_are_ended_and_others_are_named() -> None:
    """Threads of a pool that nobody holds any more end; a thread that works on is named."""
    before = set(warmup.join_threads(0.5))
    ThreadPoolExecutor(1, "idle").submit(int).result()
    assert set(warmup.join_threads(1.0)) == before
    release = threading.Event()
    worker = threading.Thread(target=release.wait, name="busy")
    worker.start()
    try:
        assert set(warmup.join_threads(0.1)) == {*before, "busy"}
    finally:
        release.set()
        worker.join()


def test_a_module_that_is_missing_is_not_searched_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The import fails as before, for good; one that is there stays what it is."""
    monkeypatch.setattr(warmup, "_ASKED_FOR", ("no_such_module_anywhere", "json"))
    monkeypatch.delitem(sys.modules, "no_such_module_anywhere", raising=False)
    warmup.settle_missing_modules()
    searched: list[str] = []
    monkeypatch.setattr(sys, "meta_path", [_Seeker(searched), *sys.meta_path])
    try:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("no_such_module_anywhere")
    finally:
        sys.modules.pop("no_such_module_anywhere", None)
    assert searched == []
    assert importlib.import_module("json").loads("1") == 1


class _Seeker:
    def __init__(self, searched: list[str]) -> None:
        self._searched = searched

    def find_spec(self, name: str, *_: object) -> None:
        self._searched.append(name)
