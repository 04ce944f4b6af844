"""What is loaded once, in the zygote, and then shared by every session process.

Models and TLS contexts are the two things that every Pipecat session would otherwise load for itself: 35 MB and 50 ms.
Both are read-only once they are loaded, so forks can use those of their parent.
"""

import contextlib
import ctypes
import functools
import gc
import importlib
import importlib.util
import os
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import structlog

_log = structlog.get_logger()

# HTTP clients that build a TLS context for each client object; the module that looks `create_ssl_context` up. OpenAI's
# client over aiohttp looks in `httpx2`.
_HTTP_CLIENTS: Final = ("httpx._transports.default", "httpx2._transports.default", "httpx2")
_POLL_S: Final = 0.005
# Smart Turn has 8 MB, Silero 2.
_LARGE_BYTES: Final = 4 << 20
# Of an arena, at the end of a run.
_GIVE_BACK: Final = "memory.enable_memory_arena_shrinkage"
# What packages import when it is first asked for: else in each session, in the caller's first turn.
_LATE_PARTS: Final = {
    "anyio": ("anyio._backends._asyncio",),
    "openai": (
        "openai.resources.audio.audio",
        "openai.resources.audio.speech",
        "openai.resources.audio.transcriptions",
        "openai.resources.chat.chat",
        "openai.resources.chat.completions.completions",
    ),
}
_ASKED_FOR: Final = ("importlib_resources",)

type TlsKey = tuple[bool, str | None, str | None]


def share_models() -> None:
    """Make every `onnxruntime.InferenceSession` of one model file with the same options one and the same object.

    A session has no state of its own between two runs (what Silero remembers is kept outside and passed in), and
    `run` may be called from several threads. Options that were left open become one thread: threads don't survive a
    fork. A small model gets no memory arena, which would keep what it once had. A large one has what it needs for a run
    laid out in one: block by block the kernel would hand it 50 MB of pages, a third of what the run takes. Afterwards
    it gives them back.
    """
    runtime: Any = importlib.import_module("onnxruntime")
    if not issubclass(runtime.InferenceSession, _Shared):
        runtime.InferenceSession = _shared_type(runtime.InferenceSession, runtime.SessionOptions, runtime.RunOptions)


class _Shared:
    """Marks the class that `share_models` puts in place."""


def _shared_type(base: Any, options_type: Any, run_options_type: Any) -> type:
    built: dict[tuple[object, ...], Any] = {}

    class SharedInferenceSession(_Shared, base):
        gives_back = True

        def __new__(cls, model: object, sess_options: Any = None, *args: object, **kwargs: object) -> Any:
            options = _frugal(options_type() if sess_options is None else sess_options)
            key = _model_key(model, options, *args, **kwargs)
            if key is None:
                return super().__new__(cls)
            if key not in built:
                built[key] = super().__new__(cls)
            return built[key]

        def __init__(self, model: object, sess_options: Any = None, *args: object, **kwargs: object) -> None:
            if not getattr(self, "_greenroom_loaded", False):
                options = _frugal(options_type() if sess_options is None else sess_options)
                gives_back = options.enable_cpu_mem_arena and _is_large(model)
                options.enable_cpu_mem_arena = gives_back
                base.__init__(self, model, options, *args, **kwargs)
                self._run_options: Any = None
                if gives_back:
                    self._run_options = run_options_type()
                    self._run_options.add_run_config_entry(_GIVE_BACK, "cpu:0")
                self._greenroom_loaded = True

        def run(self, output_names: object, input_feed: object, run_options: Any = None) -> Any:
            usual = self._run_options if self.gives_back else None
            return base.run(self, output_names, input_feed, run_options or usual)

    SharedInferenceSession.__name__ = SharedInferenceSession.__qualname__ = base.__name__
    return SharedInferenceSession


def keep_arenas() -> None:
    """Have large models in this process keep the memory of a run for the next one."""
    runtime: Any = importlib.import_module("onnxruntime")
    runtime.InferenceSession.gives_back = False


