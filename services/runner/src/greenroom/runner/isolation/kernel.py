"""System calls that Python has no functions for: prctl, capset and Landlock.

The numbers are those of the kernel's generic table, which x86-64 and arm64 share for everything here but `capset`.
"""

import ctypes
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522
_SYS_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_SYS_LANDLOCK_CREATE_RULESET: Final = 444
_SYS_LANDLOCK_ADD_RULE: Final = 445
_SYS_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_CREATE_RULESET_VERSION: Final = 1
_LANDLOCK_RULE_PATH_BENEATH: Final = 1
_ACCESS_FS_READ_FILE: Final = 1 << 2
_ACCESS_FS_MAKE_BLOCK: Final = 1 << 11
_SCOPE_ABSTRACT_UNIX_SOCKET: Final = 1 << 0
_SCOPE_SIGNAL: Final = 1 << 1
# The version of Landlock from which on signals can be kept inside a domain.
SCOPES_FROM: Final = 6

_libc = ctypes.CDLL(None, use_errno=True)


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def prctl(option: int, value: int) -> int:
    """Have the kernel change how this process is treated, by `prctl`.

    Raises:
        OSError: it was refused.
    """
    return _checked(_libc.prctl(option, value, 0, 0, 0))


def no_new_privileges() -> None:
    """Let neither this process nor any it starts gain privileges by executing a file (setuid, capabilities)."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def set_dumpable(dumpable: bool) -> None:  # noqa: FBT001 a switch
    """Say whether others of the same user may trace this process and read its memory and environment.

    Forks inherit it; a program that is executed is dumpable again.
    """
    prctl(_PR_SET_DUMPABLE, int(dumpable))


def dumpable() -> bool:
    """Return whether it is so for this process."""
    return prctl(_PR_GET_DUMPABLE, 0) == 1


def set_name(name: str) -> None:
    """Have this process listed by another name than that of its program; the kernel keeps 15 bytes of it."""
    _checked(_libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0))


def drop_capabilities() -> bool:
    """Give up all capabilities; return False where that isn't known how to do (another architecture)."""
    number = _SYS_CAPSET.get(platform.machine())
    if number is None:
        return False
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable, for the lower and the upper 32.
    _checked(_libc.syscall(number, header, (ctypes.c_uint32 * 6)()))
    return True


def landlock_version() -> int:
    """Return the version of Landlock's interface; 0: this kernel hasn't got it, or it is switched off."""
    try:
        return _checked(
            _libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_CREATE_RULESET_VERSION)
        )
    except OSError:
        return 0


def make_ruleset(version: int, readable: Iterable[Path] | None) -> int:
    """Make the rules of a Landlock domain; return their file descriptor.

    Whoever is in a domain can't trace processes outside it, nor read their memory or environment, whatever its user
    and capabilities are; from version 6 on it can't send them signals either.

    Args:
        version: of Landlock's interface here.
        readable: below which paths files may be read, where not all may; None: all. What is gone by now is left out.

    Raises:
        OSError: the kernel refused.
    """
    attributes = _RulesetAttributes(
        # A domain has to restrict something: nobody in a session makes block devices.
        handled_access_fs=_ACCESS_FS_MAKE_BLOCK | (0 if readable is None else _ACCESS_FS_READ_FILE),
        scoped=_SCOPE_SIGNAL | _SCOPE_ABSTRACT_UNIX_SOCKET if version >= SCOPES_FROM else 0,
    )
    # Older kernels know a shorter structure.
    size = ctypes.sizeof(attributes) if version >= SCOPES_FROM else ctypes.sizeof(ctypes.c_uint64)
    ruleset = _checked(
        _libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
    )
    for path in readable or ():
        _allow_reading(ruleset, path)
    return ruleset


def enter_domain(ruleset: int) -> None:
    """Put this thread, and all that come of it, into a new domain of these rules, for ever.

    Raises:
        OSError: the kernel refused (it wants `no_new_privileges` first).
    """
    _checked(_libc.syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)))


def _allow_reading(ruleset: int, path: Path) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rule = _PathBeneath(allowed_access=_ACCESS_FS_READ_FILE, parent_fd=parent)
        _checked(
            _libc.syscall(
                _SYS_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint32(0)
            )
        )
    finally:
        os.close(parent)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
