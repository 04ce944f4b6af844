"""A process that has imported the recorder and the storage, and forks one of them for each line that it reads.

A line is `{"kind", "env", "log", "argument"}`, the answer the pid of a process of its own: what it does from there on
is what the command would do, but for the second of a core that importing takes. All die with this one, and this one
with its standard input.
"""

import ctypes
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIEnvironment

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
from werkzeug.test import EnvironBuilder, run_wsgi_app
from werkzeug.wrappers import Request

from greenroom.common import topology
from greenroom.recorder import __main__ as recorder
from greenroom.recorder import seal
from tests.support.recorder_world import quick_topology

_PR_SET_PDEATHSIG: Final = 1
# What couldn't be sealed is tried again sooner than after the 10 s of the product.
_SCAN_S: Final = 1.0
_CHANGES: Final = frozenset({"PUT", "POST", "DELETE"})
_OK: Final = "2"


class DurableS3:
    """moto, which forgets all when it dies, made durable: a change is answered once it is in a journal.

    Args:
        journal: where the requests are that have changed something; they are played again first.
    """

    def __init__(self, journal: Path) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        # A line that a kill cut short was never answered.
        lines = [line for line in _lines(journal) if line.endswith(b"\n")]
        for line in lines:
            again = json.loads(line)
            body = bytes.fromhex(again.pop("body"))
            run_wsgi_app(self._app, EnvironBuilder(**again, data=body).get_environ(), buffered=True)
        self._journal = journal.open("ab", buffering=0)
        self._journal.truncate(sum(map(len, lines)))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        request = Request(environ)
        body = request.get_data()
        environ["wsgi.input"] = io.BytesIO(body)
        with self._lock:
            chunks, status, headers = run_wsgi_app(self._app, environ, buffered=True)
            if request.method in _CHANGES and status.startswith(_OK):
                again: dict[str, Any] = {
                    "path": request.path,
                    "method": request.method,
                    "query_string": request.query_string.decode(),
                    "headers": [pair for pair in request.headers if pair[0] != "Content-Length"],
                    "base_url": request.host_url,
                    "body": body.hex(),
                }
                self._journal.write(json.dumps(again).encode() + b"\n")
        start_response(status, headers.to_wsgi_list())
        return chunks


def _lines(journal: Path) -> list[bytes]:
    return journal.read_bytes().splitlines(keepends=True) if journal.exists() else []


def _recorder(_: str) -> None:
    topology.CONSUMERS = quick_topology()
    seal.SCAN_S = _SCAN_S
    recorder.main()


def _storage(argument: str) -> None:
    port, _, journal = argument.partition(" ")
    make_server("127.0.0.1", int(port), DurableS3(Path(journal)), threaded=True).serve_forever()


_KINDS: Final[dict[str, Callable[[str], None]]] = {"recorder": _recorder, "storage": _storage}


def _child(order: dict[str, Any]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((nothing, log, log)):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(order["env"])
    _KINDS[order["kind"]](order["argument"])


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    """Fork until standard input ends."""
    # Nobody waits for the children: the kernel is to take them away at once.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _say("ready")
    for line in sys.stdin.buffer:
        if not (pid := os.fork()):
            try:
                _child(json.loads(line))
            finally:
                os._exit(1)
        _say(str(pid))


if __name__ == "__main__":
    main()
