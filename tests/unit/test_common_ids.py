"""Identifiers."""

import time
import uuid

import pytest

from greenroom.common.ids import derived_id, is_uuid, uuid7


def test_a_uuid7_is_what_rfc_9562_says() -> None:
    """Version 7, variant 10, 36 characters in lower case, and the milliseconds of its making in front."""
    before = time.time_ns() // 1_000_000
    text = uuid7()
    after = time.time_ns() // 1_000_000
    value = uuid.UUID(text)
    assert str(value) == text
    assert (value.version, value.variant) == (7, uuid.RFC_4122)
    assert before <= value.int >> 80 <= after


def test_ids_sort_by_the_time_they_were_made() -> None:
    """A later millisecond gives a later id, as text."""
    ids: list[str] = []
    for _ in range(5):
        ids.append(uuid7())
        time.sleep(0.002)
    assert ids == sorted(ids)


def test_no_two_ids_are_the_same() -> None:
    """The random part is all that tells those of one millisecond apart, and all of its bits are used."""
    ids = [uuid.UUID(uuid7()).int for _ in range(5000)]
    assert len(set(ids)) == len(ids)
    random_bits = [n for n in range(76) if n not in {62, 63}]
    for bit in random_bits:
        assert {value >> bit & 1 for value in ids} == {0, 1}, f"bit {bit} never changes"


def test_a_derived_id_is_the_same_for_ever() -> None:
    """A message that is published again after a crash, by whichever release, must be recognised."""
    assert derived_id("recording_saved", "s1") == "9efa45fa-9439-5bb9-b14d-083e30cb8caa"
    assert derived_id("recording_saved", "s2") != derived_id("recording_saved", "s1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("018f4e9e-7c3a-7cc0-8f00-1b2c3d4e5f60", True),
        ("018F4E9E-7C3A-7CC0-8F00-1B2C3D4E5F60", False),
        ("018f4e9e7c3a7cc08f001b2c3d4e5f60", False),
        ("{018f4e9e-7c3a-7cc0-8f00-1b2c3d4e5f60}", False),
        ("urn:uuid:018f4e9e-7c3a-7cc0-8f00-1b2c3d4e5f60", False),
        ("", False),
        ("not an id", False),
    ],
)
def test_only_the_canonical_form_is_an_id(text: str, expected: bool) -> None:  # noqa: FBT001 - a table of cases
    """One id has one spelling, so that it can be compared as text."""
    assert is_uuid(text) is expected
