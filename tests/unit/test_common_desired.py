"""What a session's settings are to be: changes merged, held, and told apart."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.common import desired, messages
from greenroom.common.command_errors import CommandNotDone, SettingsLocked, SettingsVersionStale
from greenroom.common.commands import Configure
from greenroom.common.desired import Desired
from greenroom.common.errors import GreenroomError

_NAMES = st.sampled_from(["voice", "model", "language", "speed"])
_VALUES = st.sampled_from(["a", "b", 1, 2.5, True, None])
_SETTINGS = st.dictionaries(_NAMES, _VALUES, max_size=2)
_WORDS = st.none() | st.sampled_from(["a", "b"])
CHANGES = st.builds(
    Configure,
    version=st.integers(1, 6),
    voice=_WORDS,
    model=_WORDS,
    language=_WORDS,
    mode=_WORDS,
    llm=_SETTINGS,
    tts=_SETTINGS,
    stt=_SETTINGS,
    values=_SETTINGS,
    lock=st.sampled_from([msgspec.UNSET, msgspec.UNSET, True, False]),
)


def settings(change: Configure) -> dict[str, Any]:
    """Return what a change sets, by the names that are held."""
    groups = {**desired.by_kind(change), "values": change.values}
    named = {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
    return named | ({} if change.mode is None else {"mode": change.mode})


@given(st.lists(CHANGES, max_size=12))
def test_once_is_as_good_as_one_after_the_other(changes: list[Configure]) -> None:
    """What the next process applies at once is what the last one had from all changes, in their order."""
    kept, now = Desired(), dict[str, Any]()
    for change in changes:
        try:
            kept = desired.merged(kept, change, "key")
        except GreenroomError:
            continue
        now |= settings(change)
        assert settings(desired.as_change(kept)) == now
        assert desired.as_change(kept).version == change.version
        assert desired.repeats(kept, change)
    assert messages.decode(messages.encode(kept), Desired) == kept


@given(st.lists(CHANGES, max_size=12))
def test_versions_grow_and_what_is_held_stays(changes: list[Configure]) -> None:
    """A change is taken if its version is higher and nothing it names is held, or it says so; else nothing changes."""
    kept = Desired()
    for change in changes:
        held = set(kept.locked) & settings(change).keys()
        if change.version <= kept.version:
            with pytest.raises(SettingsVersionStale):
                desired.merged(kept, change, "key")
            continue
        if held and change.lock is msgspec.UNSET:
            with pytest.raises(SettingsLocked) as refused:
                desired.merged(kept, change, "key")
            assert all(name in refused.value.detail for name in held)
            continue
        after = desired.merged(kept, change, "key")
        locked = set(kept.locked)
        if change.lock is True:
            locked |= settings(change).keys()
        elif change.lock is False:
            locked -= settings(change).keys()
        assert (after.version, after.by, set(after.locked)) == (change.version, "key", locked)
        kept = after


def test_the_same_version_with_other_content_is_another_change() -> None:
    """Only the same version with the same content is the change that was."""
    kept = desired.merged(Desired(), Configure(version=2, voice="anna"), "key")
    assert desired.repeats(kept, Configure(version=2, voice="anna"))
    assert not desired.repeats(kept, Configure(version=2, voice="bert"))
    assert not desired.repeats(kept, Configure(version=3, voice="anna"))


def test_a_short_name_is_the_long_one() -> None:
    """Whichever a change is made by, the later one wins."""
    kept = desired.merged(Desired(), Configure(version=1, voice="anna", language="de"), "key")
    kept = desired.merged(kept, Configure(version=2, tts={"voice": "bert"}), "key")
    assert (kept.tts, kept.stt) == ({"voice": "bert", "language": "de"}, {"language": "de"})


def test_settings_are_bounded_together() -> None:
    """Change by change they don't outgrow what is kept."""
    kept = Desired()
    for version in range(1, 14):
        kept = desired.merged(kept, Configure(version=version, values={f"v{version}": "x" * 10_000}), "key")
    assert desired.MAX_BYTES - 10_000 < len(messages.encode(kept)) <= desired.MAX_BYTES
    with pytest.raises(CommandNotDone):
        desired.merged(kept, Configure(version=14, values={"more": "x" * 12_000}), "key")
