"""What is loaded once and shared by all session processes."""

import importlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import onnxruntime
import pytest
from httpx._transports import default as httpx_transport
from pipecat.audio.vad.silero import SileroVADAnalyzer

from greenroom.runner import warmup


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