def _frugal(options: Any) -> Any:
    options.intra_op_num_threads = options.intra_op_num_threads or 1
    options.inter_op_num_threads = options.inter_op_num_threads or 1
    return options


def _is_large(model: object) -> bool:
    return isinstance(model, str | Path) and Path(model).stat().st_size >= _LARGE_BYTES


def _model_key(model: object, options: Any, *args: object, **kwargs: object) -> tuple[object, ...] | None:
    if not isinstance(model, str | Path):
        return None
    path = _real(str(model))
    shape = (options.intra_op_num_threads, options.inter_op_num_threads, options.graph_optimization_level)
    return (path, shape, repr(args), repr(sorted(kwargs.items())))


@functools.lru_cache(maxsize=256)
def _real(path: str) -> str:
    return os.path.realpath(path)


def settle_missing_modules() -> None:
    """Answer at once that a module isn't there which Silero's analyzer asks for each time that one is made.

    Python remembers the modules it has found, and looks along the whole path for those it hasn't: 0.15 ms of a start.
    """
    for name in _ASKED_FOR:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = None  # pyright: ignore[reportArgumentType] - what the import system takes for "none"


def import_late_parts() -> None:
    """Import what packages that are there would import later, of those that bots are made with."""
    for package, parts in _LATE_PARTS.items():
        if package in sys.modules:
            for part in parts:
                # Another version may have it elsewhere; then it comes as late as ever.
                with contextlib.suppress(ImportError):
                    importlib.import_module(part)


def share_tls_contexts() -> None:
    """Let all HTTP clients of a process that verify with the usual certificates use one TLS context.

    Only the default is shared. A caller that brings its own certificates, or verifies nothing, gets a context of
    its own as ever: changing that one must not change what others verify.
    """
    for name in _HTTP_CLIENTS:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        _share_default_context(module)


def _share_default_context(module: ModuleType) -> None:
    create: Any = module.create_ssl_context
    if getattr(create, "shares_default", False):
        return
    shared = _sharing(create)
    module.create_ssl_context = shared  # pyright: ignore[reportAttributeAccessIssue]
    shared()


@functools.cache
def _sharing(create: Any) -> Callable[..., ssl.SSLContext]:
    built: dict[TlsKey, ssl.SSLContext] = {}

    def shared(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:  # noqa: FBT001, FBT002 the signature is theirs
        if verify is not True or cert is not None:
            return create(verify=verify, cert=cert, trust_env=trust_env)
        key = (trust_env, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        if key not in built:
            built[key] = create(verify=True, cert=None, trust_env=trust_env)
        return built[key]

    shared.shares_default = True  # pyright: ignore[reportFunctionMemberAccess]
    return shared


def join_threads(timeout_s: float) -> tuple[str, ...]:
    """Let idle pool threads end, and return the names of the threads that remain beside the calling one.

    A pool whose owner is gone ends its threads when it is collected. Threads that libraries have started on their own
    never end; they are named as the kernel has them.
    """
    if not _other_threads():
        return ()
    gc.collect()
    deadline = time.monotonic() + timeout_s
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
    # A thread that has been joined is seen by the kernel for a moment longer.
    while (names := _other_threads()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return names


def _other_threads() -> tuple[str, ...]:
    own, known = threading.get_native_id(), {thread.native_id: thread.name for thread in threading.enumerate()}
    names: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        number = int(task.name)
        if number != own:
            with contextlib.suppress(OSError):  # it has ended meanwhile
                names.append(known.get(number) or (task / "comm").read_text().strip())
    return tuple(sorted(names))


def settle(collect: Callable[[], int] = gc.collect) -> None:
    """Put everything that is alive out of reach of the garbage collector.

    A collection in a child writes to the header of every object it looks at, and so copies every page: without this,
    one full collection takes a session process from 4 to 49 MB of its own.
    """
    gc.disable()
    collect()
    gc.freeze()
    _give_back()


def _give_back() -> None:
    """Give pages that malloc holds free back to the kernel, which it does by itself for the end of the heap only.

    What was practised leaves holes: 1.6 MB of a process that stands by.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
