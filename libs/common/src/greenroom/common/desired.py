"""What a session's settings are to be: everything that `configure` has asked for so far, merged. Pure.

Each process of the session begins with it, so a session that is put on another runner keeps its settings, and the
version that a late writer has to beat.
"""

import hashlib
from collections.abc import Iterator
from typing import Final

import msgspec

from greenroom.common import messages
from greenroom.common.command_errors import CommandNotDone, SettingsLocked, SettingsVersionStale
from greenroom.common.commands import Configure, Scalar

# Settings with short names: what each is short for.
_SHORT: Final = {"voice": ("tts",), "model": ("llm",), "language": ("tts", "stt")}
# The services, and what is the bot's own.
KINDS: Final = ("llm", "tts", "stt")
# A prompt may be among them; the mailbox that they are kept in goes into one message.
MAX_BYTES: Final = 128 * 1024
_DIGEST_BYTES: Final = 16


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that were asked for, and taken, up to a version; 0: none."""

    version: int = 0
    # Of the last change: the same version with the same content is the same change.
    digest: str = ""
    # The key that asked for it.
    by: str = ""
    llm: dict[str, Scalar] = {}
    tts: dict[str, Scalar] = {}
    stt: dict[str, Scalar] = {}
    mode: str | None = None
    values: dict[str, Scalar] = {}
    # Held against changes without `lock`: `tts.voice`, `mode`, `values.topic`, ….
    locked: tuple[str, ...] = ()


def repeats(desired: Desired, wanted: Configure) -> bool:
    """Tell whether a change is the last one, once more."""
    return wanted.version == desired.version and _digest(wanted) == desired.digest


def merged(desired: Desired, wanted: Configure, by: str) -> Desired:
    """Return what is desired after a change, sent with the key `by`.

    Raises:
        SettingsVersionStale: its version isn't higher than the present one.
        SettingsLocked: it says nothing of `lock`, and changes what is held.
        CommandNotDone: together it would be more than is kept.
    """
    if wanted.version <= desired.version:
        raise SettingsVersionStale(f"Version {desired.version} came before.")
    named = set(_named(wanted))
    held = named.intersection(desired.locked)
    if held and wanted.lock is msgspec.UNSET:
        raise SettingsLocked(f"Held: {', '.join(sorted(held))}.")
    locked = named.union(desired.locked) if wanted.lock is True else set(desired.locked) - named
    settings = by_kind(wanted)
    after = Desired(
        version=wanted.version,
        digest=_digest(wanted),
        by=by,
        llm=desired.llm | settings.get("llm", {}),
        tts=desired.tts | settings.get("tts", {}),
        stt=desired.stt | settings.get("stt", {}),
        mode=desired.mode if wanted.mode is None else wanted.mode,
        values=desired.values | wanted.values,
        locked=tuple(sorted(locked)),
    )
    if len(messages.encode(after)) > MAX_BYTES:
        raise CommandNotDone(f"A session's settings have {MAX_BYTES} bytes at most, all together.")
    return after


def as_change(desired: Desired) -> Configure:
    """Return the one change that makes settings nobody has touched the desired ones."""
    return Configure(
        version=desired.version,
        llm=desired.llm,
        tts=desired.tts,
        stt=desired.stt,
        mode=desired.mode,
        values=desired.values,
    )


def by_kind(wanted: Configure) -> dict[str, dict[str, Scalar]]:
    """Return what is to be set, by kind of service; short names go before long ones."""
    found: dict[str, dict[str, Scalar]] = {kind: dict(getattr(wanted, kind)) for kind in KINDS}
    for name, kinds in _SHORT.items():
        value: str | None = getattr(wanted, name)
        if value is not None:
            for kind in kinds:
                found[kind][name] = value
    return {kind: values for kind, values in found.items() if values}


def _named(wanted: Configure) -> Iterator[str]:
    """Iterate over what a change sets, by the names that are held."""
    for group, settings in {**by_kind(wanted), "values": wanted.values}.items():
        yield from (f"{group}.{name}" for name in settings)
    if wanted.mode is not None:
        yield "mode"


def _digest(wanted: Configure) -> str:
    return hashlib.sha256(messages.encode(wanted)).hexdigest()[: 2 * _DIGEST_BYTES]
