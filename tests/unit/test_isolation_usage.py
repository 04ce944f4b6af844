"""What a session uses, read from procfs: with processes of this test, and with one that hides from its like."""

import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from greenroom.runner.isolation import kernel
from greenroom.runner.isolation.usage import Meter, Usage, hand_over

_MB = 1024 * 1024
_NOBODY = 65_534
_HOLD = "import sys, time; held = bytearray({mb} * 1024 * 1024); print('.', flush=True); time.sleep(60)"

# Two threads, three children, and one that has ended and isn't waited for.
_MANY = """
import os, subprocess, threading, time
for _ in range(2): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
children = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
ended = subprocess.Popen(["true"])
os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
print(".", flush=True)
time.sleep(60)
"""
_TASKS = 1 + 2 + 3 + 1


@contextmanager
def forked(work: Callable[[], None]) -> Generator[int]:
    """Fork a process that does something and waits to be killed."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            time.sleep(60)
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_memory_of_children_counts() -> None:
    """What a process has started belongs to what it uses, until it is gone; a process that is gone uses nothing."""
    with subprocess.Popen([sys.executable, "-c", _HOLD.format(mb=64)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read(1)
        alone = Meter(child.pid).read()
        ours = Meter(os.getpid()).read()
        child.kill()
    assert alone is not None
    assert ours is not None
    assert alone.source == "pss"
    assert alone.processes == 1 < ours.processes
    assert 64 * _MB < alone.memory_bytes < ours.memory_bytes
    assert alone.cpu_s > 0
    assert Meter(child.pid).read() is None


def test_processes_and_threads_are_counted_as_far_as_they_matter() -> None:
    """Threads count as in a control group, and so do those that nobody has waited for; beyond `most` nobody looks."""
    with subprocess.Popen([sys.executable, "-c", _MANY], stdout=subprocess.PIPE) as many:
        assert many.stdout is not None
        many.stdout.readline()
        meter = Meter(many.pid)
        all_of_it, enough, too_many = meter.read(), meter.read(most=_TASKS + 1), meter.read(most=3)
        many.kill()
    assert all_of_it is not None
    assert enough is not None
    assert too_many is not None
    assert (all_of_it.processes, all_of_it.source) == (_TASKS, "pss")
    assert (enough.processes, enough.source) == (_TASKS, "pss")
    assert too_many.source == "rss"
    assert 3 <= too_many.processes <= _TASKS


def test_more_are_counted_where_more_are_allowed(tmp_path: Path) -> None:
    """What is measured of a session without a limit doesn't bound the count of one with a large limit."""
    for pid in range(1, 1001):
        task = tmp_path / str(pid) / "task" / str(pid)
        task.mkdir(parents=True)
        (task / "children").write_text(f"{pid + 1} " if pid < 1000 else "")
        (tmp_path / str(pid) / "statm").write_text("2 1 0 0 0 0 0\n")
    counts = {
        most: usage.processes for most in (0, 800, 2000) if (usage := Meter(1, tmp_path).read(1 << 40, most=most))
    }
    assert counts == {0: 512, 800: 800, 2000: 1000}


def test_what_is_shared_is_divided() -> None:
    """Of memory that two processes share each is charged half, where the resident size would charge it to both."""
    with mmap.mmap(-1, 64 * _MB) as shared:
        shared.write(b"x" * len(shared))
        began, done = os.pipe()

        def touch() -> None:
            assert len(bytes(shared)) == len(shared)
            os.write(done, b".")

        with forked(touch) as pid:
            os.read(began, 1)
            usage, rough = Meter(pid).read(), Meter(pid).read(exact_from=1 << 40)
        os.close(began)
        os.close(done)
    assert usage is not None
    assert rough is not None
    assert (usage.source, rough.source) == ("pss", "rss")
    assert usage.memory_bytes < rough.memory_bytes - 24 * _MB


def _hide(control: socket.socket) -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    kernel.set_dumpable(False)
    hand_over(control.fileno(), b"begun")


def test_a_process_that_hides_is_measured_by_the_file_it_hands_over() -> None:
    """Whoever has no privileges can't read the memory map of an undumpable process, but by the file that it sends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, forked(lambda: _hide(theirs)) as hidden:
        packet, [rollup], _, _ = socket.recv_fds(ours, 64, 4)
        assert packet == b"begun"
        answers, answer = os.pipe()

        def read_as_nobody() -> None:
            if os.getuid() == 0:
                os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            blind, seeing = Meter(hidden), Meter(hidden)
            seeing.take(rollup)
            os.write(answer, f"{_source(blind.read())} {_source(seeing.read())}".encode())

        with forked(read_as_nobody):
            assert os.read(answers, 64) == b"rss pss"
        os.close(answers)
        os.close(answer)
        os.close(rollup)


def _source(usage: Usage | None) -> str:
    return usage.source if usage else "gone"


def test_one_file_is_taken(tmp_path: Path) -> None:
    """A session that sends more files than one can't fill the runner's table: they are closed."""
    meter = Meter(os.getpid())
    fds = [os.open(tmp_path, os.O_RDONLY) for _ in range(3)]
    for fd in fds:
        meter.take(fd)
    os.fstat(fds[0])
    for fd in fds[1:]:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    meter.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fds[0])
