"""A bot that looks at itself, and at what it can reach, and writes down what it sees.

`body`: `report` (file to write), `pids` (processes to reach out for), `files` (to read), `made` (files to write and
read), `secrets` (names to look up), `stay_s`. It never runs a pipeline.
"""

import asyncio
import ctypes
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipecat.runner.types import RunnerArguments

_PTRACE_ATTACH = 16
_PR_GET_DUMPABLE = 3
_libc = ctypes.CDLL(None, use_errno=True)


async def bot(runner_args: RunnerArguments) -> None:
    """Look."""
    body: dict[str, Any] = runner_args.body or {}
    report = Path(body["report"])
    draft = report.with_suffix(".draft")
    draft.write_text(json.dumps(_look(body)), encoding="utf-8")
    draft.rename(report)
    await asyncio.sleep(body.get("stay_s", 0))


async def other(runner_args: RunnerArguments) -> None:
    """Look, as another bot."""
    await bot(runner_args)


def _look(body: dict[str, Any]) -> dict[str, Any]:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    umask = os.umask(0)
    os.umask(umask)
    return {
        "pid": os.getpid(),
        "group": os.getpgid(0),
        "session": os.getsid(0),
        "environment": sorted(os.environ),
        "values": {name: os.environ.get(name) for name in body.get("secrets", ())},
        "initial_environment": Path("/proc/self/environ").read_bytes().decode(errors="replace")
        if os.getuid() == 0
        else "",
        "no_new_privileges": status["NoNewPrivs"].strip(),
        "capabilities": [status[name].strip() for name in ("CapInh", "CapPrm", "CapEff")],
        "dumpable": _libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0),
        "umask": umask,
        "limits": {
            name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in ("CORE", "NOFILE", "FSIZE")
        },
        "files": sorted(_open_files()),
        "oom_score": int(Path("/proc/self/oom_score_adj").read_text()),
        "reached": {str(pid): _reach(pid) for pid in body.get("pids", ())},
        "made": {path: _try(lambda path=path: _make(Path(path))) for path in body.get("made", ())},
        "read": {path: _try(Path(path).read_text) for path in body.get("files", ())},
    }


def _make(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("made", encoding="utf-8")
    path.read_text(encoding="utf-8")


def _open_files() -> list[str]:
    found: list[str] = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(entry.readlink()).partition("[")[0].partition(":")[0])
        except OSError:
            continue
    return found


def _reach(pid: int) -> dict[str, str]:
    return {
        "environment": _try((Path("/proc") / str(pid) / "environ").read_bytes),
        "memory": _try(lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))),
        "files": _try(lambda: os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 as above
        "signal": _try(lambda: os.kill(pid, signal.SIGCONT)),
        "trace": _try(lambda: _trace(pid)),
    }


def _trace(pid: int) -> None:
    _libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    if _libc.ptrace(_PTRACE_ATTACH, pid, None, None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _try(call: Callable[[], object]) -> str:
    """Return "done", or why it couldn't be."""
    try:
        call()
    except OSError as error:
        return type(error).__name__
    return "done"
